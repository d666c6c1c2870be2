"""What rows that were not run would cost: multiply-adds, and hours on machines.

Standard library only.
"""

from __future__ import annotations

import collections
import re
import statistics
from collections.abc import Mapping, Sequence

from resnet_keras.reporting import learning
from resnet_keras.reporting.experiments import Row, configuration, needed_runs
from resnet_keras.reporting.run_files import Run, hardware
from resnet_keras.reporting.standing import MEASURED, Plan, judge

# Flags that decide how many multiply-adds an image of a run costs, or how fast they are.
COSTLY = (
    "model", "image_size", "recipe", "recompute", "small_image_size", "small_image_steps",
    "precision", "optimizer", "accumulation_steps",
)  # fmt: skip

# A network or a family of them, and a precision, in another of which the speed is another.
Kind = tuple[str, str]


def hours(seconds: float) -> str:
    """Return a time in hours, as exactly as an estimate is."""
    count = seconds / 3600
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def multiply_adds(rows: Sequence[Row], plans: Mapping[str, Plan]) -> float | None:
    """Return what it costs to train all that some rows need; None where that is not known."""
    found = _plans(rows, plans)
    return sum(plan.multiply_adds for plan in found) if found else None


def hours_here(rows: Sequence[Row], runs: Sequence[Run], plans: Mapping[str, Plan]) -> str:
    """Return the same in hours, as text: at the speed of runs that were measured.

    Args:
        rows: of one experiment.
        runs: on the machine of the newest, those of a row's network and precision count for it,
            else those of such networks in that precision; "" where there are none.
        plans: by configuration.
    """
    found = _plans(rows, plans)
    families = {_family(_kind(plan)) for plan in found}
    speeds: dict[str, list[tuple[Kind, float]]] = collections.defaultdict(list)
    newest: dict[str, str] = {}
    for run in runs:
        plan, speed = plans.get(configuration(run.name)[0]), learning.speed(run)
        if plan is None or speed is None:
            continue
        if _family(_kind(plan)) not in families:
            continue
        # With other values, the plan's cost is not the run's.
        same = all(run.flags.get(name) == plan.flags.get(name) for name in COSTLY)
        if same and judge(run, plans, {other.name: other for other in runs}).status == MEASURED:
            images = plan.flags["train_steps"] * plan.flags["batch_size"]
            rate = plan.multiply_adds / images * speed.images_per_second
            machine = hardware(run)
            speeds[machine].append((_kind(plan), rate))
            since = [environment.get("since", "") for environment in run.environments]
            newest[machine] = max([newest.get(machine, ""), *since])
    if not speeds:
        return ""
    machine = max(speeds, key=lambda name: newest[name])

    seconds = 0.0
    for plan in found:
        own = [rate for kind, rate in speeds[machine] if kind == _kind(plan)]
        alike = [rate for (_, held), rate in speeds[machine] if held == plan.flags["precision"]]
        if not alike:
            return ""
        seconds += plan.multiply_adds / statistics.median(own or alike)
    return f"{hours(seconds)} h on {machine}"


def gpu_hours(rows: Sequence[Row], plans: Mapping[str, Plan]) -> str:
    """Return the same in hours on GPUs, as text; "" where that is not known."""
    found = _plans(rows, plans)
    if not found:
        return ""
    return f"{hours(3600 * sum(plan.gpu_hours for plan in found))} h on {found[0].gpus}"


def describe(row: Row, runs: Sequence[Run], plans: Mapping[str, Plan]) -> tuple[str, ...]:
    """Return what a row would cost, as texts: as such, here, and on GPUs; () if not known."""
    cost = multiply_adds([row], plans)
    if cost is None:
        return ()
    told = (f"{cost:.1e} multiply-adds", hours_here([row], runs, plans), gpu_hours([row], plans))
    return tuple(filter(None, told))


def _plans(rows: Sequence[Row], plans: Mapping[str, Plan]) -> list[Plan]:
    """Return the plans of all trainings that rows need; [] where one is missing."""
    names = [configuration(name)[0] for name in needed_runs(rows)]
    return [plans[name] for name in names] if set(names) <= set(plans) else []


def _kind(plan: Plan) -> Kind:
    return plan.flags["model"], plan.flags["precision"]


def _family(kind: Kind) -> Kind:
    """Make "cifar_resnet" of "cifar_resnet110": such networks are about equally efficient."""
    model, precision = kind
    return re.split(r"\d", model)[0], precision
