"""Streams of batches: training in a seeded order that can start anywhere, testing exact.

The training stream is the concatenation of epochs. The image at a position of it, and what
augmentation does to it, follow from (seed, epoch, index) alone, so a stream that starts at a
position equals one that came there.
"""

import ctypes
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines import order, transforms
from pipelines.errors import DataError
from pipelines.preprocessing import View, augment, mean_and_std, preprocess, single_view
from pipelines.recipes import Recipe
from pipelines.sources import Source
from pipelines.splits import ArraySplit, RecordSplit, Split

# Called with the name of an image that cannot be read.
OnBad = Callable[[str], None]
Example = dict[str, tf.Tensor]


def train_batches(
    source: Source,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
    on_bad: OnBad | None = None,
) -> tf.data.Dataset:
    """Return the endless training stream.

    start: number of images already consumed, by all shards together; skipping decodes nothing.
    shard_index, shard_count: this host's part: the positions that leave the remainder
    shard_index when divided by shard_count.
    on_bad: None raises TensorFlow's error at an unreadable image; a function is called with its
    name, and the image keeps its place with weight 0. The guard costs time: `train_stream` uses
    it only after the first error.
    Elements: {"image": float32 [B, S, S, 3], "label": int32 [B], "weight": float32 [B]}.
    """
    if start % shard_count:
        raise ValueError(f"The start {start} is not a multiple of the {shard_count} shards.")
    keep_freed_memory()
    split = source.splits["train"]
    shard = (shard_index, shard_count)
    at_once = is_pad_crop(split, recipe)
    if recipe.alternate_flips and not at_once:
        raise DataError(
            f"Flips alternate where the images are in memory, {recipe.image_size} pixels a side; "
            "these are not: leave alternate_flips out."
        )
    if isinstance(split, ArraySplit) and at_once:
        data = _pad_crop_batches(source, split, recipe, batch_size, seed, start, shard)
        return data.prefetch(2).with_options(options())
    if isinstance(split, RecordSplit):
        keys = order.shuffled_records(split, seed, start, shard)
    else:
        keys = order.shuffled_indices(len(split), seed, start, shard)
    examples = map_examples(
        keys, train_example(source, recipe, seed), positional(split), guarded=on_bad is not None
    )
    return finish(examples, batch_size, on_bad)


def train_example(source: Source, recipe: Recipe, seed: int) -> Callable[..., Example]:
    """Return the function from a position and key to the augmented training example."""
    fetch = source.splits["train"].fetch()

    def example(position: tf.Tensor, *key: tf.Tensor) -> Example:
        image, label = fetch(*key)
        pixels = augment(image, recipe, source.statistics, transforms.image_seed(seed, position))
        return {"image": pixels, "label": label, "weight": tf.ones([])}

    return example


def positional(split: Split) -> Callable[..., tf.Tensor]:
    """Return the function from a position and key to the name of the image."""
    identify = split.identify()
    return lambda position, *key: identify(*key)


def test_batches(
    source: Source,
    recipe: Recipe,
    *,
    split: str = "test",  # noqa: PT028
    batch_size: int,
    start: int = 0,  # noqa: PT028
    shard_index: int = 0,  # noqa: PT028
    shard_count: int = 1,  # noqa: PT028
    view: View = single_view,  # noqa: PT028
    on_bad: OnBad | None = None,  # noqa: PT028
) -> tf.data.Dataset:
    """Return the images of a split once, in their stored order, as the recipe tests them.

    start: number of images of this shard to skip. shard_index, shard_count: this host's part;
    all hosts get the same number of batches. view: what is cut out of an image, e.g.
    views.ten_crop; "image" is then [B, views, h, w, 3].
    Elements as those of `train_batches`; the last batches are filled with images of weight 0.
    """
    images = source.splits[split]
    fetch = images.fetch()

    def example(*key: tf.Tensor) -> Example:
        image, label = fetch(*key)
        pixels = preprocess(image, recipe, source.statistics, view)
        return {"image": pixels, "label": label, "weight": tf.ones([])}

    keys = order.stored_records(images) if isinstance(images, RecordSplit) else None
    if keys is None:
        keys = tf.data.Dataset.range(len(images))
    keys = keys.shard(shard_count, shard_index).skip(start)
    examples = map_examples(keys, example, images.identify(), guarded=on_bad is not None)
    own = len(range(shard_index, len(images), shard_count))
    batches = math.ceil(math.ceil(len(images) / shard_count) / batch_size)
    filling = tf.data.Dataset.from_tensors(_blank(examples.element_spec))
    filled = examples.concatenate(filling.repeat(batches * batch_size - own))
    return finish(filled, batch_size, on_bad)


