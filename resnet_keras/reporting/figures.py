"""Figures, drawn from plain data."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

LABELLED = 40  # classes whose names fit the edge of a figure
COUNTED = 20  # classes whose counts fit its cells
PANEL = (4.8, 3.4)  # inches, readable on a telephone
# Text stays text, a dollar sign in a name is no formula, and ids depend on nothing but the content.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "resnet_keras", "text.parse_math": False}


class Curve(NamedTuple):
    """One run of a figure of curves.

    Attributes:
        name: in the legend.
        colour: number of a colour, the same for a run in all panels.
        training: steps and values.
        test: steps and values.
        drops: steps at which the learning rate was divided.
    """

    name: str
    colour: int
    training: tuple[Sequence[int], Sequence[float]]
    test: tuple[Sequence[int], Sequence[float]]
    drops: Sequence[int]


def draw_confusion(file: Path, counts: np.ndarray, names: Sequence[str]) -> None:
    """Draw ``confusion`` into a PNG file."""
    confusion(counts, names).savefig(file, dpi=120, format="png")


def draw_responses(file: Path, responses: Mapping[str, Sequence[float]]) -> None:
    """Draw both panels of ``responses`` into one PNG file."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharey=True)
    _responses(upper, responses, ordered=False)
    _responses(lower, responses, ordered=True)
    upper.legend()
    figure.savefig(file, dpi=120, format="png")


@matplotlib.rc_context(STYLE)
def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
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
                # Not the black of a page's text, which turns white in the dark.
                colour = "white" if shares[row, column] > 0.5 else "#111111"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="share of the true class")
    return figure


@matplotlib.rc_context(STYLE)
def responses(found: Mapping[str, Sequence[float]], *, ordered: bool) -> Figure:
    """Draw a panel of Fig. 7: standard deviations in the layers' order, or by magnitude."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    _responses(axes, found, ordered=ordered)
    axes.set_ylim(0, 1.05 * max(max(values) for values in found.values()))
    axes.legend(frameon=False, fontsize=8)
    return figure


def _responses(axes, found: Mapping[str, Sequence[float]], *, ordered: bool) -> None:
    """Draw a line a network. Plain nets, by their name, are dashed as they are in Fig. 7."""
    for name, values in found.items():
        style = {"linestyle": "--" if "plain" in name else "-", "linewidth": 1.2, "label": name}
        shown = sorted(values, reverse=True) if ordered else values
        axes.plot(range(1, len(values) + 1), shown, **style)
    which = "sorted by magnitude" if ordered else "original"
    axes.set(xlabel=f"layer index ({which})", ylabel="std")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@matplotlib.rc_context(STYLE)
def curves(runs: Sequence[Curve], *, title: str, label: str, limits: tuple[float, float]) -> Figure:
    """Draw a panel of Fig. 4 or 6: training thin, test bold, a colour a run.

    Drops of the learning rate are light vertical lines. limits: of the axis of values, which is
    logarithmic unless it begins at 0.
    """
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    for drop in sorted({drop for run in runs for drop in run.drops}):
        axes.axvline(drop, color="#888888", alpha=0.35, linewidth=0.8)
    for run in runs:
        colour = f"C{run.colour % 10}"
        for (steps, values), width in ((run.training, 0.7), (run.test, 2.0)):
            shown = np.asarray(values, np.float64)
            shown[~np.isfinite(shown) | ((shown <= 0) & (limits[0] > 0))] = np.nan
            # A test or two are no line.
            marker = "o" if len(steps) < 3 else None
            axes.plot(steps, shown, color=colour, linewidth=width, marker=marker, markersize=3)
        axes.plot([], [], color=colour, linewidth=2.0, label=run.name)
    if limits[0] > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="iterations", ylabel=label, ylim=limits)
    axes.set_title(title, fontsize=10)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False, fontsize=8)
    return figure


def svg(figure: Figure, name: str, title: str) -> str:
    """Return a figure as an SVG element that fits into any page.

    It is the same for the same figure, wherever and whenever it is made. Black becomes the colour
    of the text around it, the background is left out.

    Args:
        figure: drawn by this module.
        name: before all ids, which must differ within a page; letters, digits, hyphens.
        title: for those who do not see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # Date and version of the drawing program.
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    for reference in ('id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}{name}-")
    text = text.replace("#000000", "currentColor").replace("*{", "svg *{")
    title = re.sub(r'[<>&"]', " ", title)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def standalone(drawn: str) -> str:
    """Return an element of ``svg`` as the content of a file: black on white.

    It names the version of the drawing program, of which another may draw otherwise.
    """
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    head += f"<!-- matplotlib {matplotlib.__version__} -->\n"
    return head + drawn.replace("<svg ", '<svg style="background: white; color: black" ', 1)
