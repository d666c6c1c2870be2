"""Print the multiply-adds a second of training one block here: what estimates are made of.

Run as a process of its own, so that no device stays taken. Takes --precision's value.
"""

import os
import sys
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as main does

import keras
import tensorflow as tf

from resnet_keras.models.blocks import basic_block
from resnet_keras.training.strategy import choose_precision

BATCH, SIZE, CHANNELS = 64, 28, 128  # the second stage of ResNet-18 and 34
MULTIPLY_ADDS = 3 * 2 * BATCH * SIZE**2 * 9 * CHANNELS**2  # forward and backward, two convolutions
SECONDS = 3.0


def measure(precision: str) -> float:
    """Return multiply-adds a second, forward and backward, batch norm and ReLU included."""
    precision = choose_precision(precision)
    if precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{precision}")
    inputs = keras.Input((SIZE, SIZE, CHANNELS))
    block = keras.Model(inputs, basic_block(inputs, CHANNELS, stride=1, name="block"))
    images = tf.random.stateless_normal([BATCH, SIZE, SIZE, CHANNELS], seed=(0, 0))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(tf.cast(block(images, training=True), tf.float32))
        gradients = tape.gradient(loss, [images, *block.trainable_variables])
        return tf.add_n([tf.reduce_sum(tf.cast(gradient, tf.float32)) for gradient in gradients])

    step().numpy()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        step().numpy()
        steps += 1
    return steps * MULTIPLY_ADDS / (time.perf_counter() - began)


if __name__ == "__main__":
    print(measure(sys.argv[1]))
