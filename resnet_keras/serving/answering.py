"""Exports that answer in this process: as members of an ensemble, or to image files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf import message

from pipelines import first_line
from resnet_keras.errors import InputError
from resnet_keras.serving.places import read_labels, read_manifest


class Export(NamedTuple):
    """A SavedModel that answers.

    predict: RGB images in 0..255, float32 [N, size, size, 3] -> log-probabilities, float32
    [N, classes]. size: pixels a side. class_names: in label order; None where the export does not
    say. recipe: its name; "" where the export does not say. antialias: whether it filters before
    shrinking; None where the export does not say. step: steps that its network has made; None where
    the export does not say.
    """

    predict: Callable[[tf.Tensor], tf.Tensor]
    size: int
    classes: int
    class_names: tuple[str, ...] | None
    recipe: str
    antialias: bool | None
    step: int | None


def load_saved_model(folder: Path) -> Any:
    """Load a SavedModel.

    Raises:
        InputError: where it cannot be read.
    """
    try:
        return tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError, message.DecodeError) as error:
        raise InputError(
            f"{folder} is no SavedModel that can be read: {first_line(error)}."
        ) from None


def load_export(folder: Path) -> Export:
    """Load the signature ``predict_tensor`` of a SavedModel, and what its manifest calls classes.

    Raises:
        InputError: where it cannot be read, or has no such signature.
    """
    loaded = load_saved_model(folder)
    signature = loaded.signatures.get("predict_tensor")
    takes = signature.structured_input_signature[1] if signature else {}
    shape = takes["images"].shape if list(takes) == ["images"] else tf.TensorShape(None)
    gives = signature.structured_outputs.get("probabilities") if signature else None
    if shape.rank != 4 or shape[1] is None or shape[1] != shape[2] or gives is None:
        raise InputError(
            f"{folder} has no predict_tensor signature from square images to probabilities: "
            "export it with --mode=export."
        )

    def predict(images: tf.Tensor) -> tf.Tensor:
        # What was loaded is named here, too: its variables live no longer than it does.
        return tf.math.log(loaded.signatures["predict_tensor"](images=images)["probabilities"])

    return Export(predict, shape[1], gives.shape[1], *_manifest(folder))


def _manifest(folder: Path) -> tuple[tuple[str, ...] | None, str, bool | None, int | None]:
    """Return class names, recipe, filter and step; other people's exports have no manifest."""
    told, labels = read_manifest(folder), read_labels(folder)
    seen, step = told.get("preprocessing"), told.get("step")
    recipe = seen.get("recipe") if isinstance(seen, dict) else None
    antialias = seen.get("antialias") if isinstance(seen, dict) else None
    return (
        None if labels is None else tuple(labels),
        recipe if isinstance(recipe, str) else "",
        antialias if isinstance(antialias, bool) else None,
        step if type(step) is int else None,
    )
