"""The built networks: counts, structure, and equality with another implementation."""

import json

import keras
import numpy as np
import pytest

from resnet_keras import build_model, feature_layers
from resnet_keras.models import stages, total

# One of every family and every option runs by default, the rest with -m slow.
QUICK = {
    "resnet18 shortcut=A",
    "resnet18 shortcut=B",
    "plain18",
    "resnet34 shortcut=B",
    "resnet34 shortcut=C",
    "resnet50 shortcut=B",
    "resnet50 shortcut=B stride_on=3x3",
    "resnet101 shortcut=B",
    "resnet152 shortcut=B",
    "cifar_resnet20 shortcut=A",
    "cifar_resnet20 shortcut=B",
    "cifar_plain20",
    "cifar_resnet56 shortcut=A",
    "vgg_a_lrn",
    "vgg_c",
    "vgg_e",
    "vgg_b_5x5",
    "lab_vgg16",
    "lab_resnet50",
}
REST = {
    *(f"resnet{depth} shortcut={option}" for depth in (34, 50, 101, 152) for option in "AC"),
    *(f"resnet{depth} shortcut=B stride_on=3x3" for depth in (101, 152)),
    *(f"cifar_resnet{depth} shortcut={option}" for depth in (32, 44, 56, 110) for option in "AB"),
    *(f"cifar_plain{depth}" for depth in (32, 44, 56, 110, 1202)),
    *(f"cifar_resnet1202 shortcut={option}" for option in "AB"),
    *("resnet18 shortcut=C", "plain34", "vgg_a", "vgg_b", "vgg_d"),
} - QUICK
NETWORKS = [*sorted(QUICK), *(pytest.param(k, marks=pytest.mark.slow) for k in sorted(REST))]


@pytest.fixture
def build_unfilled():
    """Build models whose variables have shapes but no values: the same layers, much faster."""
    with keras.StatelessScope(initialize_variables=False):
        yield build_model
    keras.backend.clear_session()  # forgets the variables that wait for values


def counts(model):
    """Return trainable parameters, statistics and multiply-adds of a model, from its layers."""
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    statistics = sum(2 * norm.moving_mean.shape[0] for norm in norms)
    multiply_adds = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            pixels = int(np.prod(layer.output.shape[1:-1]))
            multiply_adds += pixels * int(np.prod(layer.kernel.shape))
    return trainable, statistics, multiply_adds


def test_the_list_of_networks_is_the_golden_one(shared):
    golden = json.loads((shared / "facts" / "golden.json").read_text())["networks"]
    assert {*golden, "vgg_b_5x5"} == QUICK | REST


@pytest.mark.parametrize("key", NETWORKS)
def test_counts_of_the_built_model(key, build_unfilled):
    name, *options = key.split()
    chosen = dict(option.split("=") for option in options)
    expected = total(stages(name, **chosen))  # held against papers in test_complexity.py
    trainable, statistics, multiply_adds = counts(build_unfilled(name, **chosen))
    assert trainable == expected.parameters
    assert statistics == expected.batchnorm_statistics
    assert multiply_adds == expected.multiply_adds


def test_counts_at_an_odd_size_and_other_channels(build_unfilled):
    for pool in ("ceil", "symmetric"):
        rows = stages("resnet18", classes=7, input_size=(65, 101), input_channels=1, stem_pool=pool)
        model = build_unfilled("resnet18", classes=7, input_shape=(65, 101, 1), stem_pool=pool)
        assert counts(model)[0] == total(rows).parameters
        assert counts(model)[2] == total(rows).multiply_adds
    rows = stages("vgg_b", classes=7, input_size=(65, 101), input_channels=1)
    model = build_unfilled("vgg_b", classes=7, input_shape=(65, 101, 1))
    assert counts(model)[::2] == (total(rows).parameters, total(rows).multiply_adds)


def projections(model):
    return {layer.name.removesuffix("_0_conv") for layer in model.layers if "_0_conv" in layer.name}


