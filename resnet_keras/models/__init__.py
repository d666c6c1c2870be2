"""What a network is: tables, building blocks, networks, and their cost by arithmetic.

Names are loaded when they are first used, so importing this package does not import TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_keras.models.architectures import (
        ARCHITECTURES,
        ResNetSpec,
        VGGSpec,
        architecture,
        feature_layers,
    )
    from resnet_keras.models.blocks import (
        basic_block,
        bottleneck_block,
        initial_block,
        plain_block,
        residual,
        residual_block,
        shortcut,
    )
    from resnet_keras.models.build import build_model
    from resnet_keras.models.complexity import Row, stages, total
    from resnet_keras.models.initialization import initializers
    from resnet_keras.models.layers import FusedBatchNormalization
    from resnet_keras.models.parts import (
        average_pooling,
        batch_norm,
        conv_bn,
        convolution,
        dense,
        global_pooling,
        local_response_normalization,
        max_pooling,
    )
    from resnet_keras.models.weights import load_weights

__all__ = [
    "ARCHITECTURES",
    "FusedBatchNormalization",
    "ResNetSpec",
    "Row",
    "VGGSpec",
    "architecture",
    "average_pooling",
    "basic_block",
    "batch_norm",
    "bottleneck_block",
    "build_model",
    "conv_bn",
    "convolution",
    "dense",
    "feature_layers",
    "global_pooling",
    "initial_block",
    "initializers",
    "load_weights",
    "local_response_normalization",
    "max_pooling",
    "plain_block",
    "residual",
    "residual_block",
    "shortcut",
    "stages",
    "total",
]

# In this order: a name of the first two is found without loading TensorFlow.
_MODULES = (
    *("architectures", "complexity", "initialization", "layers", "parts", "blocks", "build"),
    "weights",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            members = vars(importlib.import_module(f"{__name__}.{module}"))
            if name in members:
                return members[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
