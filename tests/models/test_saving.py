"""Models survive a .keras file, and leave as plain Keras."""

import keras
import numpy as np
import pytest

from resnet_keras import build_model
from resnet_keras.models import FusedBatchNormalization

# Keras 3.15 copies variables with np.array(variable), which NumPy 2 finds out of date.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SMALL = [
    ("resnet18", {"input_shape": (33, 32, 3), "classes": 4}),
    ("resnet18", {"shortcut": "A", "input_shape": (32, 32, 3), "stem_pool": "symmetric"}),
    ("cifar_resnet8", {}),
    ("cifar_plain8", {"dtype": "mixed_bfloat16"}),
    ("vgg_a_lrn", {"include_top": False, "input_shape": (32, 40, 3)}),
    ("lab_vgg16", {}),
    pytest.param("lab_resnet50", {}, marks=pytest.mark.slow),
]


def train_statistics(model):
    """Move the batch-norm statistics away from 0 and 1, as training does."""
    rng = np.random.default_rng(0)
    shape = [n or 32 for n in model.input_shape[1:]]
    model(rng.normal(1.0, 2.0, (4, *shape)).astype("float32"), training=True)
    return rng.normal(1.0, 2.0, (2, *shape)).astype("float32")


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_keras_file(name, options, tmp_path):
    model = build_model(name, **options)
    x = train_statistics(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(("name", "options"), [SMALL[0], SMALL[2]])
def test_weights_fit_stock_layers(name, options):
    model = build_model(name, **options)
    x = train_statistics(model)

    def stock(layer):
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.BatchNormalization.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    plain = keras.models.clone_model(model, clone_function=stock)
    assert {type(layer).__module__.partition(".")[0] for layer in plain.layers} == {"keras"}
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(plain(x), model(x), rtol=1e-5, atol=1e-5)


def test_weights_file(tmp_path):
    model, other = build_model("cifar_resnet8"), build_model("cifar_resnet8")
    x = train_statistics(model)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other(x), model(x))


def test_more_layers_in_a_row_than_pythons_first_recursion_limit():
    inputs = x = keras.Input((2,))
    x = FusedBatchNormalization()(x)  # what our networks import
    for i in range(1100):
        x = keras.layers.Identity(name=f"layer{i}")(x)
    model = keras.Model(inputs, x)
    assert len(keras.Model.from_config(model.get_config()).layers) == 1102


@pytest.mark.slow
def test_the_1202_layer_net(tmp_path):
    model = build_model("cifar_resnet1202")
    x = train_statistics(model)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))
    model.save_weights(tmp_path / "model.weights.h5")
    model.load_weights(tmp_path / "model.weights.h5")
