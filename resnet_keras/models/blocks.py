"""The building blocks: shortcut (options A, B, C), residual, basic, bottleneck and plain block.

Pure functions from KerasTensor to KerasTensor; He et al. 2015, Sec. 3 and 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from resnet_keras.models.architectures import EXPANSION, SHORTCUTS, STRIDES_ON
from resnet_keras.models.parts import average_pooling, batch_norm, conv_bn, dense, max_pooling

Tensor = Any  # a KerasTensor


def initial_block(
    x: Tensor,
    filters: int,
    kernel_size: int = 7,
    *,
    stride: int = 1,
    pool: str | None = None,
    initializer: str = "he_normal",
) -> Tensor:
    """Open a network: convolution, batch norm, ReLU, and a 3x3 stride-2 max pooling if asked.

    pool: None, or the pooling's padding ("ceil", "symmetric"; see max_pooling).
    Layers: `conv1_*`, `pool1_pool`.
    """
    x = conv_bn(x, filters, kernel_size, stride, initializer=initializer, name="conv1")
    return x if pool is None else max_pooling(x, 3, 2, padding=pool, name="pool1_pool")


def shortcut(
    x: Tensor,
    filters: int,
    stride: int = 1,
    *,
    option: str = "B",
    use_bias: bool = False,
    initializer: str = "he_normal",
    name: str,
) -> Tensor:
    """Carry x past a block to `filters` channels at 1 / stride of its size.

    x: `(batch, height, width, channels)`, or `(batch, features)` with stride 1.
    option (Sec. 3.3, 4.1): "A" takes every stride-th pixel and pads channels with zeros, half on
    each side; "B" projects (1x1 convolution or dense layer, and batch norm) where the shape
    changes; "C" always projects. An unchanged shape is x itself in A and B.
    use_bias: a bias on the projection. Layers: `NAME_0_conv` (`NAME_0_dense`), `NAME_0_bn`;
    A: `NAME_0_pool`, `NAME_0_pad`.
    Raises ValueError for an unknown option, and for A with fewer channels than before.
    """
    if option not in SHORTCUTS:
        raise ValueError(f"shortcut={option!r} is not one of {', '.join(map(repr, SHORTCUTS))}.")
    channels = x.shape[-1]
    if option != "C" and stride == 1 and channels == filters:
        return x
    if option == "A":
        return _pad_channels(_subsample(x, stride, name=name), filters, name=name)
    if len(x.shape) == 2:
        x = dense(x, filters, use_bias=use_bias, initializer=initializer, name=f"{name}_0_dense")
        return batch_norm(x, name=f"{name}_0_bn")
    return conv_bn(
        x,
        filters,
        1,
        stride,
        activation=None,
        use_bias=use_bias,
        initializer=initializer,
        name=f"{name}_0",
    )


_shortcut = shortcut  # under a name that residual's argument does not hide


def residual(
    x: Tensor,
    branch: Callable[[Tensor], Tensor],
    *,
    shortcut: str = "B",
    stride: int | None = None,
    activation: str | None = "relu",
    projection_bias: bool = False,
    initializer: str = "he_normal",
    name: str,
) -> Tensor:
    """Return activation(F(x) + shortcut(x)) for any branch F (Eq. 1 and 2).

    branch: maps x to a tensor of the same rank, through any number of layers, convolutional
    (rank 4) or dense (rank 2). The shortcut follows its shapes. stride: of the whole branch;
    None infers it from the image sides. Layers: `NAME_0_*`, `NAME_add`, `NAME_out`.
    Raises ValueError if the rank changes, no stride explains the sides, or they are unknown.
    """
    y = branch(x)
    if len(x.shape) != len(y.shape) or len(x.shape) not in (2, 4):
        raise ValueError(
            f"The branch of {name} takes shape {x.shape} to {y.shape}: both must have rank 4 "
            "(images) or rank 2 (features)."
        )
    if stride is None:
        stride = _infer_stride(x.shape[1:-1], y.shape[1:-1], name)
    path = _shortcut(
        x,
        y.shape[-1],
        stride,
        option=shortcut,
        use_bias=projection_bias,
        initializer=initializer,
        name=name,
    )
    y = keras.layers.Add(name=f"{name}_add")([path, y])
    if activation is None:
        return y
    return keras.layers.Activation(activation, name=f"{name}_out")(y)


def residual_block(
    x: Tensor,
    channels: Sequence[int],
    kernel_size: int | Sequence[int] = 3,
    *,
    stride: int = 1,
    stride_on: int = 0,
    shortcut: str = "B",
    projection_bias: bool = False,
    initializer: str = "he_normal",
    name: str,
) -> Tensor:
    """Add a branch of len(channels) convolutions to its input; ReLU between them and at the end.

    kernel_size: one for all, or one for each. stride: of the convolution with index `stride_on`.
    Layers: `NAME_1_conv`, `NAME_1_bn`, `NAME_1_relu`, `NAME_2_conv`, ...
    Raises ValueError if the list of kernel sizes has another length.
    """
    depth = len(channels)
    kernels = [kernel_size] * depth if isinstance(kernel_size, int) else list(kernel_size)
    if not depth or len(kernels) != depth:
        raise ValueError(f"{name} has {depth} channel numbers and {len(kernels)} kernel sizes.")

    def branch(y: Tensor) -> Tensor:
        for i, (filters, kernel) in enumerate(zip(channels, kernels, strict=True)):
            y = conv_bn(
                y,
                filters,
                kernel,
                stride if i == stride_on else 1,
                activation=None if i == depth - 1 else "relu",
                initializer=initializer,
                name=f"{name}_{i + 1}",
            )
        return y

    return residual(
        x,
        branch,
        shortcut=shortcut,
        stride=stride,
        projection_bias=projection_bias,
        initializer=initializer,
        name=name,
    )


def basic_block(x: Tensor, filters: int, stride: int = 1, *, name: str, **options: Any) -> Tensor:
    """Apply two 3x3 convolutions and a shortcut (Fig. 5, left); options: see residual_block."""
    return residual_block(x, (filters, filters), 3, stride=stride, name=name, **options)


def bottleneck_block(
    x: Tensor,
    filters: int,
    stride: int = 1,
    *,
    stride_on: str = "1x1",
    name: str,
    **options: Any,
) -> Tensor:
    """Apply 1x1, 3x3, 1x1 convolutions and a shortcut (Fig. 5, right), out with 4 * filters.

    stride_on: "1x1" is the paper's (the first convolution), "3x3" the later custom. options: see
    residual_block.
    """
    if stride_on not in STRIDES_ON:
        raise ValueError(f"stride_on={stride_on!r} is not one of '1x1', '3x3'.")
    return residual_block(
        x,
        (filters, filters, EXPANSION * filters),
        (1, 3, 1),
        stride=stride,
        stride_on=STRIDES_ON.index(stride_on),
        name=name,
        **options,
    )


def plain_block(
    x: Tensor, filters: int, stride: int = 1, *, initializer: str = "he_normal", name: str
) -> Tensor:
    """Apply two 3x3 convolutions without a shortcut (Fig. 3, middle); last layer `NAME_out`."""
    x = conv_bn(x, filters, 3, stride, initializer=initializer, name=f"{name}_1")
    x = conv_bn(x, filters, 3, activation=None, initializer=initializer, name=f"{name}_2")
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _subsample(x: Tensor, stride: int, *, name: str) -> Tensor:
    """Take every stride-th pixel."""
    return x if stride == 1 else average_pooling(x, 1, stride, name=f"{name}_0_pool")


def _pad_channels(x: Tensor, filters: int, *, name: str) -> Tensor:
    """Pad with zero channels, half before and half after."""
    missing = filters - x.shape[-1]
    if missing < 0:
        raise ValueError(
            f"Option A pads channels, it cannot take {x.shape[-1]} to {filters} in {name}: "
            "use shortcut B or C."
        )
    if missing == 0:
        return x
    features = len(x.shape) == 2
    if features:
        x = keras.layers.Reshape((1, 1, x.shape[-1]), name=f"{name}_0_reshape")(x)
    # Told that channels come first, the layer pads the last two axes: here width and channels.
    zeros = ((0, 0), (missing // 2, missing - missing // 2))
    x = keras.layers.ZeroPadding2D(zeros, data_format="channels_first", name=f"{name}_0_pad")(x)
    return keras.layers.Flatten(name=f"{name}_0_flatten")(x) if features else x


def _infer_stride(before: tuple, after: tuple, name: str) -> int:
    """Return the stride that takes the sides `before` to `after`, rounded up."""
    if None in (*before, *after):
        raise ValueError(
            f"The image sides {before} -> {after} around {name} are not known: give stride=."
        )
    stride = max((-(-b // a) for b, a in zip(before, after, strict=True)), default=1)
    if any(-(-b // stride) != a for b, a in zip(before, after, strict=True)):
        raise ValueError(
            f"The branch of {name} takes sides {before} to {after}, which no stride does: pad its "
            "convolutions so that the output side is ceil(side / stride)."
        )
    return stride
