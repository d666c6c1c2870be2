"""VGG networks: spec -> keras.Model (Simonyan & Zisserman 2014, Table 1)."""

from __future__ import annotations

import keras

from resnet_keras.models.architectures import VGGSpec
from resnet_keras.models.parts import (
    batch_norm,
    convolution,
    dense,
    global_pooling,
    local_response_normalization,
    max_pooling,
)


def vgg(
    spec: VGGSpec,
    input_shape: tuple[int | None, int | None, int],
    *,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Build the network of a row; arguments as build_model's, already checked."""
    inputs = x = keras.Input(input_shape, name="input_layer")
    for group, (filters, kernels) in enumerate(zip(spec.filters, spec.kernels, strict=True), 1):
        for i, kernel_size in enumerate(kernels, start=1):
            x = _convolution(spec, x, filters, kernel_size, name=f"block{group}_conv{i}")
        if spec.lrn and group == 1:
            x = local_response_normalization(x, name="block1_lrn")
        x = max_pooling(x, name=f"block{group}_pool")
    if not include_top:
        return keras.Model(inputs, global_pooling(x, pooling), name=spec.name)
    return keras.Model(inputs, _classifier(spec, x, classifier_activation), name=spec.name)


def _convolution(spec: VGGSpec, x, filters: int, kernel_size: int, *, name: str):
    activation = None if spec.batch_norm else "relu"
    x = convolution(
        x, filters, kernel_size, activation=activation, initializer=spec.initializer, name=name
    )
    if spec.batch_norm:
        x = batch_norm(x, name=f"{name}_bn")
        x = keras.layers.Activation("relu", name=f"{name}_relu")(x)
    return x


def _classifier(spec: VGGSpec, x, activation: str | None):
    x = keras.layers.Flatten(name="flatten")(x)
    for name in ("fc1", "fc2"):
        x = dense(x, spec.units, activation="relu", initializer=spec.initializer, name=name)
        if spec.dropout:
            x = keras.layers.Dropout(spec.dropout, name=f"{name}_dropout")(x)
    return dense(
        x,
        spec.classes,
        activation=activation,
        initializer=spec.initializer,
        name="predictions",
        dtype="float32",
    )
