"""A few images of a split as files, for whoever takes encoded images."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines import order
from pipelines.splits import ArraySplit, RecordSplit, Split


def encoded_samples(split: Split, count: int) -> list[bytes]:
    """Return `count` images as they are stored, or all where there are fewer.

    Evenly spaced over the split in its stored order; of TFRecord shards the first ones, because
    those behind cost reading. Images in memory come as PNG. Images are not looked into: some may
    be unreadable; what cannot even be fetched is left out.
    """
    if isinstance(split, RecordSplit):
        fetch = split.fetch()
        records = order.stored_records(split).take(count).map(lambda *key: fetch(*key)[0])
        try:
            return list(records.as_numpy_iterator())
        except tf.errors.OpError:
            return []
    indices = np.unique(np.linspace(0, len(split) - 1, count).astype(int))
    if isinstance(split, ArraySplit):
        return [tf.io.encode_png(split.images[index]).numpy() for index in indices]
    files = [Path(split.paths[index]) for index in indices]
    return [file.read_bytes() for file in files if file.is_file()]
