"""Deep Residual Learning (He et al. 2015) and VGG networks in TensorFlow and Keras.

Names are loaded when they are first used, so importing this package does not import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_keras.version import __version__

if TYPE_CHECKING:
    from resnet_keras.models.architectures import ARCHITECTURES, architecture, feature_layers
    from resnet_keras.models.build import build_model

__all__ = ["ARCHITECTURES", "__version__", "architecture", "build_model", "feature_layers"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resnet_keras import models

    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
