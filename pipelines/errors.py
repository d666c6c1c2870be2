"""The one exception this package raises for its users."""

import re


class DataError(ValueError):
    """A fault in the data or in what was asked of it, said in one sentence for the user."""


def first_line(error: BaseException) -> str:
    """Return the kind and first line of an error, short enough for one sentence."""
    # TensorFlow puts the name of a graph's node in double braces before what it has to say.
    lines = re.sub(r"\{\{.*?\}\}\s*", "", str(error)).strip().splitlines()
    kind = type(error).__name__
    return f"{kind}: {lines[0][:200].rstrip('.')}" if lines else kind
