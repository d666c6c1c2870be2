"""Layer responses: how strongly each 3x3 layer answers (He et al. 2015, Sec. 4.2 and Fig. 7)."""

import math
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from resnet_keras.evaluation.progress import watched

KERNEL = (3, 3)


def response_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the batch-norm layer behind each 3x3 convolution, from the input on.

    Their outputs are Fig. 7's responses: after batch norm, before the nonlinearity or addition.
    """
    convolved = {
        id(layer.output)
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == KERNEL
    }
    return [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and id(layer.input) in convolved
    ]


def make_measure_responses(model: keras.Model, strategy: tf.distribute.Strategy) -> Callable:
    """Return a function from evaluation batches to the standard deviation of each response.

    The function takes the padded ``{"image", "label", "weight"}`` batches that ``strategy``
    distributes, and how many they are. It returns one number a layer of ``response_layers``: the
    standard deviation over all images, places and channels together.
    """
    tapped = keras.Model(model.input, [layer.output for layer in response_layers(model)])

    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        weights = tf.cast(batch["weight"], tf.float64)
        rows = []
        for response in tapped(batch["image"], training=False):
            response = tf.cast(response, tf.float32)
            # float32 within an image, float64 over images.
            means = tf.reduce_mean(response, axis=[1, 2, 3])
            squares = tf.reduce_mean(tf.square(response), axis=[1, 2, 3])
            sums = [tf.reduce_sum(weights * tf.cast(x, tf.float64)) for x in (means, squares)]
            rows.append([*sums, tf.reduce_sum(weights)])
        return tf.stack(rows)

    @tf.function(reduce_retracing=True)
    def distributed_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        found = strategy.run(step, args=(batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, found, axis=None)

    def measure(batches: Iterable, count: int) -> list[float]:
        shown = watched(batches, count, "measuring responses")
        totals = sum(distributed_step(batch).numpy() for batch in shown)
        return [
            math.sqrt(max(0.0, squares / images - (means / images) ** 2))
            for means, squares, images in totals
        ]

    return measure
