"""What a SavedModel answers: its signatures, as TF Serving calls them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from resnet_keras.serving import folding

TOP = 5  # classes in an answer, as ILSVRC counts
EXAMPLE_KEY = "image/encoded"  # of a tf.Example, as ImageNet's TFRecords have it
# TF Serving tells its three ways of asking apart by these names.
CLASSIFY_METHOD = "tensorflow/serving/classify"


def write(
    model: keras.Model,
    folder: Path,
    *,
    class_names: Sequence[str],
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    normalise: Callable[[tf.Tensor], tf.Tensor],
    fold: bool,
    precision: str,
) -> None:
    """Write the SavedModel into ``folder``; arguments as ``export``'s.

    Raises:
        InputError: as ``folding.network``.
        tf.errors.OpError: where the folder cannot be written.
    """
    shape = model.input_shape[1:]
    labels = list(class_names)
    network = folding.network(model, fold=fold, precision=precision)

    def decoded(image_bytes: tf.Tensor) -> tf.Tensor:
        # Decoding has no GPU kernel, and the loop would be placed there with all it holds.
        with tf.device("/CPU:0"):
            return tf.map_fn(
                preprocess, image_bytes, fn_output_signature=tf.TensorSpec(shape, tf.float32)
            )

    def probabilities(inputs: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(network(tf.ensure_shape(inputs, (None, *shape)))[1])

    def best(answer: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, indices = tf.math.top_k(answer, min(TOP, len(labels)))
        return {"classes": tf.gather(tf.constant(labels), indices), "scores": scores}

    # ensure_shape comes first in each: a request of another rank could abort the server.
    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = probabilities(decoded(tf.ensure_shape(image_bytes, (None,))))
        return {"probabilities": answer, **best(answer)}

    def predict_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": probabilities(normalise(tf.ensure_shape(images, (None, *shape))))}

    def features(images: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = normalise(tf.ensure_shape(images, (None, *shape)))
        return {"features": network(tf.ensure_shape(inputs, (None, *shape)))[0]}

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        description = {EXAMPLE_KEY: tf.io.FixedLenFeature([], tf.string)}
        examples = tf.io.parse_example(tf.ensure_shape(inputs, (None,)), description)
        return best(probabilities(decoded(examples[EXAMPLE_KEY])))

    images = tf.TensorSpec((None, *shape), tf.float32, "images")
    strings = [tf.TensorSpec((None,), tf.string, name) for name in ("image_bytes", "inputs")]
    module = tf.Module()
    module.variables_of_the_network = network.get_concrete_function().variables
    tf.saved_model.save(
        module,
        str(folder),
        signatures={
            "serving_default": tf.function(serving_default, input_signature=strings[:1]),
            "predict_tensor": tf.function(predict_tensor, input_signature=[images]),
            "features": tf.function(features, input_signature=[images]),
            "classify": tf.function(classify, input_signature=strings[1:]),
        },
    )
    # TensorFlow 2 writes predict's name for all, which a server may be set to refuse.
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name("classify", CLASSIFY_METHOD, tags="serve")
    updater.save()
