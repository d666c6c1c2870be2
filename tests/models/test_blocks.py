"""Parts and blocks, by their numbers and shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.models import (
    average_pooling,
    basic_block,
    bottleneck_block,
    conv_bn,
    dense,
    initializers,
    local_response_normalization,
    max_pooling,
    residual,
    residual_block,
    shortcut,
)


def run(function, x, **options):
    """Apply a function of KerasTensors to numbers; return the result and the layers' names."""
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, function(inputs, **options))
    return np.asarray(model(x)), [layer.name for layer in model.layers[1:]]


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("sides", "channels", "filters", "stride"),
    [
        ((8, 8), 4, 8, 2),
        ((7, 5), 4, 10, 2),
        ((6, 6), 4, 7, 1),
        ((6, 6), 4, 4, 2),
        ((7, 7), 3, 3, 3),
    ],
)
def test_option_a_subsamples_and_pads_channels_on_both_sides(sides, channels, filters, stride):
    x = numbers(2, *sides, channels)
    y, _ = run(shortcut, x, filters=filters, stride=stride, option="A", name="block")
    before = (filters - channels) // 2
    expected = np.zeros((*x[:, ::stride, ::stride].shape[:3], filters), "float32")
    expected[..., before : before + channels] = x[:, ::stride, ::stride]
    np.testing.assert_array_equal(y, expected)


def test_option_a_pads_features_too():
    x = numbers(3, 4)
    y, _ = run(shortcut, x, filters=9, option="A", name="block")
    np.testing.assert_array_equal(y, np.pad(x, ((0, 0), (2, 3))))


def test_options_b_and_c_project_where_they_should():
    x = numbers(2, 8, 8, 4)
    projected = ["block_0_conv", "block_0_bn"]
    for option, filters, stride, names in (
        ("A", 4, 1, []),
        ("B", 4, 1, []),
        ("C", 4, 1, projected),
        ("B", 8, 1, projected),
        ("B", 4, 2, projected),
        ("C", 8, 2, projected),
    ):
        _, layers = run(
            lambda x, **o: keras.layers.Activation("linear", name="end")(shortcut(x, **o)),
            x,
            filters=filters,
            stride=stride,
            option=option,
            name="block",
        )
        assert layers == [*names, "end"], (option, filters, stride)


