"""What a report consists of, before it is a page or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """Hold a link: to a heading's anchor ("#run-r50") or to a file."""

    text: str
    target: str


@dataclass(frozen=True)
class Code:
    """Hold what is to be typed, or a flag."""

    text: str


Inline = str | Link | Code
Cell = Inline | tuple[Inline, ...]  # a tuple's parts stand side by side


@dataclass(frozen=True)
class Heading:
    """Hold a heading; level 1 is the document's title."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Paragraph:
    """Hold a paragraph."""

    text: Cell


@dataclass(frozen=True)
class Table:
    """Hold a table. numbers: columns that are set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Drawing:
    """Hold panels that stand side by side where there is room.

    name: of files. panels: SVG, which takes the colour of the text around it (``figures.svg``).
    """

    name: str
    panels: Sequence[str]
    caption: str


@dataclass(frozen=True)
class Picture:
    """Hold a PNG picture. name: of its file."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Details:
    """Hold what is folded away under a title."""

    title: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Table | Drawing | Picture | Details
