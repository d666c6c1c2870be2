"""Class numbers of ILSVRC, for the test server's submission file.

The development kit (readme.txt of ILSVRC2012_devkit_t12, "Submission format") asks for one line an
image, in the alphabetical order of the file names, with up to five ILSVRC2012_IDs, the most
confident first. These IDs, 1 to 1,000, are the kit's own: neither the order of the sorted WordNet
ids (tench, n01440764, is class 0 there and ID 449) nor anybody's class index plus one.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from resnet_keras.errors import InputError

CLASSES = 1000
LABELS = 5
# No ID: the image keeps its line, and whatever it shows counts as wrong.
NO_ANSWER = "0 0 0 0 0"


def read_ids(file: Path | None) -> dict[str, int]:
    """Return the ILSVRC2012_ID of each WordNet id, 1 to 1,000.

    Args:
        file: the development kit's ``meta.mat`` (2012) or ``map_clsloc.txt`` (2014 to 2017); None
            for the list that TensorFlow Datasets has for its imagenet_resized, which is the same.

    Raises:
        InputError: where it cannot be read or is neither of them.
    """
    try:
        found = _from_tfds() if file is None else _from_kit(file)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"--ilsvrc_ids={file or ''} cannot be read ({error}): give meta.mat or map_clsloc.txt "
            "of ILSVRC's development kit."
        ) from None
    if sorted(found.values()) != list(range(1, CLASSES + 1)):
        raise InputError(
            f"--ilsvrc_ids={file or ''} does not number {CLASSES:,} classes from 1 on: give "
            "meta.mat or map_clsloc.txt of ILSVRC's development kit."
        )
    return found


def _from_tfds() -> dict[str, int]:
    import tensorflow_datasets as tfds

    names = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt").read_text()
    return {wordnet: number for number, wordnet in enumerate(names.split(), 1)}


def _from_kit(file: Path) -> dict[str, int]:
    if file.suffix == ".mat":
        from scipy.io import loadmat

        rows = [
            (str(row["WNID"]), int(row["ILSVRC2012_ID"]))
            for row in loadmat(file, squeeze_me=True)["synsets"]
        ]
    else:
        words = [line.split() for line in file.read_text().splitlines() if line.strip()]
        rows = [(row[0], int(row[1])) for row in words]
    # Above 1,000 are the synsets' ancestors.
    return {wordnet: number for wordnet, number in rows if number <= CLASSES}


def check_classes(classes: Iterable[str], ids: dict[str, int]) -> None:
    """Refuse a model whose classes are not ILSVRC's.

    Raises:
        InputError: naming a class.
    """
    strangers = [name for name in classes if name not in ids]
    if strangers:
        raise InputError(
            f"--format=ilsvrc needs a model of ILSVRC's classes by their WordNet ids, and this one "
            f"has the class '{strangers[0]}': leave --format out."
        )


def line(classes: Sequence[str] | None, ids: dict[str, int]) -> str:
    """Return an image's line: the IDs of its classes, best first; None is an image not read."""
    if classes is None:
        return NO_ANSWER
    return " ".join(str(ids[name]) for name in classes[:LABELS])
