"""build_model's arguments, names, precision and start values."""

import keras
import numpy as np
import pytest

from resnet_keras import build_model


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, r"'resnet51'.*'resnet50'"),
        ("resnet18", {"dtype": "float64"}, r"dtype='float64'.*'mixed_bfloat16'"),
        ("resnet18", {"pooling": "mean", "include_top": False}, r"pooling='mean'.*'avg', 'max'"),
        ("resnet18", {"pooling": "avg"}, r"pooling='avg'.*include_top=False"),
        ("resnet18", {"classifier_activation": "relu"}, r"'relu'.*'softmax'"),
        ("resnet18", {"input_shape": (224, 224)}, r"\(224, 224\).*\(height, width, channels\)"),
        ("resnet18", {"input_shape": 224}, r"=224.*\(height, width, channels\)"),
        ("resnet18", {"input_shape": (None, 224, 224, 3)}, r"no batch"),
        ("resnet18", {"input_shape": (32.0, 32, 3)}, r"whole numbers"),
        ("resnet18", {"input_shape": (3, 224, 224)}, r"channels first"),
        ("resnet18", {"input_shape": (32, 32, None)}, r"channels must be at least 1"),
        ("resnet18", {"input_shape": (32, 32, 0)}, r"channels must be at least 1"),
        ("resnet18", {"input_shape": (2, 32, 3)}, r"at least 3 pixels"),
        ("cifar_resnet20", {"input_shape": (0, 32, 3)}, r"at least 1 pixels"),
        ("vgg_a", {"input_shape": (31, 32, 3), "include_top": False}, r"at least 32 pixels"),
        ("vgg_a", {"input_shape": (None, 224, 3)}, r"fixed sides.*include_top=False"),
        ("vgg_a", {"classes": 0}, r"classes=0"),
        ("vgg_a", {"shortcut": "A"}, r"residual networks"),
        ("cifar_resnet3002", {}, r"10,500 layers deep.*setrecursionlimit"),
    ],
)
def test_errors_name_what_came_and_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **options)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 3), ("cifar_resnet8", 1), ("lab_resnet50", 1), ("vgg_a", 32)]
)
def test_the_smallest_size_allowed_works(name, size):
    model = build_model(name, input_shape=(size, size, 3), include_top=False, pooling="max")
    assert np.isfinite(model(images(1, size, size, 3))).all()


def test_tops():
    shape = (32, 32, 3)
    default = build_model("cifar_resnet8")
    assert (default.name, default.input_shape, default.output_shape) == (
        "cifar_resnet8", (None, 32, 32, 3), (None, 10)
    )  # fmt: skip
    x = images(2, *shape)
    np.testing.assert_allclose(np.sum(default(x), 1), 1, rtol=1e-5)
    for activation in (None, "linear"):
        logits = build_model("cifar_resnet8", classifier_activation=activation)
        logits.set_weights(default.get_weights())
        np.testing.assert_allclose(keras.ops.softmax(logits(x)), default(x), rtol=1e-4)

    maps = build_model("cifar_resnet8", include_top=False, input_shape=shape)
    maps.set_weights(default.get_weights()[:-2])
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = build_model("cifar_resnet8", include_top=False, pooling=pooling)
        pooled.set_weights(maps.get_weights())
        expected = reduce(np.asarray(maps(x)), axis=(1, 2))
        np.testing.assert_allclose(pooled(x), expected, rtol=1e-4, atol=1e-6)
        assert pooled.layers[-1].name == f"{pooling}_pool"
    assert build_model("vgg_a", include_top=False).input_shape == (None, None, None, 3)


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        ("cifar_resnet8", {}, "mixed_bfloat16"),
        ("cifar_resnet8", {}, "mixed_float16"),
        ("vgg_a_lrn", {"input_shape": (32, 32, 3)}, "mixed_bfloat16"),
    ],
)
def test_mixed_precision(name, options, dtype):
    before = keras.config.dtype_policy()
    model = build_model(name, dtype=dtype, **options)
    assert keras.config.dtype_policy() == before
    compute = dtype.removeprefix("mixed_")
    assert {w.dtype for w in model.weights} == {"float32"}
    head = model.get_layer("predictions")
    for layer in model.layers[1:]:
        if layer is not head and not isinstance(layer, keras.Model):
            assert layer.compute_dtype == compute, layer.name
    assert (head.compute_dtype, head.output.dtype) == ("float32", "float32")
    exact = build_model(name, **options)
    exact.set_weights(model.get_weights())
    x = images(4, 32, 32, 3)
    np.testing.assert_allclose(model(x), exact(x), atol=0.05)


def test_float32_is_meant_whatever_the_process_prefers():
    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.config.set_image_data_format("channels_first")
    try:
        model = build_model("cifar_resnet8")
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert keras.config.image_data_format() == "channels_first"
        with pytest.raises(ValueError, match="classes"):
            build_model("cifar_resnet8", classes=-1)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert model.get_layer("conv4_block1_out").output.shape == (None, 8, 8, 64)


def test_networks_start_as_published():
    keras.utils.set_random_seed(0)
    he = build_model("resnet18", classes=100, input_shape=(32, 32, 3))
    for name, fan_in in (
        ("conv5_block2_2_conv", 9 * 512),
        ("conv5_block1_0_conv", 256),
        ("conv1_conv", 49 * 3),
        ("predictions", 512),
    ):
        kernel = np.asarray(he.get_layer(name).kernel)
        sigma = np.sqrt(2 / fan_in)
        assert kernel.std() == pytest.approx(sigma, rel=0.03), name
        assert np.mean(abs(kernel) > 2 * sigma) == pytest.approx(0.0455, abs=0.006), name
    twins = [np.asarray(he.get_layer(f"conv5_block2_{i}_conv").kernel) for i in (1, 2)]
    assert (twins[0] != twins[1]).any()  # each layer draws its own numbers

    lab = build_model("lab_resnet50")
    for name, fan_in in (("conv5_block1_0_conv", 1024), ("predictions", 2048)):
        kernel, bias = lab.get_layer(name).get_weights()
        assert 0.99 * fan_in**-0.5 < abs(kernel).max() <= fan_in**-0.5
        assert 0.2 * fan_in**-0.5 < abs(bias).max() <= fan_in**-0.5

    options = {"input_shape": (32, 32, 3), "include_top": False}
    kernel, bias = build_model("vgg_a", **options).get_layer("block5_conv2").get_weights()
    assert abs(kernel).max() == pytest.approx(np.sqrt(6 / (2 * 9 * 512)), rel=0.01)
    kernel, bias = (
        build_model("vgg_a", initializer="vgg_paper", **options)
        .get_layer("block5_conv2")
        .get_weights()
    )
    assert kernel.std() == pytest.approx(0.1, rel=0.01)
    assert not bias.any()
