"""Evaluations beside their run: what was made otherwise, and what the log says of the same test.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.reporting.experiments import Row
from resnet_keras.reporting.run_files import LOG, Evaluation, Run
from resnet_keras.reporting.standing import Plan, Standing, told

# Share of the images on which the log and an evaluation may differ at the same step, and never
# less than one image: other batch sizes, devices and precisions round otherwise.
AGREEING = 0.001


def deviating(
    standing: Standing,
    run: Run,
    metrics: Mapping[str, Any],
    member: Mapping[str, Any],
    plan: Plan | None,
    row: Row,
) -> Standing:
    """Add what was evaluated of a run otherwise than it or its row asks for.

    Args:
        standing: of the run.
        run: the network's.
        metrics: of the evaluation, or a record of the log.
        member: of the evaluation, which is the network's.
        plan: of the run's configuration.
        row: that the evaluation is for.
    """
    found = _otherwise(run, metrics, member)
    if metrics.get("environment", {}).get("dirty"):
        found.append("tested from a changed checkout")
    if member.get("checkpoint", "latest") != "latest":
        found.append(f"tested with {told('checkpoint', member['checkpoint'], 'latest')}")
    if plan and isinstance(member.get("scales"), dict):
        for view in row.views:
            scales, asked = member["scales"].get(view), list(plan.scales[view])
            if scales != asked:
                found.append(f"tested with {told('scales', scales, asked)}")
    return Standing(standing.status, standing.reasons, (*standing.deviations, *found))


def of_log(run: Run, evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the log's record of the test that an evaluation made again; None where it has none."""
    metrics = evaluation.metrics
    member, *others = metrics["members"]
    if metrics.get("views") != "center" or others or _otherwise(run, metrics, member):
        return None
    tests = run.of_kind(metrics.get("split", "test"))
    return next((record for record in tests if record["step"] == member.get("step")), None)


def check(run: Run) -> None:
    """Refuse evaluations that the log contradicts.

    Raises:
        InputError: where an evaluation is of a step that the log never came to, or one of the
            centre crop has other images than the log at the same step, or differs by more of them
            than rounding explains.
    """
    for evaluation in run.evaluations.values():
        step = evaluation.metrics["members"][0].get("step") or 0
        if step > run.step:
            raise InputError(
                f"{evaluation.file} is of step {step}, and {run.place / LOG} ends at "
                f"{run.step}: restore both, or evaluate again."
            )
        record = of_log(run, evaluation)
        if record is None:
            continue
        metrics = evaluation.metrics
        for name, allowed in (("images", 0), ("wrong", max(1, AGREEING * record["images"]))):
            if abs(record[name] - metrics[name]) > allowed:
                raise InputError(
                    f"{evaluation.file} has {name!r}: {metrics[name]}, and {run.place / LOG} has "
                    f"{record[name]} at the same step {record['step']}: restore both, or evaluate "
                    "again."
                )


def _otherwise(run: Run, metrics: Mapping[str, Any], member: Mapping[str, Any]) -> list[str]:
    """Return what an evaluation was made with in place of what its run was."""
    asked = run.usual | {
        "batchnorm_statistics": "moving_average",
        "precision": run.flags.get("precision"),
    }
    found = [
        f"tested with {told(name, member[name], value)}"
        for name, value in asked.items()
        if value is not None and member.get(name, value) != value
    ]
    if member.get("exported"):
        found.append("tested as an export")
    dataset = run.flags["dataset"]
    if metrics.get("dataset", dataset) != dataset:
        found.append(f"tested with {told('dataset', metrics['dataset'], dataset)}")
    split = "validation" if run.flags.get("validation_images") else "test"
    if metrics.get("split", split) != split:
        found.append(f"on {metrics['split']} images ({split})")
    return found
