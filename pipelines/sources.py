"""Open a data set: its class names, its splits and the statistics of its images."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.datasets import (
    DATASETS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    DataError,
    check,
    find_data_dir,
    list_folder,
    prepared_dir,
)
from pipelines.statistics import Statistics, image_statistics


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySplit:
    """Images in memory: uint8 [N, H, W, 3], labels int32 [N]."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray, labels: np.ndarray) -> "ArraySplit":
        """Return the images of these indices under new labels."""
        return ArraySplit(self.images[indices], labels)


@dataclasses.dataclass(frozen=True, eq=False)
class FileSplit:
    """Encoded images, one a file: paths [N] of str, labels int32 [N]."""

    paths: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: np.ndarray, labels: np.ndarray) -> "FileSplit":
        """Return the images of these indices under new labels."""
        return FileSplit(self.paths[indices], labels)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordSplit:
    """Encoded images in TFRecord shards.

    files: one path a shard; firsts, counts: which of its records belong to the split.
    features: the TFDS features that parse a record into image, label and more.
    """

    files: tuple[str, ...]
    firsts: np.ndarray
    counts: np.ndarray
    features: Any

    def __len__(self) -> int:
        return int(self.counts.sum())

    def parse(self, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Turn a serialised record into the encoded image and its int32 label."""
        import tensorflow_datasets as tfds

        example = self.features.deserialize_example(
            record, decoders={"image": tfds.decode.SkipDecoding()}
        )
        return example["image"], tf.cast(example["label"], tf.int32)


Split = ArraySplit | FileSplit | RecordSplit


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An opened data set.

    splits: "train", "test" and, if held out, "validation".
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    statistics: Statistics

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
    Statistics are those of the remaining training images where they fit memory, else the
    published ones. Raises DataError with one sentence.
    """
    check(name, data_dir)
    if name == "digits":
        class_names, splits = _open_digits()
    elif name == "folder":
        class_names, splits = _open_folder(Path(data_dir or "").expanduser())
    else:
        class_names, splits = _open_tfds(name, find_data_dir(data_dir))
    if classes is not None:
        splits = {
            split: _keep_classes(name, split_data, class_names, classes)
            for split, split_data in splits.items()
        }
        class_names = tuple(classes)
    if validation_images:
        splits["train"], splits["validation"] = _hold_out(splits["train"], validation_images)
    train = splits["train"]
    if isinstance(train, ArraySplit):
        statistics = image_statistics(train.images)
    else:
        spec = DATASETS[name]
        statistics = Statistics(
            spec.channel_mean or IMAGENET_MEAN, spec.channel_std or IMAGENET_STD
        )
    return Source(name, class_names, splits, statistics)


def _open_digits() -> tuple[tuple[str, ...], dict[str, Split]]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 8x8 pixels of 0..16, each shown as 4x4 pixels of 0..255.
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=3)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels
    )
    splits = {
        part: ArraySplit(images[at], labels[at]) for part, at in (("train", train), ("test", test))
    }
    return tuple(str(label) for label in digits.target_names), dict(splits)


def _open_folder(folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    class_names, records = list_folder(folder)
    splits: dict[str, Split] = {}
    for split, pairs in records.items():
        paths, labels = zip(*pairs, strict=True)
        splits[split] = FileSplit(np.asarray(paths), np.asarray(labels, np.int32))
    return class_names, splits


def _open_tfds(name: str, data_dir: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    import tensorflow_datasets as tfds

    place = prepared_dir(name, data_dir)
    if place is None:
        _download(name, data_dir)
        place = prepared_dir(name, data_dir)
    try:
        builder = tfds.builder_from_directory(place)
        infos = builder.info.splits
        test = "test" if "test" in infos and name != "imagenet2012" else "validation"
        parts = {"train": "train", "test": test}
        in_memory = None not in builder.info.features["image"].shape
        load = _load_arrays if in_memory else _list_records
        splits = {split: load(builder, part) for split, part in parts.items()}
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise DataError(f"{name} in {place} cannot be read: {_sentence(error)}.") from error
    return tuple(builder.info.features["label"].names), splits


def _load_arrays(builder: Any, part: str) -> Split:
    """Decode a whole split; several images at once, which TFDS's own reader does not."""
    records = _list_records(builder, part)
    data = tf.data.Dataset.from_tensor_slices(list(records.files)).flat_map(tf.data.TFRecordDataset)
    data = data.map(builder.info.features.deserialize_example, num_parallel_calls=os.cpu_count())
    chunks = list(data.batch(1000).as_numpy_iterator())
    images = np.concatenate([chunk["image"] for chunk in chunks])
    labels = np.concatenate([chunk["label"] for chunk in chunks])
    return ArraySplit(images, labels.astype(np.int32))


def _list_records(builder: Any, part: str) -> RecordSplit:
    info = builder.info.splits[part]
    counts = np.asarray(info.shard_lengths, np.int64)
    return RecordSplit(
        files=tuple(str(path) for path in info.filepaths),
        firsts=np.zeros_like(counts),
        counts=counts,
        features=builder.info.features,
    )


def _download(name: str, data_dir: Path) -> None:
    """Let TFDS fetch and prepare a data set."""
    import tensorflow_datasets as tfds

    try:
        tfds.builder(name, data_dir=data_dir).download_and_prepare()
    except Exception as error:  # whatever TFDS, requests or the disk raise
        raise DataError(
            f"{name} is not in {data_dir} and could not be downloaded: {_sentence(error)}; "
            "check the network, or copy a prepared one there."
        ) from error


def _sentence(error: BaseException) -> str:
    """Return the first line of an error, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _keep_classes(
    name: str, split: Split, class_names: tuple[str, ...], classes: Sequence[str]
) -> Split:
    unknown = [chosen for chosen in classes if chosen not in class_names]
    if unknown:
        there = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
        raise DataError(f"{name} has no class '{unknown[0]}'; it has {there}.")
    if len(set(classes)) < max(2, len(classes)):
        raise DataError(
            f"The classes are {', '.join(classes)}; give at least two different ones of {name}."
        )
    if isinstance(split, RecordSplit):
        raise DataError(f"Classes of {name} cannot be chosen: its records are read in a stream.")
    new_label = np.full(len(class_names), -1, np.int32)
    for label, chosen in enumerate(classes):
        new_label[class_names.index(chosen)] = label
    labels = new_label[split.labels]
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise DataError(f"{name} has no images of the classes {', '.join(classes)}.")
    return split.select(kept, labels[kept])


def _hold_out(split: Split, images: int) -> tuple[Split, Split]:
    """Split off the validation images; returns (rest, validation)."""
    total = len(split)
    if not 0 < images < total:
        raise DataError(
            f"{images} validation images cannot be held out of {total} training images; "
            f"give a number between 1 and {total - 1}."
        )
    if isinstance(split, RecordSplit):
        ends = np.cumsum(split.counts)
        rest = np.clip(total - images - (ends - split.counts), 0, split.counts)
        return (
            dataclasses.replace(split, counts=rest),
            dataclasses.replace(split, firsts=split.firsts + rest, counts=split.counts - rest),
        )
    held = np.arange(images, dtype=np.int64) * total // images
    rest = np.setdiff1d(np.arange(total), held)
    return split.select(rest, split.labels[rest]), split.select(held, split.labels[held])
