"""Open a data set: its class names, its splits and the statistics of its images."""

import contextlib
import dataclasses
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines import shards, statistics
from pipelines.datasets import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check,
    describe,
    find_data_dir,
    list_shards,
    prepared_dir,
)
from pipelines.errors import DataError, first_line
from pipelines.folders import IMAGE_SUFFIXES, list_folder, list_passed_over
from pipelines.splits import ArraySplit, FileSplit, RecordSplit, Split, hold_out, keep_classes
from pipelines.statistics import Statistics

# A set of images of one size is kept in memory up to this many bytes.
MAX_BYTES_IN_MEMORY = 2**30
# Labels of a shard that are looked at before work starts; about 10 MB of ImageNet.
CHECKED_LABELS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An opened data set.

    splits: "train", "test" and, if held out, "validation". place: its folder on disk, if any.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    statistics: Statistics
    place: Path | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Number of images of each split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """RGB mean of the training images, 0..255."""
        return self.statistics.channel_mean

    @property
    def channel_std(self) -> tuple[float, ...]:
        """RGB standard deviation of the training images, 0..255."""
        return self.statistics.channel_std

    @property
    def pixel_mean(self) -> np.ndarray | None:
        """Mean training image, float32 [H, W, 3] in 0..255, where it is known."""
        return self.statistics.pixel_mean


def open_source(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    validation_images: int = 0,
) -> Source:
    """Open a data set.

    classes: keep only these, relabelled in this order. validation_images: hold that many
    training images out as the split "validation": evenly spaced over the training images in
    their stored order (TFRecord shards: the last ones), the same in every run.
    Statistics are those of the remaining training images where they are in memory, else those
    that `prepare` wrote, else the published ones. Raises DataError with one sentence.
    """
    if data_dir is None or name not in ("folder", "tfrecord"):  # those are listed below
        check(name, data_dir)
    place: Path | None
    if name == "digits":
        place = None
        class_names, splits = _open_digits()
    elif name == "folder":
        place = Path(data_dir or "").expanduser()
        class_names, splits = _open_folder(place)
    elif name == "tfrecord":
        place = Path(data_dir or "").expanduser()
        class_names, splits = _open_shards(place)
    else:
        place = _find_or_download(name, find_data_dir(data_dir))
        class_names, splits = _open_tfds(name, place)
    if classes is not None:
        relabel = _relabel(name, class_names, classes)
        splits = {split: keep_classes(images, relabel) for split, images in splits.items()}
        class_names = tuple(classes)
    for split, images in splits.items():
        if not len(images):
            raise DataError(
                f"{name} has no {split} images of the classes {', '.join(classes or ())}."
            )
    if validation_images:
        total = len(splits["train"])
        if not 0 < validation_images < total:
            raise DataError(
                f"{validation_images} validation images cannot be held out of {total} training "
                f"images; give a number between 1 and {total - 1}."
            )
        splits["train"], splits["validation"] = hold_out(splits["train"], validation_images)
    return Source(name, class_names, splits, _statistics(name, splits["train"], place), place)


def _statistics(name: str, train: Split, place: Path | None) -> Statistics:
    if isinstance(train, ArraySplit):
        return statistics.of_images(train.images)
    stored = statistics.load(place) if place else None
    spec = describe(name)
    return stored or Statistics(
        spec.channel_mean or IMAGENET_MEAN, spec.channel_std or IMAGENET_STD
    )


def _open_digits() -> tuple[tuple[str, ...], dict[str, Split]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 8x8 pixels of 0..16, each shown as 4x4 pixels of 0..255.
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    everything = ArraySplit(images, digits.target.astype(np.int32))
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, random_state=0, stratify=digits.target
    )
    names = tuple(str(label) for label in digits.target_names)
    return names, {"train": everything.select(train), "test": everything.select(test)}


