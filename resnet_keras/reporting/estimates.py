"""What rows that were not run would cost: multiply-adds, and hours on machines.

Standard library only.
"""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence

from resnet_keras.reporting import learning
from resnet_keras.reporting.experiments import Row, configuration, needed_runs
from resnet_keras.reporting.run_files import Run, hardware
from resnet_keras.reporting.standing import MEASURED, Plan, judge
from resnet_keras.reporting.tables import hours


def multiply_adds(rows: Sequence[Row], plans: Mapping[str, Plan]) -> float | None:
    """Return what it costs to train all that some rows need; None where that is not known."""
    found = _plans(rows, plans)
    return sum(plan.multiply_adds for plan in found) if found else None


def gpu_hours(rows: Sequence[Row], plans: Mapping[str, Plan]) -> str:
    """Return the same in hours on GPUs, as text; "" where that is not known."""
    found = _plans(rows, plans)
    if not found:
        return ""
    return f"{hours(3600 * sum(plan.gpu_hours for plan in found))} h on {found[0].gpus}"


def told(row: Row, runs: Sequence[Run], plans: Mapping[str, Plan]) -> tuple[str, ...]:
    """Return what a row would cost, as texts: as such, here and on GPUs.

    Args:
        row: of an experiment.
        runs: of those that were measured, the speed is taken; the same networks on larger images
            do other multiply-adds a second, and do not count.
        plans: by configuration.
    """
    cost = multiply_adds([row], plans)
    if cost is None:
        return ()
    gpus = plans[configuration(row.runs[0])[0]].gpus
    speed = _speed([run for run in runs if _counts(run, runs, plans, gpus)], plans)
    here = [f"{hours(cost / speed[0])} h on {speed[1]}"] if speed else []
    return (f"{cost:.1e} multiply-adds", *here, gpu_hours([row], plans))


def _plans(rows: Sequence[Row], plans: Mapping[str, Plan]) -> list[Plan]:
    """Return the plans of all trainings that rows need; [] where one is missing."""
    names = [configuration(name)[0] for name in needed_runs(rows)]
    return [plans[name] for name in names] if set(names) <= set(plans) else []


def _counts(run: Run, runs: Sequence[Run], plans: Mapping[str, Plan], gpus: str) -> bool:
    plan = plans.get(configuration(run.name)[0])
    if plan is None or plan.gpus != gpus or learning.speed(run) is None:
        return False
    # What is computed twice, or on a part of the image, costs another number of multiply-adds.
    plain = not run.flags.get("recompute") and not run.flags.get("small_image_steps")
    return plain and judge(run, plans, {other.name: other for other in runs}).status == MEASURED


def _speed(runs: Sequence[Run], plans: Mapping[str, Plan]) -> tuple[float, str] | None:
    """Return multiply-adds a second over whole jobs, and the machine that most were made on."""
    speeds = collections.defaultdict(list)
    for run in runs:
        plan, found = plans[configuration(run.name)[0]], learning.speed(run)
        if found:
            images = plan.flags["train_steps"] * plan.flags["batch_size"]
            speeds[hardware(run)].append(plan.multiply_adds / images * found.images_per_second)
    if not speeds:
        return None
    machine = max(speeds, key=lambda name: len(speeds[name]))
    return statistics.median(speeds[machine]), machine
