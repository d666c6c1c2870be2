"""The one exception this package raises for its users."""

import re


class DataError(ValueError):
    """A fault in the data or in what was asked of it, said in one sentence for the user."""


# Lines that are not the reason: headings, frames of the call, and blank ones. Of several errors
# of a graph, the first is numbered (0).
_WHERE = re.compile(r"Graph execution error:|Detected at node |\d+ root error|\s+(?!\s|\(0\))|$")


def first_line(error: BaseException) -> str:
    """Return the kind and first line of an error, short enough for one sentence."""
    # TensorFlow puts the name of a graph's node in double braces before what it has to say, and
    # above it, of an error within a compiled function, where that was defined.
    text = re.sub(r"\{\{.*?\}\}\s*", "", str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if not _WHERE.match(line)]
    kind = type(error).__name__
    return f"{kind}: {lines[0][:200].rstrip('.')}" if lines else kind