def _open_folder(folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    class_names, records = list_folder(folder)
    passed_over = list_passed_over(folder)
    if passed_over:
        logging.getLogger("pipelines").warning(
            "Files and folders passed over in %s: %d, the first is %s; images are files ending in "
            "%s, directly in a class folder.",
            folder,
            len(passed_over),
            passed_over[0],
            ", ".join(IMAGE_SUFFIXES),
        )
    splits: dict[str, Split] = {}
    for split, pairs in records.items():
        paths, labels = zip(*pairs, strict=True)
        splits[split] = FileSplit(np.asarray(paths), np.asarray(labels, np.int32))
    return class_names, splits


def _open_shards(folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Open TFRecord shards of Model Garden or MLPerf."""
    splits = {
        split: shards.record_split(files, shards.count_all(files), shards.parse_model_garden)
        for split, files in list_shards(folder).items()
    }
    names = folder / "labels.txt"
    try:
        lines = (
            names.read_text(encoding="utf-8").splitlines()
            if names.exists()
            else list(map(str, range(1, 1001)))
        )
    except ValueError:
        raise DataError(f"{names} is no UTF-8 text: write a class a line, in UTF-8.") from None
    class_names = tuple(line.strip() for line in lines if line.strip())
    for split in splits.values():
        _check_labels(split, len(class_names))
    return class_names, splits


def _check_labels(split: RecordSplit, classes: int) -> None:
    """Refuse shards whose labels do not count from 1 to ``classes``, as their first images tell."""
    file = split.files[0]
    records = tf.data.TFRecordDataset(file).take(CHECKED_LABELS)
    try:
        labels = [int(label) for label in records.map(lambda record: split.parse(record)[1])]
    except tf.errors.OpError as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}; write it again.") from None
    wrong = next((label for label in labels if not 0 <= label < classes), None)
    if wrong is not None:
        raise DataError(
            f"{file} has the label {wrong + 1}, and labels count from 1 to {classes:,}: write the "
            "shards with such labels, and labels.txt with a line for each class."
        )


def _open_tfds(name: str, place: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    import tensorflow_datasets as tfds  # here, because it takes a second that digits need not

    try:
        builder = tfds.builder_from_directory(place)
        infos, features = builder.info.splits, builder.info.features
        if not {"image", "label"} <= set(features or ()):
            raise DataError(f"{name} is no image classification set: it has no image and label.")
        # imagenet2012's own split "test" has no labels, and its files are often left out.
        wanted = ("validation",) if name == "imagenet2012" else ("test", "validation")
        records = {
            split: shards.record_split(
                [str(path) for path in infos[split].filepaths],
                infos[split].shard_lengths,
                shards.tfds_parser(features),
            )
            for split in ("train", *wanted)
            if split in infos
        }
        # Sets whose test labels are kept secret have -1 there.
        labelled = (s for s in wanted if s in records and _first_label(records[s]) >= 0)
        test = next(labelled, None)
        if "train" not in records or test is None:
            raise DataError(
                f"{name} has the splits {', '.join(infos)}; it needs 'train', and 'test' or "
                "'validation' with labels."
            )
        splits: dict[str, Split] = {}
        for split, part in (("train", records["train"]), ("test", records[test])):
            shape = features["image"].shape
            # Decoded to three channels, however many are stored.
            in_memory = (
                None not in shape and len(part) * shape[0] * shape[1] * 3 <= MAX_BYTES_IN_MEMORY
            )
            splits[split] = _load(list(part.files)) if in_memory else part
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise DataError(f"{name} in {place} cannot be read: {first_line(error)}.") from error
    return tuple(features["label"].names), splits


def _first_label(split: RecordSplit) -> int:
    """Return the label of the first record, -1 where there is none."""
    for record in tf.data.TFRecordDataset(list(split.files)).take(1):
        return int(split.parse(record)[1])
    return -1


def _load(files: list[str]) -> ArraySplit:
    """Decode a whole split of TFDS; several images at once, which its own reader does not."""
    stored = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    records = tf.data.TFRecordDataset(files).batch(1000)
    encoded = records.map(lambda batch: tf.io.parse_example(batch, stored)).unbatch()
    decoded = encoded.map(
        # This operation reads JPEG as well, and turns grey into RGB.
        lambda example: (tf.io.decode_png(example["image"], channels=3), example["label"]),
        num_parallel_calls=os.cpu_count(),
    )
    images, labels = zip(*decoded.batch(1000).as_numpy_iterator(), strict=True)
    return ArraySplit(np.concatenate(images), np.concatenate(labels).astype(np.int32))


def _find_or_download(name: str, data_dir: Path) -> Path:
    """Return the folder of a prepared data set; let TFDS fetch and prepare what is missing."""
    place = prepared_dir(name, data_dir)
    if place is not None:
        return place
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        _probe(next(iter(builder.url_infos or ()), ""))
        builder.download_and_prepare()
    except Exception as error:  # whatever TFDS, the network or the disk raise
        raise DataError(
            f"{name} is not in {data_dir} and could not be downloaded: {first_line(error)}; "
            "check the network, or copy a prepared one there."
        ) from error
    return Path(builder.data_dir)


def _probe(url: str) -> None:
    """Ask a server for one answer, because TFDS tries for minutes where there is no network."""
    if url.startswith("http"):
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "tfds"})
        # A server that answers with an error is there; TFDS will tell what it says.
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(request, timeout=10),
        ):
            pass


def _relabel(name: str, class_names: tuple[str, ...], classes: Sequence[str]) -> np.ndarray:
    """Return the new label of each class, int32, -1 for those that are not chosen."""
    unknown = [chosen for chosen in classes if chosen not in class_names]
    if unknown:
        there = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
        raise DataError(f"{name} has no class '{unknown[0]}'; it has {there}.")
    if len(set(classes)) < max(2, len(classes)):
        raise DataError(
            f"The classes are {', '.join(classes)}; give at least two different ones of {name}."
        )
    relabel = np.full(len(class_names), -1, np.int32)
    for label, chosen in enumerate(classes):
        relabel[class_names.index(chosen)] = label
    return relabel
