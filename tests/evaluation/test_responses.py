"""Layer responses, against NumPy's standard deviation of tapped layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from resnet_keras.evaluation.responses import make_measure_responses, response_layers
from resnet_keras.models import build_model

RANDOM = np.random.default_rng(0)


def _batches(images: np.ndarray, size: int) -> tf.data.Dataset:
    """Return padded batches; what pads them would be seen."""
    padding = -len(images) % size
    filled = np.concatenate([images, np.full((padding, *images.shape[1:]), 1e3, np.float32)])
    weight = np.concatenate([np.ones(len(images)), np.zeros(padding)]).astype(np.float32)
    label = np.zeros(len(filled), np.int32)
    data = {"image": filled, "label": label, "weight": weight}
    return tf.data.Dataset.from_tensor_slices(data).batch(size)


@pytest.mark.parametrize(("name", "replicas"), [("cifar_resnet8", 1), ("cifar_plain8", 2)])
def test_responses_are_numpys_standard_deviations(cpus, name, replicas):
    strategy = mirrored(cpus[:replicas])
    with strategy.scope():
        model = build_model(name)
        for variable in model.non_trainable_variables:
            shift = RANDOM.uniform(0.5, 2, variable.shape)
            variable.assign(shift)
        for layer in response_layers(model):
            layer.beta.assign(RANDOM.normal(size=layer.beta.shape))
    images = RANDOM.normal(size=(13, 32, 32, 3)).astype(np.float32)
    data = _batches(images, 4)
    batches = strategy.distribute_datasets_from_function(lambda context: data)
    found = make_measure_responses(model, strategy)(batches, 4 // replicas)
    names = [f"conv{s}_block1_{i}_bn" for s in (2, 3, 4) for i in (1, 2)]
    taps = [model.get_layer(layer).output for layer in ("conv1_bn", *names)]
    tapped = keras.Model(model.input, taps)(images, training=False)
    expected = [np.asarray(response, np.float64).std() for response in tapped]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "count"),
    # Fig. 7's nets: all weighted layers but the classifier; a bottleneck has one 3x3 layer.
    [("cifar_resnet20", 19), ("cifar_plain56", 55), ("cifar_resnet110", 109), ("resnet50", 16),
     ("vgg_a", 0), ("lab_vgg16", 13)],
)  # fmt: skip
def test_every_3x3_layer_is_measured(name, count):
    model = build_model(name)
    layers = response_layers(model)
    assert len(layers) == count
    assert all(not layer.name.endswith("_0_bn") for layer in layers)