test_batches.__test__ = False  # type: ignore[attr-defined]  # for pytest: not a test


def cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep freed image buffers for the next ones.

    By default it returns them to the kernel, and touching new ones costs 0.15 ms an image of
    224x224, a tenth of its decoding.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # from malloc.h
        mallopt(mmap_threshold, 32 * 2**20)  # the largest it takes
        mallopt(trim_threshold, 512 * 2**20)


def options() -> tf.data.Options:
    """Fix the parallelism: an iterator with autotuning can stall for seconds when it is freed."""
    chosen = tf.data.Options()
    chosen.autotune.enabled = False
    chosen.deterministic = True
    chosen.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return chosen


def map_examples(
    keys: tf.data.Dataset,
    example: Callable[..., Example],
    identify: Callable[..., tf.Tensor],
    *,
    guarded: bool,
) -> tf.data.Dataset:
    """Turn keys into examples, in order; guarded, unreadable ones are blank and say "bad"."""
    if not guarded:
        return keys.map(example, num_parallel_calls=cores())

    def good(*key: tf.Tensor) -> Example:
        return {**example(*key), "bad": tf.constant("")}

    def one(*key: tf.Tensor) -> tf.data.Dataset:
        alone = tf.data.Dataset.from_tensors(key)
        read = alone.map(good)
        blank = alone.map(lambda *key: {**_blank(read.element_spec), "bad": identify(*key)})
        return read.ignore_errors().concatenate(blank).take(1)

    return keys.interleave(
        one, cycle_length=cores(), num_parallel_calls=cores(), deterministic=True
    )


def finish(examples: tf.data.Dataset, batch_size: int, on_bad: OnBad | None) -> tf.data.Dataset:
    """Batch the examples, and report the unreadable among them."""
    data = examples.batch(batch_size, drop_remainder=True)
    if on_bad is not None:
        data = data.map(_reporter(on_bad))
    return data.prefetch(2).with_options(options())


def _reporter(on_bad: OnBad) -> Callable[[Example], Example]:
    def tell(names: np.ndarray) -> np.bool_:
        for name in names:
            if name:
                on_bad(os.fsdecode(name))
        return np.True_

    def report(batch: Example) -> Example:
        names = batch.pop("bad")
        told = tf.cond(
            tf.reduce_any(names != ""),
            lambda: tf.numpy_function(tell, [names], tf.bool),
            lambda: tf.constant(True),
        )
        with tf.control_dependencies([told]):
            return {key: tf.identity(value) for key, value in batch.items()}

    return report


def _blank(spec: dict[str, tf.TensorSpec]) -> dict[str, Any]:
    """Return zeros in the form of an example, so of weight 0; unknown sides become 1."""
    return {
        key: tf.zeros([side or 1 for side in part.shape], part.dtype)
        if part.dtype != tf.string
        else tf.constant("")
        for key, part in spec.items()
    }


def is_pad_crop(split: Split, recipe: Recipe) -> bool:
    """Tell whether whole batches can be padded and cropped at once."""
    sides = (recipe.image_size,) * 2
    in_memory = isinstance(split, ArraySplit) and split.images.shape[1:3] == sides
    return recipe.crop == "padded" and in_memory


def _pad_crop_batches(
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
    if recipe.alternate_flips:
        first_flips = order.drawn_once(len(split), seed) < 0.5

    def batch(position: tf.Tensor, index: tf.Tensor, uniform: tf.Tensor) -> Example:
        flips = uniform[:, 2] < 0.5
        if recipe.alternate_flips:
            turned = position // len(split) % 2 == 1
            flips = tf.gather(first_flips, index) != turned
        rows, columns = transforms.crop_positions(
            uniform, flips if recipe.flip else None, size=size, padding=padding
        )
        place = rows * padded + columns
        first = tf.cast(index, tf.int32)[:, None, None] * padded**2
        images = tf.cast(tf.gather(pixels, first + place), tf.float32)
        images -= tf.gather(flat_mean, place)
        if recipe.divide_by_std:
            images /= std
        label = tf.gather(labels, index)
        return {"image": images, "label": label, "weight": tf.ones([batch_size])}

    keys = order.shuffled_indices(len(split), seed, start, shard, draws=3)
    return keys.batch(batch_size, drop_remainder=True).map(batch, num_parallel_calls=cores())
