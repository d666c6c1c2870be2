"""Answers of an export about image files."""

import glob
from pathlib import Path

import tensorflow as tf
from google.protobuf import message

from pipelines import first_line
from resnet_keras.errors import InputError
from resnet_keras.serving.export import versions


def find_version(saved_model: str) -> Path:
    """Return the folder of a SavedModel: the one named, or its newest version.

    Raises:
        InputError: where there is none.
    """
    folder = Path(saved_model)
    if folder.is_dir() and not (folder / "saved_model.pb").is_file():
        numbers = versions(folder)
        folder = folder / str(numbers[-1]) if numbers else folder
    if not (folder / "saved_model.pb").is_file():
        raise InputError(
            f"--saved_model={saved_model} holds no SavedModel: name a folder with saved_model.pb "
            "or with numbered versions of one."
        )
    return folder


def find_images(pattern: str) -> list[Path]:
    """Return the files of a glob pattern (``**`` for folders below), sorted.

    Raises:
        InputError: where there is none.
    """
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise InputError(f"--images={pattern} matches no file: give image files, e.g. '*.jpg'.")
    return files


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
