"""Compare an export with its network, and put bad requests to it, before anybody can load it."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from resnet_keras.serving import checks, folding, warmup

SECONDS = 1800  # after which the process of the checks is given up


class ExportError(OSError):
    """Say in one sentence why nothing was published; main exits with 1."""


def verify(
    folder: Path,
    model: keras.Model,
    *,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    samples: Sequence[bytes],
    precision: str,
) -> None:
    """Check a version that is not published yet, in a process of its own; see ``checks``.

    Args:
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
    with tempfile.TemporaryDirectory() as place, tf.device("/CPU:0"):
        questions = Path(place, "questions.npz")
        _ask_the_model(questions, model, class_names, preprocess, normalise, samples)
        # On the CPU, as the model's own answers are: GPUs round otherwise, and this process may
        # hold all of their memory. -P: the folder of checks.py is no place to import from.
        command = [sys.executable, "-P", checks.__file__, str(folder), str(questions), precision]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS,
                check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ExportError(
                f"The export was not published: its checks took more than {SECONDS // 60} minutes."
            ) from None
    if done.returncode:
        raise ExportError(f"The export was not published: {_failure(done)}.")


def _failure(done: subprocess.CompletedProcess) -> str:
    """Return which check failed, and how."""
    lines = done.stdout.strip().splitlines() or ["its checks did not begin"]
    if done.returncode == 1 and len(lines) > 1:
        return f"at {lines[-2]}, {lines[-1]}"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return f"at {lines[-1]}, {name} ended the process that had loaded it"
    complaint = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return f"at {lines[-1]}, the process of the checks ended ({complaint.rstrip('.')})"


def _ask_the_model(
    file: Path,
    model: keras.Model,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    samples: Sequence[bytes],
) -> None:
    """Write what ``checks`` puts to the export, with the network's answers."""
    shape = model.input_shape[1:]
    encoded, inputs, pixels = [], [], []
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
        pixels.append(tf.image.resize(image, shape[:2]).numpy())
    pixels = np.stack(pixels[: checks.BATCH])
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
        **{f"encoded_image_{i}": np.frombuffer(image, np.uint8) for i, image in enumerate(encoded)},
    )