def test_a_projection_takes_every_stride_th_pixel():
    inputs = keras.Input((7, 7, 2))
    model = keras.Model(inputs, shortcut(inputs, 3, 2, name="block"))
    x, kernel = numbers(2, 7, 7, 2), numbers(1, 1, 2, 3)
    model.get_layer("block_0_conv").set_weights([kernel])
    expected = x[:, ::2, ::2] @ kernel[0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


def test_shortcut_errors():
    x = keras.Input((8, 8, 4))
    with pytest.raises(ValueError, match=r"shortcut='D'.*'A', 'B', 'C'"):
        shortcut(x, 8, option="D", name="block")
    with pytest.raises(ValueError, match=r"4 to 2 in block.*B or C"):
        shortcut(x, 2, option="A", name="block")


def ceil_pooling(x, pool_size, stride):
    """Pool by hand with Caffe's rounding: windows are cut at the border."""
    rows = -(-(x.shape[1] - pool_size) // stride) + 1
    columns = -(-(x.shape[2] - pool_size) // stride) + 1
    y = np.empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride :, j * stride :][:, :pool_size, :pool_size]
            y[:, i, j] = window.max((1, 2))
    return y


@pytest.mark.parametrize("sides", [(8, 8), (7, 9), (112, 113), (4, 3), (2, 2)])
def test_ceil_pooling(sides):
    x = np.maximum(numbers(2, *sides, 3), 0)  # as after a ReLU
    y, _ = run(max_pooling, x, pool_size=3, stride=2, padding="ceil", name="pool1_pool")
    np.testing.assert_array_equal(y, ceil_pooling(x, 3, 2))
    if sides[0] % 2 == sides[1] % 2 == 0:
        np.testing.assert_array_equal(y, tf.nn.max_pool2d(x, 3, 2, "SAME"))


def test_symmetric_pooling_pads_one_pixel_all_around():
    x = np.maximum(numbers(2, 7, 8, 3), 0)
    y, _ = run(max_pooling, x, pool_size=3, stride=2, padding="symmetric", name="pool1_pool")
    expected = tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
    np.testing.assert_array_equal(y, expected)
    with pytest.raises(ValueError, match=r"padding='full'.*'ceil'"):
        run(max_pooling, x, padding="full", name="pool")


@pytest.mark.parametrize(("kernel_size", "side"), [(3, 8), (3, 7), (7, 9), (5, 8), (1, 7), (2, 7)])
def test_strided_convolutions_are_padded_symmetrically(kernel_size, side):
    inputs = keras.Input((side, side, 2))
    model = keras.Model(inputs, conv_bn(inputs, 3, kernel_size, 2, activation=None, name="a"))
    x, kernel = numbers(2, side, side, 2), numbers(kernel_size, kernel_size, 2, 3)
    model.get_layer("a_conv").set_weights([kernel])
    zeros = [(kernel_size - 1) // 2, kernel_size // 2]
    expected = tf.nn.conv2d(x, kernel, 2, [[0, 0], zeros, zeros, [0, 0]])
    np.testing.assert_allclose(model(x), expected / np.sqrt(1 + 1e-5), rtol=1e-4, atol=1e-4)
    assert model.output_shape[1:3] == ((side + 1) // 2,) * 2


def test_conv_bn_has_the_papers_batch_norm_and_no_bias():
    inputs = keras.Input((8, 8, 2))
    model = keras.Model(inputs, conv_bn(inputs, 3, 3, name="a"))
    assert [layer.name for layer in model.layers[1:]] == ["a_conv", "a_bn", "a_relu"]
    assert not model.get_layer("a_conv").use_bias
    norm = model.get_layer("a_bn")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)


def test_lrn_is_alexnets():
    x = 30 * numbers(2, 3, 4, 9)
    y, _ = run(local_response_normalization, x, name="lrn")
    expected = tf.nn.local_response_normalization(
        x, depth_radius=2, bias=2.0, alpha=1e-4, beta=0.75
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    # By hand: the first channel has itself and two neighbours.
    first = x[..., 0] / (2 + 1e-4 * (x[..., :3] ** 2).sum(-1)) ** 0.75
    np.testing.assert_allclose(y[..., 0], first, rtol=1e-5)


def test_residual_adds_the_input_to_any_branch():
    x = numbers(4, 6)

    def three_dense_layers(x):
        for i, units in enumerate((8, 5, 6)):
            x = keras.layers.Dense(units, activation="relu", name=f"f{i}")(x)
        return x

    inputs = keras.Input((6,))
    y = residual(inputs, three_dense_layers, activation=None, name="block")
    model = keras.Model(inputs, y)
    branch = keras.Model(inputs, model.get_layer("f2").output)
    np.testing.assert_allclose(model(x), x + branch(x), rtol=1e-6)

    wider = residual(inputs, lambda x: dense(x, 9, name="g"), name="wider")
    names = [layer.name for layer in keras.Model(inputs, wider).layers]
    assert {"wider_0_dense", "wider_0_bn", "wider_add", "wider_out"} <= set(names)


@pytest.mark.parametrize(
    ("sides", "stride"), [((8, 8), 2), ((7, 9), 2), ((10, 10), 3), ((6, 6), 1), ((8, 1), 2)]
)
def test_residual_infers_the_stride_from_the_sides(sides, stride):
    x = numbers(2, *sides, 4)

    def silent(x):  # a branch of zeros shows the shortcut alone
        x = keras.layers.Conv2D(6, 1, stride, kernel_initializer="zeros")(x)
        return x

    y, _ = run(residual, x, branch=silent, shortcut="A", activation=None, name="block")
    expected = np.pad(x[:, ::stride, ::stride], [(0, 0)] * 3 + [(1, 1)])
    np.testing.assert_array_equal(y, expected)


def test_residual_errors():
    def halve(x):
        return keras.layers.Conv2D(4, 1, 2)(x)

    with pytest.raises(ValueError, match=r"block.*give stride="):
        residual(keras.Input((None, None, 4)), halve, name="block")
    assert residual(keras.Input((None, None, 4)), halve, stride=2, name="block").shape[-1] == 4
    with pytest.raises(ValueError, match=r"which no stride does"):
        residual(keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3), name="block")
    with pytest.raises(ValueError, match=r"rank 4.*rank 2"):
        residual(keras.Input((8, 8, 4)), keras.layers.Flatten(), name="block")
    with pytest.raises(ValueError, match=r"2 channel numbers and 3 kernel sizes"):
        residual_block(keras.Input((8, 8, 4)), [4, 4], [3, 3, 3], name="block")
    with pytest.raises(ValueError, match=r"stride_on='2'"):
        bottleneck_block(keras.Input((8, 8, 4)), 4, stride_on="2", name="block")


def test_a_linear_single_layer_block_is_a_linear_layer():
    # y = W1 x + x, of no use by itself (Sec. 3.2)
    x = numbers(5, 6)
    inputs = keras.Input((6,))
    block = residual(
        inputs, lambda x: dense(x, 6, use_bias=False, name="w"), activation=None, name="b"
    )
    model = keras.Model(inputs, block)
    (w,) = model.get_layer("w").get_weights()
    np.testing.assert_allclose(model(x), x @ (w + np.eye(6)), rtol=1e-4, atol=1e-5)


def test_a_block_with_a_silent_last_batch_norm_is_the_identity():
    x = np.maximum(numbers(2, 8, 8, 4), 0)
    inputs = keras.Input((8, 8, 4))
    for block, last in (
        (basic_block(inputs, 4, name="a"), "a_2_bn"),
        (bottleneck_block(inputs, 1, name="b"), "b_3_bn"),
    ):
        model = keras.Model(inputs, block)
        layer = model.get_layer(last)
        layer.gamma.assign(np.zeros(4))
        np.testing.assert_array_equal(model(x), x)


def test_residual_block_takes_lists():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, residual_block(inputs, [6, 8, 10], [5, 3, 1], stride=2, name="a"))
    kernels = [model.get_layer(f"a_{i}_conv").kernel.shape for i in (1, 2, 3)]
    assert kernels == [(5, 5, 4, 6), (3, 3, 6, 8), (1, 1, 8, 10)]
    assert model.output_shape == (None, 4, 4, 10)


def test_average_pooling_of_an_incomplete_window_averages_what_is_there():
    x = numbers(2, 3, 3, 1)
    y, _ = run(average_pooling, x, padding="same", name="pool")
    np.testing.assert_allclose(y[:, 1, 1], x[:, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(y[:, 0, 0], x[:, :2, :2].mean((1, 2)), rtol=1e-5)


def test_initialisers_have_the_published_statistics():
    keras.utils.set_random_seed(0)
    shape, fan_in = (3, 3, 64, 256), 3 * 3 * 64

    def draw(name):
        functions = initializers(name, fan_in)
        return [np.asarray(functions[f"{part}_initializer"](shape)) for part in ("kernel", "bias")]

    kernel, bias = draw("he_normal")
    sigma = np.sqrt(2 / fan_in)
    assert kernel.std() == pytest.approx(sigma, rel=0.01)
    # 4.55 % of a normal distribution lies beyond two sigma; nothing of a truncated one.
    assert np.mean(abs(kernel) > 2 * sigma) == pytest.approx(0.0455, rel=0.05)
    assert not bias.any()

    kernel, bias = draw("glorot_uniform")
    limit = np.sqrt(6 / (fan_in + 3 * 3 * 256))
    assert 0.999 * limit < abs(kernel).max() <= limit
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.01)
    assert not bias.any()

    kernel, bias = draw("vgg_paper")
    assert kernel.var() == pytest.approx(1e-2, rel=0.02)
    assert np.mean(abs(kernel) > 0.2) == pytest.approx(0.0455, rel=0.05)
    assert not bias.any()

    for values in draw("pytorch"):
        assert 0.999 * fan_in**-0.5 < abs(values).max() <= fan_in**-0.5
        assert values.std() == pytest.approx(fan_in**-0.5 / np.sqrt(3), rel=0.01)
    with pytest.raises(ValueError, match=r"'he'.*'he_normal'"):
        initializers("he", 1)
