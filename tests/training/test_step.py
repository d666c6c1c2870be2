"""What a step sees of its images, where the first steps see a window of them."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from resnet_keras.training.optimizers import MomentumSGD
from resnet_keras.training.step import make_train_function

SIDE, WINDOW, SMALL_STEPS = 5, 3, 12
# No two windows have the same mean.
PIXELS = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE)).astype(np.float32)


def _losses(steps, *, strategy=None, calls=(SMALL_STEPS, 4), start=0, seed=1) -> list[float]:
    """Return the losses of steps at rate 0 on one image, which tell the mean that they saw.

    The logits are the mean and 0, and the label is 1: the loss is log(1 + exp(mean)).
    """
    strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        image = keras.Input((SIDE, SIDE, 1))
        dense = keras.layers.Dense(2, name="fc")
        model = keras.Model(image, dense(keras.layers.GlobalAveragePooling2D()(image)))
        dense.kernel.assign([[1.0, 0.0]])
        optimizer = MomentumSGD(0.0, 0.0)
        optimizer.build(model.trainable_variables)
    batch = {
        "image": np.tile(PIXELS[None, ..., None], [4, 1, 1, 1]),
        "label": np.ones(4, np.int32),
        "weight": np.ones(4, np.float32),
    }
    stream = tf.data.Dataset.from_tensors(batch).repeat().unbatch().batch(4, drop_remainder=True)
    iterator = iter(strategy.experimental_distribute_dataset(stream))
    function = make_train_function(
        model, optimizer, strategy, batch_size=4, seed=seed, steps_per_call=max(calls),
        window=WINDOW, window_steps=SMALL_STEPS,
    )  # fmt: skip
    losses = []
    for count in itertools.cycle(calls):
        end = SMALL_STEPS if start < SMALL_STEPS else steps
        count = min(count, end - start)
        made = function(iterator, [0.0] * max(calls), count, start)
        losses += [loss / images for loss, _, images in made.sums]
        start += made.made
        if start >= steps:
            return losses


def _loss(mean: float) -> float:
    return math.log1p(math.exp(mean))


def test_the_first_steps_see_windows_at_many_places_and_the_others_the_whole_image():
    losses = _losses(SMALL_STEPS + 3)
    places = itertools.product(range(SIDE - WINDOW + 1), repeat=2)
    windows = [_loss(PIXELS[r : r + WINDOW, c : c + WINDOW].mean()) for r, c in places]
    found = [
        int(np.flatnonzero(np.isclose(windows, loss, rtol=0, atol=1e-6))[0])
        for loss in losses[:SMALL_STEPS]
    ]
    assert len(set(found)) >= 5, "of 9 places in 12 steps"
    assert losses[SMALL_STEPS:] == pytest.approx([_loss(PIXELS.mean())] * 3, abs=1e-6)


def test_places_follow_from_seed_and_step_alone(cpus):
    expected = _losses(SMALL_STEPS)
    assert _losses(SMALL_STEPS, calls=(5, 1)) == expected
    assert _losses(SMALL_STEPS, start=7) == expected[7:]
    assert _losses(SMALL_STEPS, strategy=mirrored(cpus[:2])) == pytest.approx(expected, abs=1e-6)
    assert _losses(SMALL_STEPS, seed=2) != expected


def test_smoothed_labels_move_the_weights_and_leave_the_loss_that_is_told():
    """By hand: the offsets' gradient is softmax - (0.9 label + 0.1 / 3), the third image's none."""
    start, smoothing = np.array([1.0, 0.0, -0.5]), 0.1
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(image)))
    kernel, bias = model.trainable_variables
    kernel.assign(np.zeros((4, 3)))
    bias.assign(start)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    optimizer = MomentumSGD(0.0, 0.0)
    optimizer.build(model.trainable_variables)
    labels, weights = np.array([0, 2, 1], np.int32), np.array([1, 1, 0], np.float32)
    batch = {"image": np.ones((3, 2, 2, 1), np.float32), "label": labels, "weight": weights}
    function = make_train_function(
        model, optimizer, strategy, batch_size=3, seed=0, steps_per_call=1,
        label_smoothing=smoothing,
    )  # fmt: skip
    found = function(iter(tf.data.Dataset.from_tensors(batch)), [1.0], 1, 0)
    shares = np.exp(start) / np.exp(start).sum()
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    gradient = (weights[:, None] * (shares - targets)).sum(0) / 3
    np.testing.assert_allclose(bias, start - gradient, atol=1e-6)
    assert found.sums[0][0] == pytest.approx(-np.log(shares[[0, 2]]).sum(), abs=1e-5)
