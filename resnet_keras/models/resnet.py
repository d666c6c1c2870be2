"""Residual and plain networks: spec -> keras.Model (He et al. 2015, Fig. 3 and Table 1)."""

from __future__ import annotations

from typing import Any

import keras

from resnet_keras.models.architectures import ResNetSpec
from resnet_keras.models.blocks import basic_block, bottleneck_block, initial_block, plain_block
from resnet_keras.models.parts import dense, global_pooling


def resnet(
    spec: ResNetSpec,
    input_shape: tuple[int | None, int | None, int],
    *,
    include_top: bool = True,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
) -> keras.Model:
    """Build the network of a row; arguments as build_model's, already checked."""
    inputs = keras.Input(input_shape, name="input_layer")
    x = initial_block(
        inputs,
        spec.filters[0],
        spec.stem_kernel,
        stride=spec.stem_stride,
        pool=spec.stem_pool,
        initializer=spec.initializer,
    )
    for stage, (filters, blocks) in enumerate(zip(spec.filters, spec.blocks, strict=True), start=2):
        for i in range(1, blocks + 1):
            # Sec. 3.3, 4.1: conv3_1, conv4_1, conv5_1 halve the size.
            stride = 2 if i == 1 and stage > 2 else 1
            x = _block(spec, x, filters, stride, name=f"conv{stage}_block{i}")
    x = global_pooling(x, "avg" if include_top else pooling)
    if include_top:
        x = dense(
            x,
            spec.classes,
            activation=classifier_activation,
            initializer=spec.initializer,
            name="predictions",
            dtype="float32",
        )
    return keras.Model(inputs, x, name=spec.name)


def _block(spec: ResNetSpec, x, filters: int, stride: int, *, name: str):
    if spec.block == "plain":
        return plain_block(x, filters, stride, initializer=spec.initializer, name=name)
    options: dict[str, Any] = {
        "shortcut": spec.shortcut,
        "projection_bias": spec.projection_bias,
        "initializer": spec.initializer,
        "name": name,
    }
    if spec.block == "bottleneck":
        options["stride_on"] = spec.stride_on
        return bottleneck_block(x, filters, stride, **options)
    return basic_block(x, filters, stride, **options)
