"""Iterators over batches that survive unreadable images.

Good data pays nothing: the plain stream runs until TensorFlow raises its first error; from that
position on the stream is opened again with every image guarded.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from pipelines.bad_images import BadImages
from pipelines.errors import DataError, first_line
from pipelines.loader import OnBad, test_batches, train_batches
from pipelines.preprocessing import View, single_view
from pipelines.recipes import Recipe
from pipelines.sources import Source

Distribute = Callable[[tf.data.Dataset], Iterable[Any]]


def warn(name: str) -> None:
    """Log the name of an unreadable image as a warning of the logger "pipelines"."""
    logging.getLogger("pipelines").warning("This image cannot be read and is left out: %s", name)


class BatchStream:
    """Iterate over batches.

    position: images consumed so far, by all shards together: the `start` that continues here.
    bad_images: the unreadable images seen so far; each is logged once.
    Raises DataError when they become too many, or a TFRecord file is damaged.
    """

    def __init__(
        self,
        open_at: Callable[[int, OnBad | None], Iterable[Any]],
        *,
        images_per_batch: int,
        images: int,
        max_bad_fraction: float,
        log: OnBad,
        guarded: bool = False,
    ) -> None:
        self.position = 0
        self.bad_images = BadImages(images, max_bad_fraction, log)
        self._open_at = open_at
        self._images_per_batch = images_per_batch
        self._guarded = guarded
        self._iterator = iter(open_at(0, self.bad_images.add if guarded else None))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            batch = next(self._iterator)
        except tf.errors.DataLossError as error:
            raise DataError(
                f"A TFRecord file of the data is damaged: {first_line(error)}; prepare it again."
            ) from error
        except tf.errors.OutOfRangeError as end:
            raise StopIteration from end
        except tf.errors.OpError as error:
            if self._guarded:
                raise DataError(f"The data cannot be read: {first_line(error)}.") from error
            self._guarded = True
            self._iterator = iter(self._open_at(self.position, self.bad_images.add))
            return next(self)
        self.bad_images.check()
        self.position += self._images_per_batch
        return batch


def train_stream(
    source: Source,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    max_bad_fraction: float = 0.001,
    distribute: Distribute | None = None,
    log: OnBad = warn,
) -> BatchStream:
    """Iterate over the batches of `train_batches`, endlessly.

    An unreadable image keeps its place with weight 0, and its name is given to `log` (default: a
    warning of the logger "pipelines"). More than `max_bad_fraction` of the images, and never
    fewer than 10, raise DataError. distribute: applied to each opened dataset, e.g.
    strategy.experimental_distribute_dataset.
    """

    def open_at(position: int, on_bad: OnBad | None) -> Iterable[Any]:
        data = train_batches(
            source,
            recipe,
            batch_size=batch_size,
            seed=seed,
            start=position,
            on_bad=on_bad,
        )
        return distribute(data) if distribute else data

    return BatchStream(
        open_at,
        images_per_batch=batch_size,
        images=source.sizes["train"],
        max_bad_fraction=max_bad_fraction,
        log=log,
    )


def test_stream(
    source: Source,
    recipe: Recipe,
    *,
    split: str = "test",  # noqa: PT028
    batch_size: int,
    shard_index: int = 0,  # noqa: PT028
    shard_count: int = 1,  # noqa: PT028
    view: View = single_view,  # noqa: PT028
    max_bad_fraction: float = 0.001,  # noqa: PT028
    guarded: bool = False,  # noqa: PT028
    distribute: Distribute | None = None,  # noqa: PT028
    log: OnBad = warn,  # noqa: PT028
) -> BatchStream:
    """Iterate over the batches of `test_batches`, once; guarded as `train_stream` is.

    guarded: from the first image on, where an error must not reach the consumer.
    """

    def open_at(position: int, on_bad: OnBad | None) -> Iterable[Any]:
        data = test_batches(
            source,
            recipe,
            split=split,
            batch_size=batch_size,
            start=position // shard_count,
            shard_index=shard_index,
            shard_count=shard_count,
            view=view,
            on_bad=on_bad,
        )
        return distribute(data) if distribute else data

    return BatchStream(
        open_at,
        images_per_batch=batch_size * shard_count,
        images=source.sizes[split],
        max_bad_fraction=max_bad_fraction,
        log=log,
        guarded=guarded,
    )


test_stream.__test__ = False  # type: ignore[attr-defined]  # for pytest: not a test
