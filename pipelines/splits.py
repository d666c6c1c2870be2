"""The images of one split: in memory, one a file, or in TFRecord shards.

All three know their length, `fetch` image and label of a key, `identify` the key for messages,
keep chosen classes and hold images out. A key is an index, or (shard, number, record).
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import DataError, first_line

Fetch = Callable[..., tuple[tf.Tensor, tf.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images in memory: uint8 [N, H, W, 3], labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self) -> Fetch:
        """Return the function from an index to (uint8 [H, W, 3], int32 label)."""
        images, labels = tf.constant(self.images), tf.constant(self.labels)
        return lambda index: (images[index], labels[index])

    def identify(self) -> Callable[..., tf.Tensor]:
        """Return the function from an index to a string for messages."""
        return tf.strings.as_string

    def select(self, indices: np.ndarray) -> "ArraySplit":
        """Return the split of these indices."""
        return ArraySplit(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class FileSplit:
    """Encoded images, one a file: paths [N] of str, labels int32 [N]."""

    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self) -> Fetch:
        """Return the function from an index to (encoded image, int32 label)."""
        paths, labels = self._encoded(), tf.constant(self.labels)
        return lambda index: (tf.io.read_file(paths[index]), labels[index])

    def identify(self) -> Callable[..., tf.Tensor]:
        """Return the function from an index to the path."""
        paths = self._encoded()
        return lambda index: paths[index]

    def _encoded(self) -> tf.Tensor:
        # A file's name may hold bytes that are no text.
        return tf.constant([os.fsencode(path) for path in self.paths])

    def select(self, indices: np.ndarray) -> "FileSplit":
        """Return the split of these indices."""
        return FileSplit(self.paths[indices], self.labels[indices])


IndexedSplit = ArraySplit | FileSplit


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """Encoded images in TFRecord shards.

    files: one path a shard. firsts, counts: int64, which of its records belong to the split.
    parse: the function from a serialised record to (encoded image, int32 label).
    relabel: int32, new label of each original label, -1 for classes that are left out; firsts and
    counts are those of the remaining records. None keeps all.
    """

    files: tuple[str, ...]
    firsts: np.ndarray
    counts: np.ndarray
    parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    relabel: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.counts.sum())

    def fetch(self) -> Fetch:
        """Return the function from (shard, number, record) to (encoded image, int32 label)."""

        def fetched(shard: tf.Tensor, number: tf.Tensor, record: tf.Tensor) -> Any:
            image, label = self.parse(record)
            return image, self._new_label(label)

        return fetched

    def identify(self) -> Callable[..., tf.Tensor]:
        """Return the function from (shard, number, record) to "shard:number"."""
        return lambda shard, number, record: tf.strings.join(
            [shard, tf.strings.as_string(number)], ":"
        )

    def read(self, file: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.data.Dataset:
        """Read `count` records of one shard, from the first-th of the split's on."""
        records = tf.data.TFRecordDataset(file).enumerate()
        if self.relabel is not None:
            records = records.filter(
                lambda number, record: self._new_label(self.parse(record)[1]) >= 0
            )
        return records.skip(first).take(count).map(lambda number, record: (file, number, record))

    def _new_label(self, label: tf.Tensor) -> tf.Tensor:
        return label if self.relabel is None else tf.gather(tf.constant(self.relabel), label)


Split = ArraySplit | FileSplit | RecordSplit


def keep_classes(split: Split, relabel: np.ndarray) -> Split:
    """Keep the images whose label has a new one, int32 [classes] with -1 for the others.

    TFRecord shards are read once for this, to count what remains. Raises DataError where one is
    damaged.
    """
    if not isinstance(split, RecordSplit):
        labels = relabel[split.labels]
        chosen = split.select(np.flatnonzero(labels >= 0))
        return dataclasses.replace(chosen, labels=labels[labels >= 0])
    filtered = dataclasses.replace(split, relabel=relabel)

    def count(file: tf.Tensor) -> tf.Tensor:
        records = filtered.read(file, 0, np.iinfo(np.int64).max)
        return records.reduce(np.int64(0), lambda count, *_: count + 1)

    files = tf.data.Dataset.from_tensor_slices(list(split.files))
    data = files.map(count, num_parallel_calls=os.cpu_count())
    try:
        counts = np.asarray(list(data.as_numpy_iterator()), np.int64)
    except tf.errors.OpError as error:  # or a label that no class has
        raise DataError(
            f"A TFRecord file of the data is damaged: {first_line(error)}; prepare it again."
        ) from error
    return dataclasses.replace(filtered, counts=counts)


def hold_out(split: Split, images: int) -> tuple[Split, Split]:
    """Split off validation images; returns (rest, validation).

    Indexed images: evenly spaced in their stored order. Records: the last ones.
    """
    total = len(split)
    if isinstance(split, RecordSplit):
        ends = np.cumsum(split.counts)
        rest = np.clip(total - images - (ends - split.counts), 0, split.counts)
        return (
            dataclasses.replace(split, counts=rest),
            dataclasses.replace(split, firsts=split.firsts + rest, counts=split.counts - rest),
        )
    held = np.arange(images, dtype=np.int64) * total // images
    return split.select(np.setdiff1d(np.arange(total), held)), split.select(held)


def sample(split: Split, images: int, seed: int) -> Split:
    """Draw `images` of a split, at most all, for a look at it.

    Indexed images: a random choice in random order. Records: evenly from all shards, whose first
    they are.
    """
    total = len(split)
    if isinstance(split, RecordSplit):
        shares = np.diff(np.cumsum(split.counts) * images // total, prepend=0)
        return dataclasses.replace(split, counts=shares)
    return split.select(np.random.default_rng(seed).permutation(total)[:images])
