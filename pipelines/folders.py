"""Lists of image files: one folder a class, or ImageNet's raw layout. No TensorFlow in here.

The rules are those of tfds.ImageFolder: classes and files sorted by name. ImageFolder itself
gives its list only together with the read images, so that order and resume would cost reading;
hence our own list.
"""

import csv
import os
from pathlib import Path

from pipelines.errors import DataError

# The names the held-out split may have, in order of preference.
TEST_FOLDERS = ("val", "validation", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")
# What lies beside images and nobody takes for one.
OTHER_SUFFIXES = (".txt", ".csv", ".json", ".xml", ".md", ".html", ".db", ".ini")
# Where ILSVRC's development kit and its copies keep the labels of the flat validation folder.
LABEL_FILES = ("val.txt", "LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt")
DEVKIT_FOLDERS = ("", "val", "devkit/data", "ILSVRC2012_devkit_t12/data")

Records = list[tuple[str, int]]


def list_folder(folder: Path) -> tuple[tuple[str, ...], dict[str, Records]]:
    """List a folder of images.

    Returns the class names, and for "train" and "test" the (path, label) pairs. The held-out
    split has a folder a class as well, or all its images flat as ILSVRC ships them, with one of
    LABEL_FILES beside them. Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; it must hold train/CLASS/*.jpg.")
    train = folder / "train"
    test = _test_folder(folder)
    if not train.is_dir():
        raise DataError(f"{folder} has no folder 'train' with one folder a class in it.")
    if test is None:
        raise DataError(
            f"{folder} has no folder 'val' (or 'validation', 'test') to measure the error on; "
            "put some images of each class there."
        )
    classes = tuple(_folders(train))
    if len(classes) < 2:
        what = f"only one class folder, '{classes[0]}'" if classes else "no class folders"
        raise DataError(f"{train} has {what}; at least two classes are needed.")
    for name in classes:
        if name.encode(errors="ignore").decode() != name:
            raise DataError(
                f"The name of the class folder {str(train / name)!a} is not in UTF-8: rename it."
            )
    learnt = _list_classes(train, classes)
    empty = sorted(set(range(len(classes))) - {label for _, label in learnt})
    if empty:
        raise DataError(
            f"The class folder {train / classes[empty[0]]} has no images; put files ending in "
            f"{', '.join(IMAGE_SUFFIXES)} directly into it, or remove it."
        )
    flat = _images(test)
    if flat and not _folders(test):
        held_out = _label_flat(folder, test, flat, classes)
    else:
        held_out = _list_classes(test, classes)
    return classes, {"train": learnt, "test": held_out}


def list_passed_over(folder: Path) -> list[str]:
    """List the paths that `list_folder` passes over and that may have been meant as images.

    folder: one that `list_folder` accepts. These are files of other suffixes, folders inside
    class folders and images beside them; hidden files and text are not told.
    """
    found = []
    for split in filter(None, (folder / "train", _test_folder(folder))):
        classes = [split / name for name in _folders(split)]
        for place in (split, *classes):
            read = os.DirEntry.is_dir if classes and place == split else _is_image
            found += [
                entry.path
                for entry in os.scandir(place)
                if not read(entry)
                and not entry.name.startswith(".")
                and not entry.name.lower().endswith(OTHER_SUFFIXES)
            ]
    return sorted(found)


def _test_folder(folder: Path) -> Path | None:
    return next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), None)


def _list_classes(place: Path, classes: tuple[str, ...]) -> Records:
    unknown = sorted(set(_folders(place)) - set(classes))
    if unknown:
        raise DataError(
            f"{place} has the class '{unknown[0]}', which the training images have not."
        )
    records = [
        (path, label) for label, name in enumerate(classes) for path in _images(place / name)
    ]
    if not records:
        raise DataError(
            f"{place} has no images; files ending in {', '.join(IMAGE_SUFFIXES)} are read."
        )
    return records


def _label_flat(folder: Path, test: Path, paths: list[str], classes: tuple[str, ...]) -> Records:
    """Find the labels of images that lie flat in one folder."""
    found = [
        folder / place / name
        for name in LABEL_FILES
        for place in (*DEVKIT_FOLDERS, test.name)
        if (folder / place / name).is_file()
    ]
    if not found:
        raise DataError(
            f"The images in {test} lie in no class folders, and none of "
            f"{', '.join(LABEL_FILES)} in {folder} tells their classes."
        )
    names = [Path(path).stem for path in paths]
    classes_of = _read_labels(found[0], names, classes)
    number = {name: label for label, name in enumerate(classes)}
    for name in names:
        if classes_of.get(name) not in number:
            raise DataError(
                f"{found[0]} gives the image {name} the class '{classes_of.get(name)}', "
                "which the training images have not."
            )
    return [(path, number[classes_of[name]]) for path, name in zip(paths, names, strict=True)]


def _read_labels(file: Path, names: list[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Read the class of each image (its name without suffix) from one of LABEL_FILES."""
    try:
        lines = file.read_text().split("\n")
        if file.name == "val.txt":
            # Caffe's list: "ILSVRC2012_val_00000001.JPEG 65".
            pairs = [line.split() for line in lines if line.strip()]
            return _name_classes(file, {Path(name).stem: label for name, label in pairs}, classes)
        if file.name == "LOC_val_solution.csv":
            # Kaggle's list: the class stands before the boxes.
            rows = list(csv.DictReader(lines))
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
        # The development kit's: one ILSVRC number a line, in the order of the file names;
        # meta.mat tells the WordNet id of each number.
        from scipy.io import loadmat

        meta = loadmat(file.with_name("meta.mat"), squeeze_me=True)["synsets"]
        wordnet = {str(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in meta}
        numbers = [line.strip() for line in lines if line.strip()]
        return dict(zip(names, (wordnet[number] for number in numbers), strict=True))
    except DataError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read as labels of {len(names)} images: "
            f"{type(error).__name__}: {error}."
        ) from error


def _name_classes(file: Path, labels: dict[str, str], classes: tuple[str, ...]) -> dict[str, str]:
    """Turn the labels of Caffe's list into class names.

    All are indices, counting from 0 in the sorted classes, or all are class names.
    """
    by_index = {str(index): name for index, name in enumerate(classes)}
    given = set(labels.values())
    indices, names = given & by_index.keys(), given & set(classes)
    other = sorted(label for label in names & indices if by_index[label] != label)
    if other and indices == names:
        raise DataError(
            f"{file} holds names or indices of classes, and which cannot be told: '{other[0]}' is "
            f"a class and the index of '{by_index[other[0]]}'; put the images into class folders, "
            "or begin the names of the classes with a letter."
        )
    if len(names) > len(indices):
        return labels
    return {image: by_index.get(label, f"index {label}") for image, label in labels.items()}


def _folders(place: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(place) if entry.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def _images(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    return sorted(entry.path for entry in os.scandir(place) if _is_image(entry))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir()
