"""Figures, drawn from plain data into PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LABELLED = 40  # classes whose names fit the edge of a figure
COUNTED = 20  # classes whose counts fit its cells


def draw_confusion(file: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw a confusion matrix: colour is the share of a true class, a row; numbers are counts."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    side = min(12.0, 4.0 + 0.25 * classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= LABELLED:
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    if classes <= COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(file, dpi=120, format="png")


def draw_responses(file: Path, responses: Mapping[str, Sequence[float]]) -> None:
    """Draw layer responses as Fig. 7: in the layers' order above, sorted below; a line a network.

    Plain nets, by their name, are dashed as they are there.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharey=True)
    for name, values in responses.items():
        style = {"linestyle": "--" if "plain" in name else "-", "linewidth": 1.2, "label": name}
        layers = range(1, len(values) + 1)
        upper.plot(layers, values, **style)
        lower.plot(layers, sorted(values, reverse=True), **style)
    upper.set(xlabel="layer index (original)", ylabel="std")
    lower.set(xlabel="layer index (sorted by magnitude)", ylabel="std")
    for axes in (upper, lower):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    upper.legend()
    figure.savefig(file, dpi=120, format="png")
