"""The constructed solution (ResNet paper, Sec. 1) and VGG's initialisation from A (Sec. 3.1)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.evaluation.agreement import compare
from resnet_keras.models import architecture, build_model
from resnet_keras.models.deepen import deepen

SIDE = 32


def _randomised(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give a network what training gives: no scale of 1, no offset or statistics of 0."""
    random = np.random.default_rng(seed)
    for variable in model.variables:
        shape, kind = variable.shape, variable.path.rpartition("/")[2]
        if kind in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.5, 1.5, shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(random.normal(0, 0.3, shape))
    return model


def _images(count: int = 16, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIDE, SIDE, 3)).astype(np.float32)


def _pair(shallow: str, deep: str, classes: int = 5, **options):
    """Return both networks with their rows, as deepen takes them."""
    made: list = []
    keras.utils.set_random_seed(0)
    for seed, name in enumerate((shallow, deep)):
        model = build_model(
            name, classes=classes, input_shape=(SIDE, SIDE, 3), classifier_activation=None,
            **options,
        )  # fmt: skip
        made += [_randomised(model, seed), architecture(name, classes=classes, **options)]
    return made


def _difference(one: keras.Model, other: keras.Model) -> float:
    images = _images(8, seed=2)  # others than those that statistics are measured on
    first, second = (np.asarray(model(images, training=False)) for model in (one, other))
    assert np.ptp(first, axis=0).min() > 1e-3 * np.abs(first).max()  # it answers about the image
    return np.abs(first - second).max() / np.abs(first).max()


