"""A document as one HTML page: no network, no scripts, light and dark, narrow and wide."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from resnet_keras.reporting.document import (
    Block,
    Cell,
    Code,
    Details,
    Drawing,
    Heading,
    Link,
    Paragraph,
    Table,
)

# Characters beyond which a text is a sentence, which needs a wide column, and a number several.
SENTENCE, NUMBERS = 40, 24
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --link: #7cb8f5; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 0 auto; padding: 16px;
  overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.25; }
h2 { border-top: 1px solid var(--line); margin-top: 48px; padding-top: 16px; }
h3 { margin-top: 40px; }
p { max-width: 75ch; }
a { color: var(--link); }
nav ul { columns: 320px; padding-left: 20px; }
nav li { break-inside: avoid; }
.scroll { overflow-x: auto; margin: 16px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--soft); }
th { border-bottom: 1px solid var(--line); vertical-align: bottom; }
td { min-width: 6ch; max-width: 60ch; }
td:first-child { min-width: 13ch; }
td:nth-child(2):not(.number) { min-width: 18ch; }
.flag { display: inline-block; max-width: 100%; }
.number { text-align: right; }
.number:not(.long) { white-space: nowrap; }
td.long:not(.number) { min-width: 32ch; }
.panels { display: grid; gap: 16px; max-width: 1000px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.panels > svg { max-width: 100%; height: auto; }
.panels text { fill: currentColor; }
figure { margin: 16px 0; }
figure img { max-width: 100%; background: white; }
figcaption { font-size: 14px; max-width: 75ch; }
code { font-size: 14px; background: var(--soft); padding: 1px 4px; border-radius: 3px; }
summary { cursor: pointer; }
"""


def render(title: str, blocks: Sequence[Block]) -> str:
    """Return the whole page, with a list of the headings of level 2 under its title."""
    listed = "".join(
        f'<li><a href="#{escape(block.anchor)}">{escape(block.text)}</a></li>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    )
    parts = [_block(block) for block in blocks]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<nav><ul>{listed}</ul></nav>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        level = block.level
        return f'<h{level} id="{escape(block.anchor)}">{escape(block.text)}</h{level}>'
    if isinstance(block, Paragraph):
        return f"<p>{_cell(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Details):
        inner = "\n".join(map(_block, block.blocks))
        return f"<details><summary>{escape(block.title)}</summary>\n{inner}\n</details>"
    if isinstance(block, Drawing):
        shown = f'<div class="panels">\n{"".join(block.panels)}</div>'
    else:
        data = base64.b64encode(block.png).decode()
        shown = f'<img alt="{escape(block.caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{shown}<figcaption>{escape(block.caption)}</figcaption></figure>"


def _table(table: Table) -> str:
    def row(cells: Sequence[Cell], tag: str) -> str:
        inner = "".join(
            f"<{tag}{_classes(cell, i in table.numbers)}>{_cell(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    head = row(table.header, "th")
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n'
        "</tbody>\n</table></div>"
    )


def _classes(cell: Cell, number: bool) -> str:
    long = isinstance(cell, str) and len(cell) > (NUMBERS if number else SENTENCE)
    names = ["number"] * number + ["long"] * long
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, tuple):
        return "".join(map(_cell, cell))
    if isinstance(cell, Link):
        return f'<a href="{escape(cell.target)}">{escape(cell.text)}</a>'
    if isinstance(cell, Code):
        return f"<code>{_text(cell.text)}</code>"
    return _text(cell)


def _text(text: str) -> str:
    """Return escaped text in which a flag is not broken at its hyphens."""
    return re.sub(r"(?<!\S)-\S+", r'<span class="flag">\g<0></span>', escape(text))
