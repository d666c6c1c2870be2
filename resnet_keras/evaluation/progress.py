"""A bar for whoever watches an evaluation."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import tqdm

from resnet_keras.errors import InputError


def watched(batches: Iterable, count: int, doing: str) -> Iterator[Any]:
    """Return the batches, with a bar that says ``doing`` on a terminal and is silent elsewhere.

    Raises:
        InputError: at the end, where fewer than ``count`` came: a file of the data is cut short.
    """
    bar = tqdm.tqdm(
        batches,
        desc=doing,
        total=count,
        unit="batch",
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    came = 0
    for batch in bar:
        came += 1
        yield batch
    if came < count:
        raise InputError(
            f"The data ended after {came:,} of {count:,} batches ({doing}): they hold fewer images "
            "than they say; prepare or copy them again."
        )
