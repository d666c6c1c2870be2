"""Keras Applications' weights give their answers, and our own come back bitwise."""

import json

import h5py
import keras
import numpy as np
import pytest

from resnet_keras.errors import InputError
from resnet_keras.models import architecture, build_model, load_weights
from resnet_keras.training.checkpoints import Checkpoints

# Keras 3.15 copies variables with np.array(variable), which NumPy 2 finds out of date.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
SHAPE = (64, 96, 3)


def randomise(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith(("bias", "beta", "moving_mean")):
            variable.assign(rng.normal(0, 0.3, variable.shape))
        elif variable.path.endswith(("gamma", "moving_variance")):
            variable.assign(rng.uniform(0.4, 1.2, variable.shape))
    return model


def save_as_published(model, file):
    """Write the weights as Keras 2 did, by hand: a group a layer, in `weight_names`' order."""
    with h5py.File(file, "w") as opened:
        names = []
        for layer in model.layers:
            group = opened.create_group(layer.name)
            names.append(layer.name)
            weights = [f"{layer.name}/{v.name}:0" for v in layer.variables]
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, variable in zip(weights, layer.variables, strict=True):
                group[name] = variable.numpy()
        opened.attrs["layer_names"] = [name.encode() for name in names]
        opened.attrs["keras_version"] = b"2.15.0"


SAVE = {
    "published.h5": save_as_published,
    "model.h5": lambda model, file: model.save(file),
    "model.weights.h5": lambda model, file: model.save_weights(file),
    "model.keras": lambda model, file: model.save(file),
}
PEERS = {
    "resnet50": (keras.applications.ResNet50, {"stem_pool": "symmetric"}),
    "vgg_d": (keras.applications.VGG16, {}),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vgg_d", "published.h5"),
        ("vgg_d", "model.keras"),
        pytest.param("vgg_d", "model.h5", marks=pytest.mark.slow),
        pytest.param("vgg_d", "model.weights.h5", marks=pytest.mark.slow),
        ("resnet50", "published.h5"),
        ("resnet50", "model.keras"),
    ],
)
def test_keras_applications(tmp_path, name, kind):
    """Their networks take blue, green, red; their convolutions have biases, epsilon is 1.001e-5."""
    network, options = PEERS[name]
    peer = randomise(
        network(weights=None, input_shape=SHAPE, classes=9, classifier_activation=None)
    )
    SAVE[kind](peer, tmp_path / kind)
    options = options | {"classes": 9}
    model = build_model(name, input_shape=SHAPE, classifier_activation=None, **options)
    told = load_weights(model, architecture(name, **options), tmp_path / kind)
    assert "Keras Applications" in told
    x = np.random.default_rng(1).normal(0, 1, (2, *SHAPE)).astype("float32")
    want, got = np.asarray(peer(x[..., ::-1])), np.asarray(model(x))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_their_pooling_pads_symmetrically(tmp_path):
    keras.applications.ResNet50(weights=None, input_shape=SHAPE).save_weights(
        tmp_path / "peer.weights.h5"
    )
    with pytest.raises(InputError, match=r"give --stem_pool=symmetric\."):
        load_weights(
            build_model("resnet50", input_shape=SHAPE),
            architecture("resnet50"),
            tmp_path / "peer.weights.h5",
        )


KERAS = ("model.h5", "model.weights.h5", "model.keras")
OURS = [
    ("cifar_resnet8", (*KERAS, "run", "run/ckpt-7", "run/ckpt-7.index", "arrays.npz")),
    ("cifar_plain8", ("model.keras", "model.weights.h5", "run")),
    ("vgg_a_lrn", KERAS),
    ("lab_resnet50", ("model.keras",)),  # whose projections have biases
]


def same_weights(one, other):
    first = {v.path: v.numpy() for v in one.variables if v.name != "seed_generator_state"}
    second = {v.path: v.numpy() for v in other.variables if v.name != "seed_generator_state"}
    assert first.keys() == second.keys()
    return all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize(("name", "files"), OURS)