def test_which_blocks_project(build_unfilled):
    changing = {f"conv{stage}_block1" for stage in (3, 4, 5)}
    everywhere = {f"conv{s}_block{i}" for s, n in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True)
                  for i in range(1, n + 1)}  # fmt: skip
    assert projections(build_unfilled("resnet34")) == changing
    always = projections(build_unfilled("resnet34", shortcut="C"))
    assert always == everywhere
    assert (len(always), len(always) - len(changing)) == (16, 13)  # Sec. 4.1: thirteen extra
    assert projections(build_unfilled("resnet34", shortcut="A")) == set()
    # A bottleneck's first stage changes channels too.
    assert projections(build_unfilled("resnet50")) == changing | {"conv2_block1"}
    assert projections(build_unfilled("cifar_resnet20")) == set()


def strided(model):
    return {x.name for x in model.layers if isinstance(x, keras.layers.Conv2D) and x.strides[0] > 1}


def test_where_the_strides_sit(build_unfilled):
    shortcuts = {f"conv{stage}_block1_0_conv" for stage in (3, 4, 5)} | {"conv1_conv"}
    for option, index in ((None, 1), ("3x3", 2)):
        model = build_unfilled("resnet50", stride_on=option)
        assert strided(model) == shortcuts | {f"conv{s}_block1_{index}_conv" for s in (3, 4, 5)}
    basic = {f"conv{stage}_block1_1_conv" for stage in (3, 4, 5)}
    assert strided(build_unfilled("resnet18")) == shortcuts | basic
    assert strided(build_unfilled("lab_resnet50")) == shortcuts - {"conv1_conv"} | basic


def test_plain_nets_add_nothing_and_end_as_residual_nets_do(build_unfilled):
    for name in ("plain18", "cifar_plain20"):
        kinds = {type(layer).__name__ for layer in build_unfilled(name).layers}
        assert "Add" not in kinds
    assert feature_layers("plain18") == feature_layers("resnet18")


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("resnet50", [(56, 256), (28, 512), (14, 1024), (7, 2048)]),  # Table 1
        ("plain34", [(56, 64), (28, 128), (14, 256), (7, 512)]),
        ("cifar_resnet20", [(32, 16), (16, 32), (8, 64)]),  # Sec. 4.2
        ("lab_resnet50", [(32, 256), (16, 512), (8, 1024), (4, 2048)]),
        ("vgg_d", [(112, 128), (56, 256), (28, 512), (14, 512)]),
        ("lab_vgg16", [(16, 128), (8, 256), (4, 512), (2, 512)]),
    ],
)
def test_feature_sizes(name, sizes, build_unfilled):
    model = build_unfilled(name)
    taps = [model.get_layer(layer).output.shape for layer in feature_layers(name).values()]
    assert taps == [(None, side, side, channels) for side, channels in sizes]


def test_resnets_take_any_size_when_the_sides_are_open():
    model = build_model("resnet18", input_shape=(None, None, 3), classes=5)
    assert model(np.zeros((1, 33, 47, 3), "float32")).shape == (1, 5)
    features = build_model("cifar_resnet8", include_top=False)
    assert features(np.zeros((1, 33, 40, 3), "float32")).shape == (1, 9, 10, 64)


def test_vgg_has_dropout_on_its_two_hidden_dense_layers_and_lrn_once(build_unfilled):
    model = build_unfilled("vgg_a_lrn", input_shape=(32, 32, 3))
    names = [layer.name for layer in model.layers]
    assert names[names.index("flatten") :] == [
        *("flatten", "fc1", "fc1_dropout", "fc2", "fc2_dropout", "predictions")
    ]
    assert {model.get_layer(f"fc{i}_dropout").rate for i in (1, 2)} == {0.5}
    assert names[1:4] == ["block1_conv1", "block1_lrn", "block1_pool"]
    lab = build_unfilled("lab_vgg16")
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in lab.layers)
    assert all(x.use_bias for x in lab.layers if isinstance(x, keras.layers.Conv2D))


