"""Pictures with what a network says of them."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

RIGHT, WRONG, UNKNOWN = "tab:green", "tab:red", "black"
CELL = 1.6  # inches a side
CHARACTERS = 18  # of a line above a picture


class Picture(NamedTuple):
    """One picture of a grid.

    Attributes:
        pixels: uint8 [H, W, 3], RGB.
        predicted: the class the network gives.
        score: its probability, in 0..1.
        true: the class it is of; None where nobody knows.
    """

    pixels: np.ndarray
    predicted: str
    score: float
    true: str | None = None


def picture_grid(pictures: Sequence[Picture], *, columns: int = 8) -> Figure:
    """Draw pictures in rows, the predicted class above each: green where right, red where wrong.

    A wrong one has its true class below the predicted one. Black: the true class is not known.
    Returns a figure to save with ``savefig``.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(CELL * columns, 1.35 * CELL * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    for place, picture in zip(axes, pictures, strict=False):
        place.imshow(picture.pixels)
        colour = UNKNOWN
        if picture.true is not None:
            colour = RIGHT if picture.predicted == picture.true else WRONG
        # A dollar sign in a class name is no formula.
        place.set_title(_caption(picture), color=colour, fontsize=7, parse_math=False)
    figure.suptitle(score(pictures), fontsize=9)
    return figure


def score(pictures: Sequence[Picture]) -> str:
    """Say how many are right of those whose true class is known; "" where none is."""
    known = [picture for picture in pictures if picture.true is not None]
    right = sum(picture.predicted == picture.true for picture in known)
    return f"{right} of {len(known)} right" if known else ""


def _caption(picture: Picture) -> str:
    lines = [f"{_short(picture.predicted)} ({100 * picture.score:.0f} %)"]
    if picture.true not in (None, picture.predicted):
        lines.append(f"true: {_short(str(picture.true))}")
    return "\n".join(lines)


def _short(name: str) -> str:
    short = textwrap.shorten(name, CHARACTERS, placeholder="…")
    return short if short != "…" else name[: CHARACTERS - 1] + "…"
