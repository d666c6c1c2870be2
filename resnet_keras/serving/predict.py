"""Answers of an export about image files."""

from pathlib import Path

import tensorflow as tf
from google.protobuf import message

from pipelines import first_line
from resnet_keras.errors import InputError


def predict(folder: Path, files: list[Path]) -> list[dict]:
    """Return one answer a file, in order: ``{"file", "classes", "scores"}``, best first.

    A file that is not a JPEG or PNG image gives ``{"file", "problem"}`` instead; the others are
    still answered. The model is asked for one file at a time, so sizes may differ.

    Raises:
        InputError: where the SavedModel has no signature that takes image bytes.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError, message.DecodeError) as error:
        raise InputError(
            f"{folder} is no SavedModel that can be read: {first_line(error)}."
        ) from None
    signature = loaded.signatures.get("serving_default")
    takes = signature.structured_input_signature[1] if signature else {}
    if list(takes) != ["image_bytes"]:
        raise InputError(
            f"{folder} has no serving_default signature that takes image_bytes: export it with "
            "--mode=export."
        )
    answers = []
    for file in files:
        try:
            reply = signature(image_bytes=tf.constant([file.read_bytes()]))
        except (tf.errors.InvalidArgumentError, OSError):
            answers.append({"file": file, "problem": "not a readable JPEG or PNG image"})
            continue
        classes = [name.decode() for name in reply["classes"][0].numpy()]
        answers.append(
            {"file": file, "classes": classes, "scores": reply["scores"][0].numpy().tolist()}
        )
    return answers
