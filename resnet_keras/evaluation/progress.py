"""A bar for whoever watches an evaluation."""

import sys
from collections.abc import Iterable

import tqdm


def watched(batches: Iterable, count: int, doing: str) -> Iterable:
    """Return the batches, with a bar that says ``doing`` on a terminal and is silent elsewhere."""
    return tqdm.tqdm(
        batches,
        desc=doing,
        total=count,
        unit="batch",
        leave=False,
        disable=not sys.stderr.isatty(),
    )
