"""What a run is worth: whether it is what its configuration asks for, and how it deviates.

Standard library only. What was asked for comes in as a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_keras.reporting.experiments import STARTS_FROM, Row, configuration
from resnet_keras.reporting.run_files import Run

MEASURED, SMOKE, UNFINISHED, NOT_RUN = "measured", "smoke only", "unfinished", "not run"
UNKNOWN = "no configuration to compare with"


@dataclass(frozen=True)
class Plan:
    """Hold what a configuration asks for.

    flags: JSON-able, all of them. free: those that decide nothing of a result. training_images,
    test_images: of its data set, 0 where it is not known. scales: of each view, JSON-able.
    multiply_adds: of the whole training.
    """

    flags: Mapping[str, Any]
    free: frozenset[str]
    training_images: int
    test_images: int
    scales: Mapping[str, Sequence[int]]
    multiply_adds: float


@dataclass(frozen=True)
class Standing:
    """Tell what a number is worth: status, reasons for it, and named deviations."""

    status: str
    reasons: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = self.status + (": " if self.reasons else "") + ", ".join(self.reasons)
        return told + (f"; deviations: {', '.join(self.deviations)}" if self.deviations else "")


def judge(run: Run, plan: Plan | None) -> Standing:
    """Tell whether a run is what its configuration asks for."""
    asked = run.flags["train_steps"]
    over = run.step >= asked
    if plan is None:
        return Standing(UNKNOWN if over else UNFINISHED, () if over else (_at(run.step, asked),))
    reasons, deviations = [], []
    name, seed = configuration(run.name)
    wanted = dict(plan.flags) | ({} if seed is None else {"seed": seed})
    for flag in ("dataset", "classes"):
        if run.flags.get(flag, wanted[flag]) != wanted[flag]:
            reasons.append(f"on {_told(flag, run.flags[flag], wanted[flag])}")
    images = plan.training_images - run.flags.get("validation_images", 0)
    found = run.data.get("training_images", 0)
    if not reasons and plan.training_images and found < images:
        reasons.append(f"{found:,} of {images:,} training images")
    if asked < wanted["train_steps"]:
        reasons.append(f"{asked:,} of {wanted['train_steps']:,} steps")
    if asked > wanted["train_steps"]:
        deviations.append(_told("train_steps", asked, wanted["train_steps"]))
    start = Path(run.flags.get("init_from", "")).name
    if configuration(start)[0] != STARTS_FROM.get(name, "") if start else name in STARTS_FROM:
        deviations.append(_told("init_from", start, STARTS_FROM.get(name, "")))
    apart = {"dataset", "classes", "train_steps", "init_from", *plan.free}
    deviations += [
        _told(flag, run.flags[flag], value)
        for flag, value in wanted.items()
        if flag not in apart and run.flags.get(flag, value) != value
    ]
    if not over:
        return Standing(UNFINISHED, (_at(run.step, asked), *reasons), tuple(deviations))
    return Standing(SMOKE if reasons else MEASURED, tuple(reasons), tuple(deviations))


def worse(standing: Standing, status: str, *reasons: str) -> Standing:
    """Return a standing with another status, and reasons more."""
    return Standing(status, (*standing.reasons, *reasons), standing.deviations)


def deviating(
    standing: Standing, member: Mapping[str, Any], plan: Plan | None, row: Row
) -> Standing:
    """Add what was evaluated of a run otherwise than its row asks for."""
    wanted: dict[str, Any] = {"checkpoint": "latest", "batchnorm_statistics": "moving_average"}
    told = [
        _told(name, member[name], value)
        for name, value in wanted.items()
        if member.get(name, value) != value
    ]
    if plan and isinstance(member.get("scales"), dict):
        for view in row.views:
            found, asked = member["scales"].get(view), list(plan.scales[view])
            if found != asked:
                told.append(_told("scales", found, asked))
    return Standing(standing.status, standing.reasons, (*standing.deviations, *told))


def _at(step: int, asked: int) -> str:
    return f"at step {step:,} of {asked:,}" if step else f"no step yet of {asked:,}"


def _told(flag: str, found: Any, wanted: Any) -> str:
    return f"--{flag}={_text(found)} ({_text(wanted) or 'none'})"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
