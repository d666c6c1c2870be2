"""Write a model as the next version of a SavedModel that TF Serving loads."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipelines import first_line
from resnet_keras.errors import InputError
from resnet_keras.serving import folding, keras_file, manifest, signatures, warmup
from resnet_keras.serving.places import versions
from resnet_keras.serving.verify import inspector, verify

WRITING = ".writing-"  # what a server that polls for numbers does not see


def export(
    model: keras.Model,
    directory: Path,
    *,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    samples: Sequence[bytes] = (),
    facts: Mapping[str, Any] | None = None,
    fold: bool = True,
    precision: str = "float32",
) -> Path:
    """Export ``model`` as ``directory/VERSION``, the next free integer, and return that path.

    Four signatures, all with float32 outputs and the batch first:

    * ``serving_default``: ``image_bytes`` string [N], JPEG or PNG -> ``probabilities``
      [N, classes], and the best five (or all, where there are fewer) as ``classes`` string
      [N, 5] and ``scores`` [N, 5];
    * ``predict_tensor``: ``images`` float32 [N, H, W, 3], RGB in 0..255, already of the
      network's size -> ``probabilities`` [N, classes];
    * ``features``: ``images`` as before -> ``features`` [N, F], what the classifier takes;
    * ``classify``: ``inputs`` string [N], tf.Examples with ``image/encoded`` -> ``classes`` and
      ``scores`` as before.

    Beside them ``model.keras`` for retraining (normalised images -> logits, opened by plain
    Keras), ``manifest.json``, and warm-up requests for the server. The version is written under
    another name, checked in another process as ``checks`` says, and renamed: TF Serving polls for
    numbers, and finds nothing that is half-written or wrong. Versions that exist are never touched;
    what killed exports left is removed.

    Args:
        model: returns logits; input [N, H, W, 3]; computes in float32.
        directory: the model's folder of versions; writable.
        class_names: in label order.
        preprocess: encoded bytes, string scalar -> network input [H, W, 3], float32.
        normalise: RGB 0..255 [N, H, W, 3] -> network input of that shape, float32.
        samples: encoded images of the data set, on which the export must answer as the model;
            drawn pictures take the place of missing ones.
        facts: JSON-able, for the manifest; see ``manifest.write``.
        fold: multiply batch norm into the convolutions.
        precision: inside, "float32" or "bfloat16".

    Raises:
        InputError: where the model is of another kind, before anything is written.
        ExportError: where a check fails.
        OSError: where the version cannot be written.
    """
    _check(model, class_names, precision)
    with inspector() as process, _workshop(directory) as workshop:
        version = workshop / "version"
        try:
            signatures.write(
                model,
                version,
                class_names=class_names,
                preprocess=preprocess,
                normalise=normalise,
                fold=fold,
                precision=precision,
            )
            keras_file.write(model, version)
            warmup.write(version, model.input_shape[1:])
            written = {"folded": fold, "precision": precision}
            manifest.write(model, version, class_names, {**(facts or {}), **written})
        except (tf.errors.OpError, OSError) as error:
            raise OSError(
                f"The export cannot be written to {directory} ({first_line(error)}): "
                "make room, and export again with --mode=export."
            ) from None
        verify(
            process,
            version,
            model,
            class_names=class_names,
            preprocess=preprocess,
            normalise=normalise,
            samples=samples,
            precision=precision,
        )
        return _publish(version, directory)


def _check(model: keras.Model, class_names: Sequence[str], precision: str) -> None:
    if precision not in folding.PRECISIONS:
        allowed = ", ".join(folding.PRECISIONS)
        raise InputError(f"--export_precision={precision} is not one of: {allowed}.")
    folding.taps(model)
    classes = model.output_shape[-1]
    if len(class_names) != classes:
        raise InputError(
            f"{model.name} has {classes} classes and {len(class_names)} names: give one for each."
        )
    shape = model.input_shape[1:]
    if None in shape or len(shape) != 3 or shape[2] != 3:
        raise InputError(
            f"{model.name} takes {shape}: exports are of one image size; build it with "
            "input_shape=(height, width, 3)."
        )


@contextlib.contextmanager
def _workshop(directory: Path) -> Iterator[Path]:
    """Give a folder to write in, and remove it; remove those that dead processes left."""
    with contextlib.ExitStack() as stack:
        # Nobody may take a new folder for a dead process's before it is locked.
        with _locked(directory) as alone:
            for left in directory.glob(f"{WRITING}*") if alone else ():
                with _locked(left, wait=False) as dead:
                    if dead:
                        shutil.rmtree(left, ignore_errors=True)
            workshop = Path(tempfile.mkdtemp(prefix=WRITING, dir=directory))
            stack.enter_context(_locked(workshop))
        stack.callback(shutil.rmtree, workshop, ignore_errors=True)
        yield workshop


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a folder's lock, which the system takes back from a process that dies.

    Yields whether it is held; some network file systems have no locks on folders.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _publish(written: Path, directory: Path) -> Path:
    version = max(versions(directory), default=0) + 1
    while True:
        target = directory / str(version)
        try:
            # Fails where another process has published this number meanwhile.
            os.rename(written, target)
        except OSError:
            if not target.exists():
                raise
            version += 1
        else:
            return target
