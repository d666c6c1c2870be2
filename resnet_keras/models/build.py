"""build_model: the only look-up from a name to a keras.Model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from resnet_keras.models.architectures import ResNetSpec, Spec, VGGSpec, architecture, is_whole
from resnet_keras.models.resnet import resnet
from resnet_keras.models.vgg import vgg

DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")
POOLINGS = (None, "avg", "max")
ACTIVATIONS = (None, "linear", "softmax", "sigmoid")


def build_model(
    name: str,
    *,
    classes: int | None = None,
    input_shape: Sequence[int | None] | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    shortcut: str | None = None,
    stride_on: str | None = None,
    stem_pool: str | None = None,
    classifier_activation: str | None = "softmax",
    initializer: str | None = None,
    dtype: str = "float32",
) -> keras.Model:
    """Build a network by name, freshly initialised, as its paper describes it.

    Input: images `(batch, height, width, channels)`, already normalised. Output: with top,
    `(batch, classes)` float32; without, the last feature maps, or their "avg" / "max" pooling.

    name: a key of ARCHITECTURES, or cifar_resnetD / cifar_plainD with D = 6n + 2.
    classes: outputs of the classifier; None: the data set's of the paper. Unused without top.
    input_shape: (height, width, channels); sides may be None, except for VGG with top. None: the
        paper's size; without top, (None, None, 3).
    include_top: False leaves the classifier out.
    pooling: None, "avg" or "max", without top only.
    shortcut: "A", "B" or "C" (Sec. 4.1). None: A for CIFAR nets, else B.
    stride_on: "1x1" or "3x3", the strided convolution of a bottleneck. None: "1x1", the paper's.
    stem_pool: "ceil" or "symmetric" (see max_pooling). None: "ceil", the authors' framework's.
    classifier_activation: "softmax", "sigmoid", or None / "linear" for logits.
    initializer: "he_normal", "glorot_uniform", "vgg_paper" or "pytorch" (see initializers). None:
        He normal for ResNets, Glorot uniform for VGG, PyTorch's for the lab nets.
    dtype: "float32", "mixed_bfloat16" or "mixed_float16"; mixed nets keep variables, statistics
        and the classifier in float32. The process's own policy stays as it is.
    Raises ValueError for an unknown or impossible argument, before anything is built.
    """
    spec = architecture(
        name,
        classes=classes,
        shortcut=shortcut,
        stride_on=stride_on,
        stem_pool=stem_pool,
        initializer=initializer,
    )
    for option, value, allowed in (
        ("dtype", dtype, DTYPES),
        ("pooling", pooling, POOLINGS),
        ("classifier_activation", classifier_activation, ACTIVATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{option}={value!r} is not one of {', '.join(map(repr, allowed))}.")
    if include_top and pooling is not None:
        raise ValueError(
            f"pooling={pooling!r} needs include_top=False: the classifier has its own."
        )
    shape = _check_shape(spec, input_shape, include_top)
    _check_depth(spec)
    options: dict[str, Any] = {
        "include_top": include_top,
        "pooling": pooling,
        "classifier_activation": classifier_activation,
    }
    with _keras_settings(dtype):
        if isinstance(spec, ResNetSpec):
            return resnet(spec, shape, **options)
        return vgg(spec, shape, **options)


def _check_shape(
    spec: Spec, input_shape: Sequence[int | None] | None, include_top: bool
) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels), or raise ValueError."""
    if input_shape is None:
        return (spec.image_size, spec.image_size, 3) if include_top else (None, None, 3)
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    received = f"input_shape={input_shape!r}"
    if len(shape) != 3 or not all(n is None or is_whole(n) for n in shape):
        raise ValueError(f"{received}: give (height, width, channels), whole numbers, no batch.")
    height, width, channels = (None if n is None else int(n) for n in shape)
    if channels is None or channels < 1:
        raise ValueError(f"{received}: the number of channels must be at least 1.")
    if height in (1, 3) and width == channels and channels > 15:
        raise ValueError(f"{received} has its channels first: give (height, width, channels).")
    if any(side is not None and side < spec.min_size for side in (height, width)):
        raise ValueError(f"{received}: {spec.name} needs sides of at least {spec.min_size} pixels.")
    if include_top and isinstance(spec, VGGSpec) and None in (height, width):
        raise ValueError(
            f"{received}: {spec.name} with its dense layers needs fixed sides; give numbers or "
            "include_top=False."
        )
    return height, width, channels


def _check_depth(spec: Spec) -> None:
    """Refuse a network that Keras, a frame per layer, would end with a RecursionError."""
    deep = 7 * sum(spec.blocks) if isinstance(spec, ResNetSpec) else 0  # layers of a basic block
    limit = sys.getrecursionlimit()
    if deep + 500 > limit:
        raise ValueError(
            f"{spec.name} is about {deep:,} layers deep, too deep for Python's recursion limit of "
            f"{limit:,}: call sys.setrecursionlimit({deep + 500}) first, or choose a smaller depth."
        )


@contextlib.contextmanager
def _keras_settings(dtype: str) -> Iterator[None]:
    """Set Keras's dtype policy and channels-last images, and restore what the process had."""
    policy, data_format = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy(dtype)
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(data_format)
