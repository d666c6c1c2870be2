"""The same network without a fixed image size, for dense testing."""

from collections.abc import Callable

import keras
import tensorflow as tf


def fully_convolutional(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function images [N, h, w, 3] -> logits [N, classes] for any h and w.

    It shares the model's weights. A network with global pooling is applied as it is (He et al.
    2015, Sec. 3.4). Of dense layers on flattened features the first becomes a convolution whose
    kernels cover the features of the model's own image size, the others 1x1 convolutions; their
    map of class scores is averaged over its places (Simonyan and Zisserman 2014, Sec. 3.2), so h
    and w must be at least the model's own.
    """
    flattened = [layer for layer in model.layers if isinstance(layer, keras.layers.Flatten)]
    if not flattened:
        # Only the model's __call__ insists on its image size, none of its layers does.
        return lambda images: model.call(images, training=False)
    (flatten,) = flattened
    body = keras.Model(model.input, flatten.input)
    first, *rest = [
        layer
        for layer in model.layers[model.layers.index(flatten) + 1 :]
        if not isinstance(layer, keras.layers.Dropout)
    ]
    window = flatten.input.shape[1:]

    def logits(images: tf.Tensor) -> tf.Tensor:
        features = tf.cast(body.call(images, training=False), first.compute_dtype)
        # Flattening goes by rows, columns, channels, and so do the rows of the first matrix.
        kernels = tf.reshape(tf.cast(first.kernel, features.dtype), [*window, first.units])
        scores = tf.nn.conv2d(features, kernels, strides=1, padding="VALID")
        scores = first.activation(scores + tf.cast(first.bias, features.dtype))
        for layer in rest:
            scores = layer(scores)
        return tf.reduce_mean(tf.cast(scores, tf.float32), axis=[1, 2])

    return logits
