"""Answers of an export about image files."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.serving.answering import load_saved_model

Ask = Callable[[Sequence[bytes]], list[dict[str, Any]]]


def load(folder: Path) -> Ask:
    """Return what answers encoded images: a dict of ``classes`` and ``scores`` each, best first.

    What is returned raises tf.errors.InvalidArgumentError where one of its images is no image.

    Raises:
        InputError: where the SavedModel cannot be read or takes no image bytes.
    """
    loaded = load_saved_model(folder)
    signature = loaded.signatures.get("serving_default")
    takes = signature.structured_input_signature[1] if signature else {}
    if list(takes) != ["image_bytes"]:
        raise InputError(
            f"{folder} has no serving_default signature that takes image_bytes: export it with "
            "--mode=export."
        )

    def ask(encoded: Sequence[bytes]) -> list[dict[str, Any]]:
        reply = signature(image_bytes=tf.constant(list(encoded)))
        classes, scores = reply["classes"].numpy(), reply["scores"].numpy()
        return [
            {"classes": [name.decode() for name in names], "scores": best.tolist()}
            for names, best in zip(classes, scores, strict=True)
        ]

    # An attribute keeps the variables alive, which the signature alone refers to weakly.
    ask.loaded = loaded  # type: ignore[attr-defined]
    return ask


def predict(ask: Ask, files: Sequence[Path], *, batch_size: int = 32) -> Iterator[dict[str, Any]]:
    """Yield one answer a file, in order: ``{"file", "classes", "scores"}``, best first.

    A file that cannot be read as an image gives ``{"file", "problem"}`` instead; the others of its
    batch are still answered. Images of a batch may differ in size.
    """
    for first in range(0, len(files), batch_size):
        batch = files[first : first + batch_size]
        for file, answer in zip(batch, _answers(ask, [_read(file) for file in batch]), strict=True):
            yield {"file": file, **(answer or {"problem": "not a readable JPEG or PNG image"})}


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _answers(ask: Ask, batch: Sequence[bytes | None]) -> list[dict[str, Any] | None]:
    """Return an answer an image, None for those that are none."""
    readable = [encoded for encoded in batch if encoded is not None]
    try:
        answers = iter(ask(readable) if readable else [])
    except tf.errors.InvalidArgumentError:
        if len(batch) == 1:
            return [None]
        # Which one it is, the error does not say.
        return [_answers(ask, [encoded])[0] for encoded in batch]
    return [None if encoded is None else next(answers) for encoded in batch]
