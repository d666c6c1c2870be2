"""The network as a .keras file that plain Keras opens, for retraining."""

import warnings
from pathlib import Path
from typing import Any

import keras

NAME = "model.keras"


def write(model: keras.Model, folder: Path) -> None:
    """Write ``folder/model.keras``: the model with stock layers and its weights, in float32.

    It takes and returns what the model does: normalised images, logits. Layer names are the
    model's, so that weights can be matched by name.

    Args:
        model: functional, computing in float32.
        folder: exists.
    """
    plain = keras.models.clone_model(model, clone_function=_stock)
    with warnings.catch_warnings():
        # Keras 3.15 reads variables in a way that NumPy 2 finds out of date.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        plain.set_weights(model.get_weights())
        plain.save(folder / NAME)


def _stock(layer: keras.layers.Layer) -> Any:
    """Return a fresh layer of Keras's own class; the fused one has the same configuration."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return type(layer).from_config(layer.get_config())
