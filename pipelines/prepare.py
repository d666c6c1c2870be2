"""Write a data set as TFDS's own sharded TFRecord files, and compute its image statistics.

The images are stored as they are, not encoded again. They and the statistics go into an
"incomplete" folder, which is renamed at the end, so an interrupted run leaves nothing that could be
taken for a data set. TFDS works in one process; at the scale of a cluster, its Beam path is the
engine (https://www.tensorflow.org/datasets/beam_datasets).
"""

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

from pipelines import decoding, order, statistics
from pipelines.datasets import prepared_dir
from pipelines.errors import DataError, first_line
from pipelines.loader import Example, OnBad, map_examples, options, test_batches
from pipelines.recipes import Recipe
from pipelines.sources import Source
from pipelines.splits import RecordSplit, Split
from pipelines.statistics import Statistics
from pipelines.streams import warn

VERSION = "1.0.0"  # that TFDS gives a first one


def prepare(
    source: Source,
    out_dir: Path,
    *,
    name: str,
    recipe: Recipe,
    progress: bool = True,
    log: OnBad = warn,
) -> tuple[Path, list[str]]:
    """Write a source to out_dir/name/1.0.0, so that open_source(name, data_dir=out_dir) opens it.

    Images that cannot be decoded are left out and named to `log` (default: a warning of the logger
    "pipelines"). The statistics are those of the training images as the recipe's test view shows
    them, for which these are decoded once more. Returns the folder and the names of the images
    left out. Raises DataError, also where a set of that name is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(f"The name '{name}' must be lower-case letters, digits and underscores.")
    place = Path(out_dir) / name / VERSION
    there = prepared_dir(name, Path(out_dir))
    if there:
        raise DataError(f"{there} is there already; choose another name or remove it.")
    if not progress:
        tfds.disable_progress_bar()
    bad: list[str] = []

    def note(image: str) -> None:
        bad.append(image)
        log(image)

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=list(source.class_names)),
            "id": tfds.features.Text(),
        }
    )
    known = compute_statistics(source, recipe, progress=progress)
    test_name = "validation" if name == "imagenet2012" else "test"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete.", dir=place.parent) as unfinished:
            tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version=VERSION,
                features=features,
                split_datasets={
                    test_name if split == "test" else split: _examples(images, note, source.place)
                    for split, images in source.splits.items()
                },
                data_dir=unfinished,
                description=f"{source.name}, prepared for training",
            )
            written = Path(unfinished) / name / VERSION
            statistics.save(known, written)
            written.replace(place)
    except (OSError, RuntimeError, AssertionError, tf.errors.OpError) as error:
        raise DataError(
            f"{name} could not be prepared in {out_dir}: {first_line(error)}."
        ) from error
    return place, bad


def compute_statistics(source: Source, recipe: Recipe, *, progress: bool = True) -> Statistics:
    """Compute the statistics of the training images as the recipe's test view shows them.

    Per-pixel mean [S, S, 3], channel mean and deviation, eigenvectors of the RGB covariance.
    Images that cannot be read are passed over. `statistics.save` puts them where a source finds
    them.
    """
    pixels = dataclasses.replace(
        recipe, subtract="channel_mean", channel_mean=(0.0, 0.0, 0.0), divide_by_std=False
    )
    size, count = recipe.image_size, 0
    total, products = np.zeros((size, size, 3)), np.zeros((3, 3))

    @tf.function
    def sums(batch: Example) -> tuple[tf.Tensor, tf.Tensor]:
        images = batch["image"] * batch["weight"][:, None, None, None]
        rows = tf.reshape(images, [-1, size * size, 3])
        squares = tf.cast(tf.matmul(rows, rows, transpose_a=True), tf.float64)
        return tf.reduce_sum(images, axis=0), tf.reduce_sum(squares, axis=0)

    batches = test_batches(source, pixels, split="train", batch_size=32, on_bad=lambda name: None)
    with tqdm(total=source.sizes["train"], unit="image", disable=not progress) as bar:
        for batch in batches:
            image_sum, squares = sums(batch)
            total += image_sum.numpy()
            products += squares.numpy()
            readable = int(batch["weight"].numpy().sum())
            count += readable
            bar.update(readable)
    if not count:
        raise DataError(f"None of the training images of {source.name} can be read.")
    pixel_mean = total / count
    channel_mean = pixel_mean.mean(axis=(0, 1))
    covariance = products / (count * size**2) - np.outer(channel_mean, channel_mean)
    return statistics.from_moments(channel_mean, covariance, pixel_mean)


def _examples(
    split: Split, note: OnBad, place: Path | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the readable images of a split for TFDS's writer, still encoded, under unique names."""
    fetch, identify = split.fetch(), split.identify()

    def example(*key: tf.Tensor) -> Example:
        image, label = fetch(*key)
        if image.dtype == tf.string:
            with tf.control_dependencies([decoding.decode(image, accurate=False)]):
                image = tf.identity(image)
        else:
            image = tf.io.encode_png(image)
        return {"image": image, "label": label, "id": identify(*key)}

    if isinstance(split, RecordSplit):
        keys = order.stored_records(split)
    else:
        keys = tf.data.Dataset.range(len(split))
    data = map_examples(keys, example, identify, guarded=True).prefetch(16)
    for found in tfds.as_numpy(data.with_options(options())):
        name = found["id"].decode().removeprefix(f"{place}/")
        if found["bad"]:
            note(found["bad"].decode())
        else:
            yield name, {"image": found["image"], "label": found["label"], "id": name}
