"""Streams of batches: training in a seeded order that can start anywhere, testing exact.

The training stream is the concatenation of epochs. The image at a position of it, and what
augmentation does to it, follow from (seed, epoch, index) alone, so a stream that starts at a
position equals one that came there.
"""

import os
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipelines import transforms
from pipelines.preprocessing import (
    augment,
    mean_and_std,
    preprocess_decoded,
    preprocess_encoded,
)
from pipelines.recipes import Recipe
from pipelines.sources import ArraySplit, RecordSplit, Source, Split

# Streams of random numbers beside those of transforms.py.
_ORDER, _FILES, _BATCH = 8, 9, 10
# Records that wait, still encoded, to be drawn at random; about 0.2 GB of ImageNet.
SHUFFLE_RECORDS = 2048
OPEN_FILES = 16


def train_batches(
    source: Source,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> tf.data.Dataset:
    """Return the endless training stream.

    start: number of images already consumed, by all shards together; skipping decodes nothing.
    shard_index, shard_count: this host's part: the positions that leave the remainder
    shard_index when divided by shard_count.
    Elements: {"image": float32 [B, S, S, 3], "label": int32 [B], "weight": float32 [B]}.
    """
    if start % shard_count:
        raise ValueError(f"The start {start} is not a multiple of the {shard_count} shards.")
    split = source.splits["train"]
    shard = (shard_index, shard_count)
    if isinstance(split, ArraySplit) and _is_pad_crop(split, recipe):
        data = _pad_crop_stream(source, split, recipe, batch_size, seed, start, shard)
        return data.prefetch(2).with_options(_options())
    fetch = _fetch(split)

    def example(position: tf.Tensor, key: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = fetch(key)
        pixels = augment(image, recipe, source.statistics, transforms.image_seed(seed, position))
        return {"image": pixels, "label": label, "weight": tf.ones([])}

    if isinstance(split, RecordSplit):
        keys = _shuffled_records(split, seed, start, shard)
    else:
        keys = _order(len(split), seed, start, shard).map(
            lambda position, index, _: (position, index)
        )
    data = keys.map(example, num_parallel_calls=_cores())
    return data.batch(batch_size, drop_remainder=True).prefetch(2).with_options(_options())


def test_batches(
    source: Source,
    recipe: Recipe,
    *,
    split: str = "test",  # noqa: PT028
    batch_size: int,
) -> tf.data.Dataset:
    """Return the images of a split once, in their stored order, as the recipe tests them.

    Elements as those of `train_batches`; the last batch is filled with images of weight 0.
    """
    data = source.splits[split]
    fetch = _fetch(data)

    def example(key: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = fetch(key)
        prepare = preprocess_encoded if image.dtype == tf.string else preprocess_decoded
        return {
            "image": prepare(image, recipe, source.statistics),
            "label": label,
            "weight": tf.ones([]),
        }

    size = recipe.image_size
    blank = {
        "image": tf.zeros([size, size, 3]),
        "label": tf.zeros([], tf.int32),
        "weight": tf.zeros([]),
    }
    keys = _records(data) if isinstance(data, RecordSplit) else tf.data.Dataset.range(len(data))
    images = keys.map(example, num_parallel_calls=_cores())
    filling = tf.data.Dataset.from_tensors(blank).repeat(-len(data) % batch_size)
    batches = images.concatenate(filling).batch(batch_size, drop_remainder=True)
    return batches.prefetch(2).with_options(_options())


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _options() -> tf.data.Options:
    """Fix the parallelism: an iterator with autotuning can stall for seconds when it is freed."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _seed(seed: int, stream: int, epoch: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.constant(seed * transforms.STREAMS + stream, tf.int64), epoch])


def _epochs(first: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(first, sys.maxsize)


def _order(
    size: int, seed: int, start: int, shard: tuple[int, int], draws: int = 0
) -> tf.data.Dataset:
    """Yield (position, index, uniform [draws]) of this shard's images, endlessly.

    The permutation of an epoch is drawn whole: TensorFlow's index_shuffle, which would not need
    that, repeats much of the order from epoch to epoch (correlation 0.75 at 50,000 images).
    """

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        indices = tf.random.experimental.stateless_shuffle(
            tf.range(size, dtype=tf.int64), _seed(seed, _ORDER, number)
        )
        uniform = tf.random.stateless_uniform([size, draws], _seed(seed, _BATCH, number))
        positions = number * size + tf.range(size, dtype=tf.int64)
        mine = (positions >= start) & (positions % shard[1] == shard[0])
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.boolean_mask(values, mine) for values in (positions, indices, uniform))
        )

    return _epochs(start // size).flat_map(epoch)


def _fetch(split: Split) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return the function from an index or record to (image, int32 label).

    The image is uint8 [H, W, 3], or a string where it is still encoded.
    """
    if isinstance(split, RecordSplit):
        return split.parse
    labels = tf.constant(split.labels)
    if isinstance(split, ArraySplit):
        images = tf.constant(split.images)
        return lambda index: (images[index], labels[index])
    paths = tf.constant(split.paths)
    return lambda index: (tf.io.read_file(paths[index]), labels[index])


def _is_pad_crop(split: ArraySplit, recipe: Recipe) -> bool:
    """Tell whether whole batches can be padded and cropped at once."""
    size = recipe.image_size
    return recipe.crop == "padded" and split.images.shape[1:3] == (size, size)


def _pad_crop_stream(
    source: Source,
    split: ArraySplit,
    recipe: Recipe,
    batch_size: int,
    seed: int,
    start: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Pad, crop, flip and normalise images in memory, a batch at a time."""
    size, padding = recipe.image_size, recipe.padding
    padded = size + 2 * padding
    border = ((padding, padding), (padding, padding), (0, 0))
    pixels = tf.constant(np.pad(split.images, ((0, 0), *border)).reshape(-1, 3))
    labels = tf.constant(split.labels)
    mean, std = mean_and_std(recipe, source.statistics)
    mean = np.broadcast_to(mean, (size, size, 3))
    # Sec. 4.2 subtracts the mean first, so that the border is 0 after it; a black border is
    # padded before, and its mean is subtracted too.
    mean = np.pad(mean, border, mode="constant" if recipe.padding_value == "mean" else "edge")
    flat_mean = tf.constant(mean.reshape(-1, 3))

    def batch(_: tf.Tensor, index: tf.Tensor, uniform: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, columns = transforms.crop_positions(
            uniform, size=size, padding=padding, flip=recipe.flip
        )
        place = rows * padded + columns
        first = tf.cast(index, tf.int32)[:, None, None] * padded**2
        images = tf.cast(tf.gather(pixels, first + place), tf.float32)
        images -= tf.gather(flat_mean, place)
        if recipe.divide_by_std:
            images /= std
        label = tf.gather(labels, index)
        return {"image": images, "label": label, "weight": tf.ones([batch_size])}

    order = _order(len(split), seed, start, shard, draws=3)
    return order.batch(batch_size, drop_remainder=True).map(batch, num_parallel_calls=_cores())


def _read_shards(files: tf.Tensor, firsts: tf.Tensor, counts: tf.Tensor) -> tf.data.Dataset:
    """Read the given records of each shard, several shards at a time, in a fixed order."""
    shards = tf.data.Dataset.from_tensor_slices((files, firsts, counts))
    return shards.filter(lambda file, first, count: count > 0).interleave(
        lambda file, first, count: tf.data.TFRecordDataset(file).skip(first).take(count),
        cycle_length=OPEN_FILES,
        num_parallel_calls=_cores(),
        deterministic=True,
    )


def _records(split: RecordSplit) -> tf.data.Dataset:
    return _read_shards(tf.constant(split.files), split.firsts, split.counts)


def _shuffled_records(
    split: RecordSplit, seed: int, start: int, shard: tuple[int, int]
) -> tf.data.Dataset:
    """Yield (position, record) of this host's part, endlessly.

    An epoch's shards are put into random order, several are read at a time, and a buffer
    shuffles their records. Each host reads only its stretch of the epoch's records; positions
    are dealt out to the hosts in turn.
    """
    size, (host, hosts) = len(split), shard
    files, firsts, counts = tf.constant(split.files), split.firsts, split.counts

    def owned(position: tf.Tensor) -> tf.Tensor:
        """Count the positions before this one that each host owns, int64 [hosts]."""
        return (position - tf.range(hosts, dtype=tf.int64) + hosts - 1) // hosts

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        begin = number * size
        stretch = tf.cumsum(owned(begin + size) - owned(begin))
        last = stretch[host]
        first = last - (owned(begin + size) - owned(begin))[host]
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(split.files)), _seed(seed, _FILES, number)
        )
        ordered_counts = tf.gather(counts, order)
        before = tf.cumsum(ordered_counts, exclusive=True)
        skip = tf.clip_by_value(first - before, 0, ordered_counts)
        take = tf.clip_by_value(last - before, 0, ordered_counts) - skip
        records = _read_shards(
            tf.gather(files, order), tf.gather(firsts, order) + skip, take
        ).shuffle(
            SHUFFLE_RECORDS,
            seed=tf.random.stateless_uniform(
                [], _seed(seed, _ORDER, number), maxval=None, minval=None, dtype=tf.int64
            ),
            reshuffle_each_iteration=False,
        )
        position = begin + (host - begin) % hosts
        consumed = (tf.maximum(tf.constant(start, tf.int64) - position, 0) + hosts - 1) // hosts
        positions = tf.data.Dataset.range(position, begin + size, hosts)
        return tf.data.Dataset.zip(positions, records).skip(consumed)

    return _epochs(start // size).flat_map(epoch)
