"""Compare an export with its network, and put bad requests to it, before anybody can load it."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.serving import checks, folding, warmup

SECONDS = 1800  # after which the process of the checks is given up


class ExportError(OSError):
    """Say in one sentence why nothing was published; main exits with 1."""


@contextlib.contextmanager
def inspector() -> Iterator[subprocess.Popen]:
    """Start the process of ``checks``, which loads TensorFlow while the export is written."""
    # On the CPU, as the network's own answers are: GPUs round otherwise, and this process may
    # hold all of their memory. -P: the folder of checks.py is no place to import from.
    environment = {
        # As main sets it: without AVX-512, TensorFlow does without its faster convolutions.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-P", checks.__file__],
        stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def verify(
    process: subprocess.Popen,
    folder: Path,
    model: keras.Model,
    *,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    samples: Sequence[bytes],
    precision: str,
) -> None:
    """Check a version that is not published yet, as ``checks`` says.

    Args:
        process: an ``inspector``; it checks once.
        folder: of the version.
        model: that it was made from; its own answers, in float32, are the measure.
        class_names: as ``export``'s.
        preprocess: as ``export``'s.
        normalise: as ``export``'s.
        samples: encoded images of the data set; those that cannot be read are left out, and
            without enough, drawn ones are put beside.
        precision: of the export.

    Raises:
        ExportError: naming the check that failed.
    """
    with tempfile.TemporaryDirectory() as place:
        questions = Path(place, "questions.npz")
        with tf.device("/CPU:0"):
            write_questions(questions, model, class_names, preprocess, normalise, samples)
        order = json.dumps([str(folder), str(questions), precision])
        try:
            told, complaints = process.communicate(order + "\n", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise ExportError(
                f"The export was not published: its checks took more than {SECONDS // 60} minutes."
            ) from None
    if process.returncode:
        failure = _failure(process.returncode, told.splitlines(), complaints.splitlines())
        raise ExportError(f"The export was not published: {failure}.")


def _failure(code: int, told: list[str], complaints: list[str]) -> str:
    """Return which check failed, and how."""
    if code == 1 and len(told) > 1:
        return f"at {told[-2]}, {told[-1]}"
    place = f"at {told[-1]}" if told else "before its checks began"
    if code < 0:
        return f"{place}, {signal.Signals(-code).name} ended the process that had loaded it"
    complaint = complaints[-1].rstrip(".") if complaints else f"exit code {code}"
    return f"{place}, the process of the checks ended ({complaint})"


def write_questions(
    file: Path,
    model: keras.Model,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    samples: Sequence[bytes],
) -> None:
    """Write what ``checks`` puts to the export, with the network's answers."""
    shape = model.input_shape[1:]
    encoded: list[bytes] = []
    inputs, whole = [], []
    drawn = (
        tf.io.encode_png(warmup.picture(seed, shape)).numpy() for seed in range(1, checks.BATCH + 1)
    )
    for sample in itertools.chain(samples, drawn):
        if len(encoded) >= max(checks.BATCH, len(samples)):
            break
        try:
            inputs.append(preprocess(tf.constant(sample)).numpy())
            image = tf.io.decode_image(sample, channels=3, expand_animations=False)
        except tf.errors.InvalidArgumentError:
            continue
        encoded.append(sample)
        whole.append(tf.image.resize(image, shape[:2]).numpy())
    pixels = np.stack(whole[: checks.BATCH])
    network = folding.taps(model)

    def answers(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            network([images[i : i + checks.BATCH]]) for i in range(0, len(images), checks.BATCH)
        ]
        features, logits = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
        if not (np.isfinite(features).all() and np.isfinite(logits).all()):
            raise ExportError(
                "The export was not published: the network's own answers are not finite numbers."
            )
        return features, tf.nn.softmax(logits).numpy()

    _, encoded_probabilities = answers(np.stack(inputs))
    pixels_features, pixels_probabilities = answers(normalise(tf.constant(pixels)).numpy())
    np.savez(
        file,
        pixels=pixels,
        encoded_probabilities=encoded_probabilities,
        pixels_probabilities=pixels_probabilities,
        pixels_features=pixels_features,
        labels=np.array(class_names),
        encoded_bytes=np.frombuffer(b"".join(encoded), np.uint8),
        encoded_ends=np.cumsum([len(image) for image in encoded]),
    )
