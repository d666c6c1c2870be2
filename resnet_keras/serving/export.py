"""Write a model as the next version of a SavedModel that TF Serving loads."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from pipelines import first_line
from resnet_keras.serving.places import versions

TOP = 5  # classes in an answer, as ILSVRC counts


def export(
    model: keras.Model,
    directory: Path,
    *,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
) -> Path:
    """Export ``model`` as ``directory/VERSION``, the next free integer, and return that path.

    Two signatures, both with float32 outputs and the batch first:

    * ``serving_default``: ``image_bytes`` string [N], JPEG or PNG -> ``probabilities``
      [N, classes], and the best five (or all, where there are fewer) as ``classes`` string
      [N, 5] and ``scores`` [N, 5];
    * ``predict_tensor``: ``images`` float32 [N, H, W, 3], RGB in 0..255, already of the
      network's size -> ``probabilities`` [N, classes].

    The folder is written under another name and renamed, because TF Serving polls for numbers;
    versions that exist are never touched.

    Args:
        model: returns logits; input [N, H, W, 3].
        directory: the model's folder of versions; writable.
        class_names: in label order.
        preprocess: encoded bytes, string scalar -> network input [H, W, 3], float32.
        normalise: RGB 0..255 [N, H, W, 3] -> network input of that shape, float32.
    """
    shape = model.input_shape[1:]
    names = tf.constant(list(class_names))

    def probabilities(inputs: tf.Tensor) -> tf.Tensor:
        # ensure_shape first: a request of another rank could abort the server.
        logits = model(tf.ensure_shape(inputs, (None, *shape)), training=False)
        return tf.nn.softmax(tf.cast(logits, tf.float32))

    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.device("/CPU:0"):
            inputs = tf.map_fn(
                preprocess,
                tf.ensure_shape(image_bytes, (None,)),
                fn_output_signature=tf.TensorSpec(shape, tf.float32),
            )
        answer = probabilities(inputs)
        scores, indices = tf.math.top_k(answer, min(TOP, len(class_names)))
        return {
            "probabilities": answer,
            "classes": tf.gather(names, indices),
            "scores": scores,
        }

    def predict_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.ensure_shape(images, (None, *shape))
        return {"probabilities": probabilities(normalise(images))}

    # Only add_endpoint: track() would store every weight a second time.
    archive = keras.export.ExportArchive()
    archive.add_endpoint(
        "serving_default", serving_default, [tf.TensorSpec((None,), tf.string, "image_bytes")]
    )
    archive.add_endpoint(
        "predict_tensor",
        predict_tensor,
        [tf.TensorSpec((None, *shape), tf.float32, "images")],
    )
    staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # Keras prints every signature
            archive.write_out(str(staging), verbose=False)
        staging.chmod(0o755)  # mkdtemp's 0700 would shut the server out
        return _publish(staging, directory)
    except tf.errors.OpError as error:
        raise OSError(
            f"The export cannot be written to {directory} ({first_line(error)}): "
            "make room, and export again with --mode=export."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already where it was published


def _publish(staging: Path, directory: Path) -> Path:
    version = max(versions(directory), default=0) + 1
    while True:
        target = directory / str(version)
        try:
            # Fails where another process has published this number meanwhile.
            os.rename(staging, target)
        except OSError:
            if not target.exists():
                raise
            version += 1
        else:
            return target
