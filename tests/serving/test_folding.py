"""Folded networks answer as the Keras models they were made from; the arithmetic by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.models import FusedBatchNormalization, build_model, residual_block
from resnet_keras.serving import folding

NETWORKS = {
    "a projection and the strides of Table 1": ("resnet18", {"input_shape": (40, 40, 3)}),
    "bottlenecks": ("lab_resnet50", {}),
    "projections everywhere": ("resnet18", {"shortcut": "C", "input_shape": (32, 32, 3)}),
    "padded channels": ("cifar_resnet14", {}),
    "padded channels before a pooling": (
        "resnet18",
        {"shortcut": "A", "stem_pool": "symmetric", "input_shape": (32, 32, 3)},
    ),
    "no shortcuts": ("cifar_plain14", {}),
    "biases, batch norm and dense layers": ("lab_vgg16", {}),
}


def randomise(model: keras.Model) -> None:
    """Give every vector (biases, batch norm) values that do something, as after training."""
    random = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1 and variable.name != "seed_generator_state":
            variable.assign(random.uniform(0.5, 1.5, variable.shape))


def small_vgg(**options) -> keras.Model:
    """Return VGG-A, whose two dense layers of 4096 units would take the test's time, with 32."""
    import dataclasses

    from resnet_keras.models.architectures import architecture
    from resnet_keras.models.vgg import vgg

    spec = dataclasses.replace(architecture("vgg_a", classes=9), units=32, **options)
    return vgg(spec, (32, 32, 3), classifier_activation=None)


def answers(compute: tf.types.experimental.GenericFunction, images: np.ndarray) -> tuple:
    features, logits = compute(tf.constant(images))
    assert features.dtype == logits.dtype == tf.float32
    return features.numpy(), logits.numpy()


def assert_close(got: np.ndarray, expected: np.ndarray, relative: float) -> None:
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(got - expected).max() <= relative * np.abs(expected).max()


def images_for(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (3, *model.input_shape[1:])).astype(np.float32)


def operations(compute: tf.types.experimental.GenericFunction) -> list[str]:
    return [op.type for op in compute.get_concrete_function().graph.get_operations()]


@pytest.mark.parametrize(("name", "options"), NETWORKS.values(), ids=NETWORKS)
def test_a_folded_network_answers_as_the_model(name, options):
    model = build_model(name, classifier_activation=None, **options)
    randomise(model)
    images = images_for(model)
    known = model(images, training=False).numpy()
    compute = folding.network(model)
    _, logits = answers(compute, images)
    assert_close(logits, known, 1e-4)
    assert not {kind for kind in operations(compute) if "BatchNorm" in kind or "Rsqrt" in kind}


@pytest.mark.parametrize("options", [{}, {"lrn": True}, {"batch_norm": True, "dropout": 0.0}])
def test_vgg_of_all_kinds(options):
    model = small_vgg(**options)
    randomise(model)
    images = 10 * images_for(model)
    features, logits = answers(folding.network(model), images)
    assert_close(logits, model(images, training=False).numpy(), 1e-4)
    fc2 = keras.Model(model.input, model.get_layer("fc2").output)
    assert_close(features, fc2(images).numpy(), 1e-4)
    halved = folding.network(model, precision="bfloat16")
    assert_close(answers(halved, images)[1], logits, 0.05)


@pytest.mark.parametrize("precision", folding.PRECISIONS)
def test_batch_norm_may_stay(precision):
    model = build_model("cifar_resnet8", classifier_activation=None)
    randomise(model)
    images = images_for(model)
    compute = folding.network(model, fold=False, precision=precision)
    features, logits = answers(compute, images)
    assert_close(logits, model(images).numpy(), 1e-5 if precision == "float32" else 0.05)
    assert features.shape == (3, 64)
    assert operations(compute).count("FusedBatchNormV3") == 7


@pytest.mark.parametrize("side", [64, 62])
def test_a_padded_pooling_is_one_operation_where_that_is_the_same(side):
    """Rounding up pads one row after an even side and none after an odd one, as SAME does not."""
    model = build_model("resnet18", input_shape=(side, side, 3), classifier_activation=None)
    randomise(model)
    images = images_for(model)
    compute = folding.network(model)
    assert_close(answers(compute, images)[1], model(images).numpy(), 1e-4)
    strided = sum(layer.name.endswith("_pad") for layer in model.layers) - 1
    assert operations(compute).count("Pad") == strided + (side == 62)
    with_minus_infinity = keras.Input((64, 64, 3))
    x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)))(with_minus_infinity)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(3, 2)(x))
    unrectified = keras.Model(with_minus_infinity, keras.layers.Dense(2)(x))
    images = -np.abs(np.random.default_rng(0).normal(0, 1, (2, 64, 64, 3))).astype(np.float32)
    found = answers(folding.network(unrectified), images)[1]
    assert_close(found, unrectified(images).numpy(), 1e-4)


