"""The drawings of a report, from runs to panels."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence

import numpy as np

from resnet_keras.reporting import figures, learning
from resnet_keras.reporting.document import Drawing
from resnet_keras.reporting.run_files import TESTED, Evaluation, Run

HEADROOM = 3  # times the highest last error is where an axis of errors ends
LEGEND = (
    "Training thin, test bold, as in Fig. 4 and 6 of the ResNet paper{sides}. Training values are "
    "means between two lines of the log, of augmented images.{drops}{starts}"
)
SIDES = "; plain nets left, residual nets right"
DROPS = " Light vertical lines: the learning rate is divided by 10."
STARTS = " A run that started from another one shown begins where that one ended."


def curves(
    name: str,
    runs: Sequence[tuple[str, Run]],
    *,
    losses: bool = True,
    fingerprints: Sequence[str] = (),
) -> Drawing:
    """Draw error and loss: two columns where there are plain and residual nets, else one.

    Args:
        name: of the drawing.
        runs: each with its name in the figure; logs with at least one record.
        losses: draw them, too.
        fingerprints: of the runs, for a file that must say what it is of.
    """
    colours = {run.name: number for number, (_, run) in enumerate(runs)}
    plain = [pair for pair in runs if "plain" in pair[1].flags["model"]]
    residual = [pair for pair in runs if pair not in plain]
    sides = {"plain": plain, "residual": residual} if plain and residual else {"": runs}
    panels = []
    for value, test_value, label, factor in (
        ("error", "top1_error", "error (%)", 100),
        *([("loss", "loss", "loss", 1)] if losses else []),
    ):
        drawn = {
            side: [
                figures.Curve(
                    title, colours[run.name],
                    _scaled(learning.curve(run, value, "train"), factor, first),
                    _scaled(learning.curve(run, test_value, *TESTED), factor, first),
                    [first + step for step in learning.drops(run)],
                )
                for title, run in members
                for first in [_first(run, colours)]
            ]
            for side, members in sides.items()
        }  # fmt: skip
        every = [curve for side in drawn.values() for curve in side]
        limits = _error_limits(every) if factor > 1 else _loss_limits(every)
        for number, (side, members) in enumerate(drawn.items()):
            figure = figures.curves(members, title=side, label=label, limits=limits)
            title = " ".join([name, label, *fingerprints])
            panels.append(figures.svg(figure, f"{slug(name)}-{value}-{number}", title))
    caption = LEGEND.format(
        sides=SIDES if len(sides) > 1 else "",
        drops=DROPS if any(learning.drops(run) for _, run in runs) else "",
        starts=STARTS if any(_first(run, colours) for _, run in runs) else "",
    )
    return Drawing(f"{slug(name)}-curves", panels, caption)


def slug(name: str) -> str:
    """Return a name as an id and a file's name."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "-" for letter in name)


def _first(run: Run, shown: Container[str]) -> int:
    """Return the step where a run begins: behind the one that it started from, if that is shown."""
    starts = [start for start in run.of_kind("start") if start["init_from"] in shown]
    return starts[0]["init_step"] if starts else 0


def _scaled(
    found: tuple[list[int], list[float]], factor: int, first: int
) -> tuple[list[int], list[float]]:
    steps, values = found
    return [first + step for step in steps], [factor * value for value in values]


def _error_limits(curves: Sequence[figures.Curve]) -> tuple[float, float]:
    """Return the ends of an axis of errors (%) on which the end of training can be read."""
    values = [pair[1] for curve in curves for pair in (curve.training, curve.test) if pair[1]]
    return 0.0, max(5.0, min(100.0, HEADROOM * max((found[-1] for found in values), default=100)))


def _loss_limits(curves: Sequence[figures.Curve]) -> tuple[float, float]:
    """Return the ends of an axis of losses, which all of them fit; those of 0 do not."""
    values = [
        value
        for curve in curves
        for pair in (curve.training, curve.test)
        for value in pair[1]
        if math.isfinite(value) and value > 0
    ]
    return min(values, default=0.1) / 1.2, max(values, default=1.0) * 1.2


def responses(
    measured: Mapping[str, Sequence[float]],
    name: str = "responses",
    fingerprints: Sequence[str] = (),
) -> Drawing:
    """Draw both panels of Fig. 7 from the layers' standard deviations, by run; see ``curves``."""
    panels = [
        figures.svg(
            figures.responses(measured, ordered=ordered),
            f"{slug(name)}-{ordered:d}",
            " ".join(["responses", *fingerprints]),
        )
        for ordered in (False, True)
    ]
    return Drawing(
        slug(name),
        panels,
        "Standard deviation of the output of each 3x3 layer, after batch norm and before "
        "nonlinearity or addition; plain nets dashed.",
    )


def confusion(run: str, evaluation: Evaluation) -> Drawing:
    """Draw the confusion matrix of an evaluation of a run."""
    name = f"confusion-{slug(run)}"
    matrix = figures.confusion(np.array(evaluation.counts), evaluation.classes)
    caption = f"Confusions: {evaluation.file.parent.name}, {evaluation.metrics['images']:,} images."
    return Drawing(name, [figures.svg(matrix, name, caption)], caption)
