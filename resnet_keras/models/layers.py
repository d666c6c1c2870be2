"""The stateful layer Keras lacks: batch normalisation through TensorFlow's fused kernel."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Iterator

import keras
import tensorflow as tf

# Keras walks a functional model recursively, a frame per layer, in building, saving and loading:
# cifar_resnet1202 is 4,200 layers deep. Raised here because every user of the models,
# keras.saving.load_model included, imports this module; no higher, because from about 20,000 an
# endless recursion overruns the C stack before Python can report it.
sys.setrecursionlimit(max(sys.getrecursionlimit(), 6_000))

_KERNEL_DTYPES = ("float32", "bfloat16", "float16")
# Per thread, because MirroredStrategy traces each replica in a thread of its own.
_holding = contextvars.ContextVar("holding", default=False)


@contextlib.contextmanager
def hold_statistics() -> Iterator[None]:
    """Keep the moving averages as they are; training still normalises by the batch's statistics.

    For a second pass over the same batch. Holds for FusedBatchNormalization, in this thread.
    """
    token = _holding.set(True)
    try:
        yield
    finally:
        _holding.reset(token)


@keras.saving.register_keras_serializable(package="resnet_keras")
class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Normalise over all axes but the last with `FusedBatchNormV3`.

    Weights, configuration and results are those of keras.layers.BatchNormalization, so either
    layer takes the other's weights and config. Two differences: the activations stay bfloat16 or
    float16 while scale, offset and statistics are float32, and the moving variance averages the
    unbiased batch variance (divided by n - 1, Bessel), as Caffe and PyTorch keep it; stock Keras
    keeps the biased one. The normalisation itself uses the biased one in both.
    Where the kernel does not serve (axis not last, a mask, renorm, synchronized, float64) the
    stock implementation runs.
    """

    def call(self, inputs, training=None, mask=None):
        """Return the normalised inputs: same shape, the layer's compute dtype.

        Raises ValueError under hold_statistics where the stock implementation, which would update
        its statistics, has to serve in training.
        """
        if not self._kernel_serves(inputs, mask):
            if training and self.trainable and _holding.get():
                raise ValueError(
                    f"The statistics of {self.name} cannot be held: that takes the last axis, no "
                    "mask, renorm or synchronized, and a dtype of float32, bfloat16 or float16."
                )
            return super().call(inputs, training=training, mask=mask)
        training = bool(training and self.trainable)  # a frozen layer infers, as in Keras
        channels = [inputs.shape[-1]]
        # The kernel takes rank 4 only; other ranks become a column of pixels.
        x = inputs if len(inputs.shape) == 4 else tf.reshape(inputs, [-1, 1, 1, *channels])
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            mean=tf.convert_to_tensor(self.moving_mean),
            variance=tf.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            # In training the kernel returns the updated moving averages.
            exponential_avg_factor=1.0 - self.momentum,
            is_training=training,
        )
        if training and not _holding.get():
            self.moving_mean.assign(mean)
            self.moving_variance.assign(variance)
        return y if x is inputs else tf.reshape(y, tf.shape(inputs))

    def _kernel_serves(self, inputs, mask) -> bool:
        rank = len(inputs.shape)
        return (
            self.axis in (-1, rank - 1)
            and rank >= 2
            and mask is None
            and not self.renorm
            and not self.synchronized
            and self.compute_dtype in _KERNEL_DTYPES
            and self.variable_dtype == "float32"
        )