@pytest.mark.parametrize(
    ("shallow", "deep", "options", "added"),
    [
        ("cifar_resnet8", "cifar_resnet20", {}, 12),
        ("cifar_resnet8", "cifar_resnet14", {"shortcut": "B"}, 6),
        ("cifar_resnet8", "cifar_resnet14", {"shortcut": "C"}, 9),
        ("cifar_plain8", "cifar_plain20", {}, 12),
        ("plain18", "plain34", {}, 16),
        # The small nets have all three shortcuts, too.
        pytest.param("resnet18", "resnet34", {"shortcut": "A"}, 16, marks=pytest.mark.slow),
        ("resnet18", "resnet34", {"shortcut": "B"}, 16),
        pytest.param("resnet18", "resnet34", {"shortcut": "C"}, 24, marks=pytest.mark.slow),
        pytest.param("resnet50", "resnet101", {}, 51, marks=pytest.mark.slow),
    ],
    ids=lambda value: "".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_a_deeper_network_computes_what_the_shallower_one_does(shallow, deep, options, added):
    """Sec. 1: the added layers are identities; facts say to 1e-4 of the largest logit."""
    net, spec, deeper, deeper_spec = _pair(shallow, deep, **options)
    before = net.get_weights()
    assert _difference(net, deeper) > 1e-2
    copied, new = deepen(net, spec, deeper, deeper_spec, [_images(), _images(4, seed=3)])
    assert _difference(net, deeper) < 1e-4
    assert len(new) == added
    kernels = [layer for layer in deeper.layers if hasattr(layer, "kernel")]
    assert len(copied) + len(new) == len(kernels)
    for one, two in zip(before, net.get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()


def test_residual_and_like_networks_need_no_images():
    net, spec, deeper, deeper_spec = _pair("cifar_resnet8", "cifar_resnet14")
    deepen(net, spec, deeper, deeper_spec)
    assert _difference(net, deeper) == 0
    net, spec, again, _ = _pair("cifar_plain8", "cifar_plain8")
    assert _difference(net, again) > 1e-2
    copied, added = deepen(net, spec, again, spec)
    assert (len(copied), added) == (8, [])
    assert _difference(net, again) == 0
    for one, two in zip(net.get_weights(), again.get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("kind", ["resnet", "plain"])
def test_the_added_layers_learn(kind):
    """A block of zeros would be an identity, too, and stay one."""
    net, spec, deeper, deeper_spec = _pair(f"cifar_{kind}8", f"cifar_{kind}14")
    deepen(net, spec, deeper, deeper_spec, [_images(32)])
    for step in range(2):
        with tf.GradientTape() as tape:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(
                np.arange(16) % 5, deeper(_images(), training=True)
            )
        gradients = tape.gradient(loss, deeper.trainable_weights)
        for variable, gradient in zip(deeper.trainable_weights, gradients, strict=True):
            # A residual block's last batch norm, scale 0, moves first, the rest of it then.
            if "block2" in variable.path and (step or kind == "plain" or "_2_bn" in variable.path):
                assert np.abs(gradient).max() > 1e-7, variable.path
            variable.assign_sub(1e-3 * gradient)


def test_plain_nets_agree_in_training_to_the_noise_of_the_statistics():
    """Facts, section 7: batch statistics take the measured ones' place; residual ones agree."""
    found = {}
    for kind in ("resnet", "plain"):
        net, spec, deeper, deeper_spec = _pair(f"cifar_{kind}8", f"cifar_{kind}14")
        deepen(net, spec, deeper, deeper_spec, [_images(64)])
        labels = np.asarray(net(_images(96, seed=4), training=False)).argmax(axis=1)
        labels[:24] = (labels[:24] + 1) % 5  # a quarter wrong in evaluation
        weights = np.ones(96, np.float32)
        weights[90:] = 0  # no images
        statistics = [model.get_weights() for model in (net, deeper)]
        batches = [
            {"image": _images(96, seed=4)[i : i + 32], "label": labels[i : i + 32],
             "weight": weights[i : i + 32]}
            for i in (0, 32, 64)
        ]  # fmt: skip
        found[kind] = compare(deeper, net, batches)
        assert found[kind]["images"] == 90
        assert found[kind]["error"] == found[kind]["init_error"] == 24 / 90
        assert found[kind]["relative_difference"] < 1e-4
        for model, before in zip((net, deeper), statistics, strict=True):
            for one, two in zip(model.get_weights(), before, strict=True):
                assert one.tobytes() == two.tobytes()
    assert found["resnet"]["batch_error"] == found["resnet"]["init_batch_error"]
    assert found["plain"]["batch_error"] == pytest.approx(
        found["plain"]["init_batch_error"], abs=0.1
    )
    # It is not the evaluation over again: these moving averages are far from the batch's.
    assert found["plain"]["init_batch_error"] > found["plain"]["init_error"]


def test_networks_that_differ_are_told_apart():
    net, _, deeper, _ = _pair("cifar_resnet8", "cifar_resnet14")
    batch = {"image": _images(), "label": np.zeros(16, np.int32), "weight": np.ones(16, np.float32)}
    found = compare(deeper, net, [batch])
    assert found["relative_difference"] == pytest.approx(
        np.abs(np.asarray(deeper(_images()) - net(_images()))).max()
        / np.abs(np.asarray(net(_images()))).max(),
        rel=1e-5,
    )


# VGG paper, Sec. 3.1 and Table 1: where A's first four convolutions stand in the deeper nets.
FROM_A = ["block1_conv1", "block2_conv1", "block3_conv1", "block3_conv2", "fc1", "fc2"]


@pytest.mark.parametrize("net", ["vgg_c", "vgg_d", "vgg_e"])
def test_vgg_nets_take_four_convolutions_and_the_dense_layers_of_a(net):
    a, spec, deeper, deeper_spec = _pair("vgg_a", net)
    before = {v.path: np.asarray(v.value) for v in deeper.trainable_variables}
    copied, added = deepen(a, spec, deeper, deeper_spec)
    assert sorted(copied) == sorted([*FROM_A, "predictions"])
    layers = {"vgg_c": 16, "vgg_d": 16, "vgg_e": 19}[net]
    assert len(copied) + len(added) == layers
    source = {v.path: np.asarray(v.value) for v in a.trainable_variables}
    for variable in deeper.trainable_variables:
        layer = variable.path.partition("/")[0]
        wanted = source if layer in (*FROM_A, "predictions") else before
        assert np.asarray(variable.value).tobytes() == wanted[variable.path].tobytes()
        if layer in FROM_A:
            assert not np.array_equal(source[variable.path], before[variable.path])


def test_a_vgg_net_of_the_same_layers_is_copied_whole():
    """Sec. 3.1: S = 384 from S = 256."""
    one, spec, again, _ = _pair("vgg_a", "vgg_a")
    _, added = deepen(one, spec, again, spec)
    assert added == []
    assert _difference(one, again) == 0


@pytest.mark.parametrize(
    ("shallow", "deep", "told"),
    [
        (("cifar_resnet14", {}), ("cifar_resnet8", {}), "layer conv2_block2_1_conv it does not"),
        (("cifar_resnet8", {"classes": 3}), ("cifar_resnet14", {}), "layer predictions .* 64x3"),
        (("cifar_plain8", {}), ("cifar_resnet14", {}), r"block=plain \(now basic\)"),
        (("cifar_resnet8", {}), ("cifar_resnet14", {"shortcut": "B"}), r"shortcut=A \(now B\)"),
        (("vgg_a", {}), ("cifar_resnet8", {}), "another architecture"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_is_refused_and_changes_nothing(shallow, deep, told):
    made: list = []
    for name, options in (shallow, deep):
        options = {"classes": 5, **options}
        made += [
            build_model(name, input_shape=(SIDE, SIDE, 3), **options),
            architecture(name, **options),
        ]
    before = made[2].get_weights()
    with pytest.raises(InputError, match=told):
        deepen(*made)
    for one, two in zip(before, made[2].get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("shallow", "deep", "options", "told"),
    [
        ("vgg_b", "vgg_d", {}, "take vgg_a, .* or vgg_d"),
        ("vgg_a", "vgg_a_lrn", {}, r"lrn=False \(now True\)"),
        ("resnet50", "resnet101", {"stride_on": "3x3"}, r"stride_on=3x3 \(now 1x1\)"),
    ],
)
def test_what_no_shape_shows_is_refused(shallow, deep, options, told):
    """The weights would fit and compute something else."""
    tiny = keras.Sequential([keras.Input((1,))])
    specs = architecture(shallow, **options), architecture(deep)
    with pytest.raises(InputError, match=told):
        deepen(tiny, specs[0], tiny, specs[1])