def test_features_are_the_mean_over_the_last_maps():
    model = build_model("cifar_resnet8", classifier_activation=None)
    randomise(model)
    images = images_for(model)
    maps = keras.Model(model.input, model.get_layer("conv4_block1_out").output)(images).numpy()
    assert_close(answers(folding.network(model), images)[0], maps.mean(axis=(1, 2)), 1e-4)


def test_the_arithmetic_by_hand():
    """One pixel, 1x1 kernels: gamma (w x + b - mean) / sqrt(variance + epsilon) + beta."""
    inputs = keras.Input((1, 1, 3))
    x = keras.layers.Conv2D(2, 1, name="conv")(inputs)
    x = FusedBatchNormalization(epsilon=0.19, name="bn")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="top")(x))
    kernel = np.array([[1, 4], [2, 5], [3, 6]], np.float32).reshape(1, 1, 3, 2)
    model.get_layer("conv").set_weights([kernel, np.array([1, -1], np.float32)])
    values = ([2, 3], [10, 20], [5, 7], [0.06, 0.81])  # gamma, beta, mean, variance
    model.get_layer("bn").set_weights([np.array(v, np.float32) for v in values])
    model.get_layer("top").set_weights([np.array([[1], [-1]], np.float32), np.zeros(1, np.float32)])
    pixel = np.array([1, 1, 2], np.float32).reshape(1, 1, 1, 3)
    features, logits = answers(folding.network(model), pixel)
    # conv: 9 + 1 = 10 and 21 - 1 = 20; deviations: sqrt(0.25) = 0.5 and sqrt(1) = 1.
    np.testing.assert_allclose(features, [[2 * (10 - 5) / 0.5 + 10, 3 * (20 - 7) / 1 + 20]], 1e-6)
    np.testing.assert_allclose(logits, [[30 - 59]], 1e-6)


def test_what_others_use_too_is_not_folded():
    """A convolution that feeds its batch norm and a sum; a batch norm behind a sum; dense ones."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="shared")(inputs)
    y = FusedBatchNormalization(name="of_shared")(x)
    x = keras.layers.Add()([x, y])
    x = FusedBatchNormalization(name="of_sum")(x)
    x = keras.layers.Conv2D(4, 3, activation="relu", dilation_rate=2, name="curved")(x)
    x = FusedBatchNormalization(name="of_curved", scale=False)(x)
    x = keras.layers.GlobalMaxPooling2D()(x)
    x = residual_block_of_features(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    randomise(model)
    images = images_for(model)
    compute = folding.network(model)
    assert_close(answers(compute, images)[1], model(images).numpy(), 1e-4)
    assert operations(compute).count("FusedBatchNormV3") == 3


def residual_block_of_features(x):
    y = keras.layers.Dense(4, use_bias=False, name="hidden")(x)
    y = keras.layers.BatchNormalization(name="of_hidden", center=False)(y)
    return keras.layers.Add(name="sum")([x, y])


@pytest.mark.parametrize("precision", folding.PRECISIONS)
def test_weights_are_constants(precision):
    model = build_model("cifar_resnet8", classifier_activation=None)
    weights = sum(layer.kernel.numpy().size for layer in model.layers if hasattr(layer, "kernel"))
    compute = folding.network(model, precision=precision)
    graph = compute.get_concrete_function().graph
    constants = [op.outputs[0] for op in graph.get_operations() if op.type == "Const"]
    assert sum(constant.shape.num_elements() for constant in constants) > weights


@pytest.mark.parametrize("precision", folding.PRECISIONS)
def test_large_matrices_are_variables_with_the_same_answers(precision, monkeypatch):
    model = small_vgg()
    expected = answers(folding.network(model, precision=precision), images_for(model))
    monkeypatch.setattr(folding, "LARGE", 4 * 512 * 32)  # fc1's bytes; fc2 and fc3 have fewer
    compute = folding.network(model, precision=precision)
    (shared,) = compute.get_concrete_function().variables
    assert tuple(shared.shape) == (512, 32)
    for got, known in zip(compute(tf.constant(images_for(model))), expected, strict=True):
        np.testing.assert_array_equal(got, known)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "ends in softmax"),
        ({"classifier_activation": None, "dtype": "mixed_bfloat16"}, "float32 throughout"),
        ({"include_top": False}, "dense classifier"),
    ],
)
def test_other_models_are_refused_in_one_sentence(options, said):
    with pytest.raises(InputError, match=said):
        folding.taps(build_model("cifar_resnet8", **options))


def test_layers_with_unknown_weights_are_named():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, name="by_depth")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    with pytest.raises(InputError, match="by_depth is a DepthwiseConv2D"):
        folding.network(model)


def test_a_block_of_ones_own():
    inputs = keras.Input((16, 16, 3))
    x = residual_block(inputs, [8, 8], 5, stride=2, name="block")
    x = keras.layers.Reshape((8, 64))(x)
    x = keras.layers.Permute((2, 1))(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(5)(x))
    randomise(model)
    images = images_for(model)
    assert_close(answers(folding.network(model), images)[1], model(images).numpy(), 1e-4)
