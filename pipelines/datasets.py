"""The data sets: what each is, where it must lie and how to get it. No TensorFlow in here."""

import dataclasses
import os
from pathlib import Path


class DataError(ValueError):
    """A fault in the data or in what was asked of it, said in one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """Describe one data set.

    recipe, image_size: the defaults. classes, train_images, test_images: None where the disk
    decides. channel_mean, channel_std: RGB in 0..255, None where not known before. Sets that fit
    memory are opened with their own, computed.
    """

    title: str
    place: str
    how_to_get: str
    recipe: str
    image_size: int
    classes: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    channel_mean: tuple[float, float, float] | None = None
    channel_std: tuple[float, float, float] | None = None


# Mean of the VGG release (its Caffe models subtract BGR 103.939, 116.779, 123.68); deviation as
# torchvision publishes it, (0.229, 0.224, 0.225) of pixels in 0..1.
IMAGENET_MEAN = (123.68, 116.779, 103.939)
IMAGENET_STD = (58.395, 57.12, 57.375)

DATASETS = {
    "digits": DatasetSpec(
        title="handwritten digits of scikit-learn, 8x8 shown as 32x32",
        place="inside scikit-learn",
        how_to_get="nothing to do",
        recipe="digits",
        image_size=32,
        classes=10,
        train_images=1437,
        test_images=360,
    ),
    "cifar10": DatasetSpec(
        title="CIFAR-10 (Krizhevsky 2009)",
        place="DATA_DIR/cifar10/3.0.2",
        how_to_get="downloaded at first use",
        recipe="cifar",
        image_size=32,
        classes=10,
        train_images=50_000,
        test_images=10_000,
        channel_mean=(125.307, 122.950, 113.865),  # of the 50,000 training images
        channel_std=(62.993, 62.089, 66.705),
    ),
    "cifar100": DatasetSpec(
        title="CIFAR-100 (Krizhevsky 2009)",
        place="DATA_DIR/cifar100/3.0.2",
        how_to_get="downloaded at first use",
        recipe="cifar",
        image_size=32,
        classes=100,
        train_images=50_000,
        test_images=10_000,
    ),
    "imagenet2012": DatasetSpec(
        title="ILSVRC 2012 classification (Russakovsky et al. 2015)",
        place="DATA_DIR/imagenet2012/5.1.0",
        how_to_get=(
            "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org into "
            "DATA_DIR/downloads/manual and run `tfds build imagenet2012 --data_dir=DATA_DIR`"
        ),
        recipe="imagenet",
        image_size=224,
        classes=1000,
        train_images=1_281_167,
        test_images=50_000,
        channel_mean=IMAGENET_MEAN,
        channel_std=IMAGENET_STD,
    ),
    "folder": DatasetSpec(
        title="your own images",
        place="DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val/CLASS/*.jpg",
        how_to_get="one folder a class, the same classes in both splits",
        recipe="imagenet",
        image_size=224,
        channel_mean=IMAGENET_MEAN,
        channel_std=IMAGENET_STD,
    ),
}

# The names a folder's held-out split may have, in order of preference.
TEST_FOLDERS = ("val", "validation", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


def check(name: str, data_dir: str | os.PathLike[str] | None = None) -> None:
    """Look, before TensorFlow is loaded, whether the data can be opened.

    Raises DataError with one sentence that says what to do.
    """
    if name not in DATASETS:
        raise DataError(
            f"There is no data set '{name}'; choose one of {', '.join(sorted(DATASETS))}."
        )
    if name == "imagenet2012":
        _check_imagenet(find_data_dir(data_dir))
    if name == "folder":
        if data_dir is None:
            raise DataError(
                "The data set 'folder' needs a data directory that holds "
                "train/CLASS/*.jpg and val/CLASS/*.jpg."
            )
        list_folder(Path(data_dir).expanduser())


def find_data_dir(data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the directory that holds prepared data sets: the given one or TFDS's default."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def prepared_dir(name: str, data_dir: Path) -> Path | None:
    """Return the folder of the newest version of a data set on disk, or None."""
    found = sorted(
        (tuple(int(part) for part in info.parent.name.split(".")), info.parent)
        for info in data_dir.glob(f"{name}/*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    )
    return found[-1][1] if found else None


def _check_imagenet(data_dir: Path) -> None:
    if prepared_dir("imagenet2012", data_dir) is None:
        how = DATASETS["imagenet2012"].how_to_get.replace("DATA_DIR", str(data_dir))
        raise DataError(f"ImageNet must lie in {data_dir}/imagenet2012/5.1.0: {how}.")


def list_folder(folder: Path) -> tuple[tuple[str, ...], dict[str, list[tuple[str, int]]]]:
    """List a folder of images: class names, and for "train" and "test" the (path, label) pairs.

    The rules are those of tfds.ImageFolder: classes and files sorted by name. ImageFolder itself
    gives its list only together with the read images, so that order and resume would cost
    reading; hence our own list.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; it must hold train/CLASS/*.jpg.")
    splits = {"train": folder / "train"}
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)
    if not splits["train"].is_dir():
        raise DataError(f"{folder} has no folder 'train' with one folder a class in it.")
    if test is None:
        raise DataError(
            f"{folder} has no folder 'val' (or 'validation', 'test') to measure the error on; "
            "put some images of each class there."
        )
    splits["test"] = test
    classes = _folders(splits["train"])
    if len(classes) < 2:
        what = f"only one class folder, '{classes[0]}'" if classes else "no class folders"
        raise DataError(f"{splits['train']} has {what}; at least two classes are needed.")
    unknown = sorted(set(_folders(test)) - set(classes))
    if unknown:
        raise DataError(f"{test} has the class '{unknown[0]}', which {splits['train']} has not.")
    records = {}
    for split, place in splits.items():
        records[split] = [
            (path, label)
            for label, class_name in enumerate(classes)
            for path in _images(place / class_name)
        ]
        if not records[split]:
            raise DataError(
                f"{place} has no images; files ending in {', '.join(IMAGE_SUFFIXES)} are read."
            )
    return tuple(classes), records


def _folders(place: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(place) if entry.is_dir())


def _images(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    return sorted(
        entry.path for entry in os.scandir(place) if entry.name.lower().endswith(IMAGE_SUFFIXES)
    )
