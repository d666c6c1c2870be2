"""A network without a fixed image size gives the same answers."""

import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.evaluation.convolutional import fully_convolutional
from resnet_keras.models import build_model

RANDOM = np.random.default_rng(0)


def _model(name: str, side: int | None):
    return build_model(name, classes=5, input_shape=(side, side, 3), classifier_activation=None)


def _images(height: int, width: int) -> np.ndarray:
    return RANDOM.normal(size=(2, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("name", ["vgg_a", "vgg_a_lrn", "lab_vgg16"])
def test_at_its_own_size_nothing_changes(name):
    model = _model(name, 64)
    images = _images(64, 64)
    found = fully_convolutional(model)(tf.constant(images))
    np.testing.assert_allclose(found, model(images, training=False), rtol=1e-4, atol=1e-4)


def test_vgg_averages_its_class_scores_over_every_window_of_its_features():
    """96x128 images have 3x4 features: six windows of the 2x2 that the dense layers know."""
    model = _model("vgg_a", 64)
    images = _images(96, 128)
    body = build_model("vgg_a", include_top=False)
    body.set_weights(model.get_weights()[: len(body.weights)])
    features = np.asarray(body(images, training=False))
    assert features.shape == (2, 3, 4, 512)
    layers = [[w.numpy() for w in model.get_layer(n).weights] for n in ("fc1", "fc2")]
    kernel, bias = (w.numpy() for w in model.get_layer("predictions").weights)
    windows = []
    for y in range(2):
        for x in range(3):
            hidden = features[:, y : y + 2, x : x + 2].reshape(2, -1)
            for weights, offset in layers:
                hidden = np.maximum(hidden @ weights + offset, 0)
            windows.append(hidden @ kernel + bias)
    expected = np.mean(windows, axis=0)
    found = fully_convolutional(model)(tf.constant(images))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # The windows differ, so that an average over fewer of them would, too.
    assert np.abs(windows[0] - expected).max() > 1e-3 * np.abs(expected).max()


def test_bfloat16_answers_in_float32():
    model = build_model(
        "vgg_a", classes=5, input_shape=(64, 64, 3), classifier_activation=None,
        dtype="mixed_bfloat16",
    )  # fmt: skip
    images = _images(64, 64)
    found = fully_convolutional(model)(tf.constant(images))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, model(images, training=False), rtol=0.05, atol=0.01)
