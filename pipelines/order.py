"""The order of the images: a new permutation an epoch, from (seed, epoch) alone."""

import sys
from collections.abc import Callable

import tensorflow as tf

from pipelines.splits import RecordSplit
from pipelines.transforms import STREAMS

# Streams of random numbers beside those of transforms.py.
_ORDER, _FILES, _UNIFORM, _FIRST = 8, 9, 10, 11
# Records that wait, still encoded, to be drawn at random; about 0.2 GB of ImageNet.
SHUFFLE_RECORDS = 2048
# Shards that are read in turn.
OPEN_FILES = 16


def stored_records(split: RecordSplit) -> tf.data.Dataset:
    """Yield (shard, number, record) in a fixed order, once."""
    return _read(split, tf.constant(split.files), split.firsts, split.counts)


def shuffled_indices(
    size: int, seed: int, start: int, shard: tuple[int, int], draws: int = 0
) -> tf.data.Dataset:
    """Yield (position, index) of this shard's images, endlessly.

    shard: (index, count). draws: add that many uniform numbers in [0, 1), float32 [draws].
    The permutation of an epoch is drawn whole: TensorFlow's index_shuffle, which would not need
    that, repeats much of the order from epoch to epoch (correlation 0.75 at 50,000 images).
    """

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        positions = number * size + tf.range(size, dtype=tf.int64)
        columns = [positions, _permutation(size, _seed(seed, _ORDER, number))]
        if draws:
            columns.append(
                tf.random.stateless_uniform([size, draws], _seed(seed, _UNIFORM, number))
            )
        mine = (positions >= start) & (positions % shard[1] == shard[0])
        return tf.data.Dataset.from_tensor_slices(
            tuple(tf.boolean_mask(column, mine) for column in columns)
        )

    return _epochs(start // size, epoch)


def drawn_once(size: int, seed: int) -> tf.Tensor:
    """Draw a uniform number in [0, 1) for each image, the same in all epochs; float32 [size]."""
    return tf.random.stateless_uniform([size], _seed(seed, _FIRST, tf.constant(0, tf.int64)))


def shuffled_records(
    split: RecordSplit, seed: int, start: int, shard: tuple[int, int]
) -> tf.data.Dataset:
    """Yield (position, shard, number, record) of this host's images, endlessly.

    An epoch's TFRecord files are put into random order, several are read at a time, and a buffer
    shuffles their records. Each host reads only its stretch of the epoch's records; positions
    are dealt out to the hosts in turn.
    """
    size, (host, hosts) = len(split), shard

    def owned_before(position: tf.Tensor) -> tf.Tensor:
        """Count the positions before this one that each host owns, int64 [hosts]."""
        return (position - tf.range(hosts, dtype=tf.int64) + hosts - 1) // hosts

    def epoch(number: tf.Tensor) -> tf.data.Dataset:
        begin = number * size
        shares = owned_before(begin + size) - owned_before(begin)
        last = tf.cumsum(shares)[host]
        first = last - shares[host]
        files = _permutation(len(split.files), _seed(seed, _FILES, number))
        counts = tf.gather(split.counts, files)
        before = tf.cumsum(counts, exclusive=True)
        skip = tf.clip_by_value(first - before, 0, counts)
        take = tf.clip_by_value(last - before, 0, counts) - skip
        records = _read(
            split, tf.gather(split.files, files), tf.gather(split.firsts, files) + skip, take
        )
        shuffle_seed = tf.random.stateless_uniform(
            [], _seed(seed, _ORDER, number), None, None, tf.int64
        )
        # Within this function, forget the process's global seed: the order follows from ours
        # alone, and TensorFlow cannot combine the two when one is a tensor.
        tf.compat.v1.set_random_seed(None)
        records = records.shuffle(
            SHUFFLE_RECORDS, seed=shuffle_seed, reshuffle_each_iteration=False
        )
        position = begin + (host - begin) % hosts
        consumed = -(-tf.maximum(start - position, 0) // hosts)
        positions = tf.data.Dataset.range(position, begin + size, hosts)
        keys = tf.data.Dataset.zip(positions, records).skip(consumed)
        return keys.map(lambda position, key: (position, *key))

    return _epochs(start // size, epoch)


def scattered_indices(size: int, seed: int, start: int, stop: int) -> tf.data.Dataset:
    """Yield (position, index), each position by itself, so that any worker can be given any.

    The fixed shuffle hides the regularities of TensorFlow's index_shuffle at 24 rounds.
    """
    shuffled = _permutation(size, _seed(seed, _ORDER, tf.constant(-1, tf.int64)))

    def key(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        place = tf.raw_ops.RandomIndexShuffle(
            index=position % size,
            seed=tf.stack([tf.constant(seed, tf.int64), position // size, 0]),
            max_index=tf.constant(size - 1, tf.int64),
            rounds=24,
        )
        return position, shuffled[place]

    return tf.data.Dataset.range(start, stop).map(key)


def record_keys_by_file(
    split: RecordSplit, seed: int, first_epoch: int, last_epoch: int
) -> tf.data.Dataset:
    """Yield (position, shard, number, record), file by file, so that any worker can read any."""
    files = len(split.files)
    before = tf.cumsum(split.counts, exclusive=True)

    def read(turn: tf.Tensor) -> tf.data.Dataset:
        epoch = turn // files
        file = _permutation(files, _seed(seed, _FILES, epoch))[turn % files]
        count = tf.gather(split.counts, file)
        begin = epoch * len(split) + before[file]
        records = split.read(tf.gather(split.files, file), tf.gather(split.firsts, file), count)
        positions = tf.data.Dataset.range(begin, begin + count)
        return tf.data.Dataset.zip(positions, records)

    turns = tf.data.Dataset.range(first_epoch * files, min(last_epoch * files, sys.maxsize))
    records = turns.interleave(read, cycle_length=OPEN_FILES, num_parallel_calls=2)
    return records.shuffle(SHUFFLE_RECORDS, seed=seed).map(lambda position, key: (position, *key))


def _read(
    split: RecordSplit, files: tf.Tensor, firsts: tf.Tensor, counts: tf.Tensor
) -> tf.data.Dataset:
    """Read the given records of each file, several files at a time, in a fixed order."""
    stretches = tf.data.Dataset.from_tensor_slices((files, firsts, counts))
    return stretches.filter(lambda file, first, count: count > 0).interleave(
        split.read, cycle_length=OPEN_FILES, num_parallel_calls=2, deterministic=True
    )


def _epochs(first: int, epoch: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
    return tf.data.Dataset.range(first, sys.maxsize).flat_map(epoch)


def _permutation(size: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_shuffle(tf.range(size, dtype=tf.int64), seed)


def _seed(seed: int, stream: int, epoch: tf.Tensor) -> tf.Tensor:
    return tf.stack([tf.constant(seed * STREAMS + stream, tf.int64), epoch])