def test_our_own_weights_come_back_bitwise(tmp_path, name, files):
    spec = architecture(name)
    model = randomise(build_model(name, input_shape=(32, 32, 3)))
    for kind in {*SAVE} & {*files}:
        SAVE[kind](model, tmp_path / kind)
    if "run" in files:
        Checkpoints(tmp_path / "run", model, {}, {}).save(7)
    if "arrays.npz" in files:
        np.savez(tmp_path / "arrays.npz", **{v.path: v.numpy() for v in model.variables})
    other = build_model(name, input_shape=(32, 32, 3))
    for file in files:
        randomise(other, seed=1)
        assert not same_weights(other, model)
        assert "resnet_keras" in load_weights(other, spec, tmp_path / file), file
        assert same_weights(other, model), file


def stock(layer):
    if isinstance(layer, keras.layers.BatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())


def test_a_clone_in_stock_layers_comes_back_bitwise(tmp_path):
    model = randomise(build_model("cifar_resnet8"))
    plain = keras.models.clone_model(model, clone_function=stock)
    plain.set_weights(model.get_weights())
    plain.save(tmp_path / "model.keras")
    other = build_model("cifar_resnet8")
    load_weights(other, architecture("cifar_resnet8"), tmp_path / "model.keras")
    assert same_weights(other, model)


CONTRADICTIONS = [
    ("resnet50", {}, "resnet50", {"stride_on": "3x3"}, "give --stride_on=1x1."),
    ("resnet18", {}, "resnet18", {"stem_pool": "symmetric"}, "give --stem_pool=ceil."),
    ("cifar_resnet8", {}, "cifar_plain8", {}, "--model=cifar_resnet8"),
    ("cifar_plain8", {}, "cifar_resnet8", {}, "--model=cifar_plain8"),
    ("cifar_resnet8", {"shortcut": "B"}, "cifar_resnet8", {}, "give --shortcut=B."),
    ("vgg_a_lrn", {}, "vgg_a", {}, "--model=vgg_a_lrn"),
    ("vgg_a", {}, "vgg_a_lrn", {}, "--model=vgg_a."),
]


@pytest.mark.parametrize(("saved", "has", "name", "options", "told"), CONTRADICTIONS)
def test_a_keras_file_of_another_network_is_told(tmp_path, saved, has, name, options, told):
    build_model(saved, input_shape=(32, 32, 3), **has).save(tmp_path / "model.keras")
    model = build_model(name, input_shape=(32, 32, 3), **options)
    with pytest.raises(InputError) as caught:
        load_weights(model, architecture(name, **options), tmp_path / "model.keras")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"model": "cifar_plain8"}, "give --model=cifar_plain8."),
        ({"model": "cifar_resnet8", "shortcut": "B"}, "give --shortcut=B."),
        ({"model": "of another version"}, "names no network of this version"),
    ],
)
def test_a_runs_own_flags_say_what_its_weights_are_of(tmp_path, flags, told):
    Checkpoints(tmp_path / "best", build_model("cifar_resnet8"), {}, {}).save(3)
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    with pytest.raises(InputError) as caught:
        load_weights(build_model("cifar_resnet8"), architecture("cifar_resnet8"), tmp_path / "best")
    assert told in str(caught.value)


def test_layers_without_names_cost_one_sentence(tmp_path):
    file = tmp_path / "old.weights.h5"
    build_model("cifar_resnet8").save_weights(file)
    with h5py.File(file, "a") as opened:
        opened["layers/conv2d/vars"].attrs.pop("name")
    with pytest.raises(InputError, match="does not name its layers"):
        load_weights(build_model("cifar_resnet8"), architecture("cifar_resnet8"), file)


def test_every_replica_gets_the_weights(tmp_path, cpus):
    from conftest import mirrored

    model = randomise(build_model("cifar_resnet8"))
    model.save(tmp_path / "model.keras")
    strategy = mirrored(cpus[:2])
    with strategy.scope():
        other = build_model("cifar_resnet8")
        load_weights(other, architecture("cifar_resnet8"), tmp_path / "model.keras")
    for one, two in zip(model.variables, other.variables, strict=True):
        for local in strategy.experimental_local_results(two.value):
            np.testing.assert_array_equal(local.numpy(), one.numpy())