def test_biases_before_batch_norm(build_unfilled):
    resnet, lab = build_unfilled("resnet18"), build_unfilled("lab_resnet50")
    biased = {x.name for x in lab.layers if isinstance(x, keras.layers.Conv2D) and x.use_bias}
    assert biased == {f"conv{stage}_block1_0_conv" for stage in (2, 3, 4, 5)}
    assert not any(x.use_bias for x in resnet.layers if isinstance(x, keras.layers.Conv2D))


def test_names_do_not_depend_on_what_was_built_before(build_unfilled):
    for name, options in (
        ("cifar_resnet8", {}),
        ("resnet18", {"shortcut": "A"}),
        ("vgg_a_lrn", {"include_top": False}),
        ("lab_vgg16", {}),
    ):
        first, second = build_unfilled(name, **options), build_unfilled(name, **options)
        assert [x.name for x in first.layers] == [x.name for x in second.layers]
        paths = [[w.path for w in model.weights] for model in (first, second)]
        assert paths[0] == paths[1]


def test_names_are_those_of_keras_applications(build_unfilled):
    ours = {layer.name for layer in build_unfilled("resnet50").layers}
    theirs = {layer.name for layer in keras.applications.ResNet50(weights=None).layers}
    assert {name for name in theirs if not name.startswith("input_layer")} <= ours
    # Of a 1x1 convolution there is nothing to pad: the two lists are equal.
    assert {name for name in ours if not name.startswith("input_layer")} <= theirs
    vgg = [layer.name for layer in build_unfilled("vgg_d").layers]
    theirs = [layer.name for layer in keras.applications.VGG16(weights=None).layers]
    assert [name for name in vgg[1:] if "dropout" not in name] == theirs[1:]
    lab = {layer.name for layer in build_unfilled("lab_vgg16").layers}
    assert set(theirs[1:]) <= lab


def copy_by_name(source, target):
    """Fill target with source's weights, and batch norm with plausible random values, in both."""
    rng = np.random.default_rng(0)
    for layer in source.layers:
        weights = layer.get_weights()
        if not weights:
            continue
        if isinstance(layer, keras.layers.BatchNormalization):
            # Scales that neither silence nor blow up a deep net.
            ranges = [(0.3, 0.7), (-0.1, 0.1), (-0.1, 0.1), (0.5, 1.5)]
            weights = [rng.uniform(*r, w.shape) for r, w in zip(ranges, weights, strict=True)]
            layer.set_weights(weights)
        elif len(weights) == 2 and not target.get_layer(layer.name).use_bias:
            kernel, bias = weights
            assert not bias.any()
            weights = [kernel]
        target.get_layer(layer.name).set_weights(weights)


def test_resnet50_computes_what_keras_applications_does():
    # Theirs pads the stem's pooling by one pixel and has zero biases before batch norm.
    theirs = keras.applications.ResNet50(weights=None, input_shape=(75, 75, 3), classes=10)
    ours = build_model("resnet50", stem_pool="symmetric", input_shape=(75, 75, 3), classes=10)
    copy_by_name(theirs, ours)
    x = np.random.default_rng(1).normal(size=(2, 75, 75, 3)).astype("float32")
    for tap in feature_layers("resnet50").values():
        a, b = (
            keras.Model(model.input, model.get_layer(tap).output)(x) for model in (ours, theirs)
        )
        assert np.std(b) > 0.01
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.std(b))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "theirs"), [("vgg_d", "VGG16"), ("vgg_e", "VGG19")])
def test_vgg_computes_what_keras_applications_does(name, theirs):
    shape = (40, 33, 3)
    theirs = getattr(keras.applications, theirs)(weights=None, include_top=False, input_shape=shape)
    ours = build_model(name, include_top=False, input_shape=shape)
    copy_by_name(theirs, ours)
    x = np.random.default_rng(1).normal(size=(2, *shape)).astype("float32")
    expected = np.asarray(theirs(x))
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-4 * expected.std())
