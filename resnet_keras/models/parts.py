"""The parts of a network: convolution, batch norm, pooling, dense layer, LRN.

Pure functions from KerasTensor to KerasTensor: channels last, `(batch, height, width, channels)`.
Layers are named after `name`, so names do not depend on what was built before.
"""

from __future__ import annotations

import keras

from resnet_keras.models.initialization import initializers
from resnet_keras.models.layers import FusedBatchNormalization

MOMENTUM = 0.9  # share of the old moving average, as PyTorch's; the paper states none
EPSILON = 1e-5  # Caffe's and PyTorch's; Keras has 1e-3, the paper states none


def convolution(
    x,
    filters: int,
    kernel_size: int,
    stride: int = 1,
    *,
    use_bias: bool = True,
    activation: str | None = None,
    initializer: str = "he_normal",
    name: str,
):
    """Convolve with square kernels; output side ceil(input side / stride).

    A strided convolution is padded symmetrically and explicitly: TensorFlow's `same` puts more
    zeros after than before, the paper's framework does not.
    """
    strided = stride > 1 and kernel_size > 1
    if strided:
        padding = ((kernel_size - 1) // 2, kernel_size // 2)
        layer_name = f"{name.removesuffix('_conv')}_pad"
        x = keras.layers.ZeroPadding2D((padding, padding), name=layer_name)(x)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="valid" if strided else "same",
        use_bias=use_bias,
        activation=activation,
        **initializers(initializer, kernel_size**2 * x.shape[-1]),
        name=name,
    )(x)


def batch_norm(x, *, name: str):
    """Normalise each channel over the batch, through the fused kernel."""
    return FusedBatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, name=name)(x)


def conv_bn(
    x,
    filters: int,
    kernel_size: int,
    stride: int = 1,
    *,
    activation: str | None = "relu",
    use_bias: bool = False,
    initializer: str = "he_normal",
    name: str,
):
    """Convolve, normalise, activate (Sec. 3.4: batch norm after each convolution, before ReLU).

    Layers: `NAME_pad` (strided ones), `NAME_conv`, `NAME_bn`, `NAME_relu`. No bias by default:
    batch norm's offset takes its place. activation: None leaves the last layer out.
    """
    x = convolution(
        x,
        filters,
        kernel_size,
        stride,
        use_bias=use_bias,
        initializer=initializer,
        name=f"{name}_conv",
    )
    x = batch_norm(x, name=f"{name}_bn")
    if activation is None:
        return x
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x)


def dense(
    x,
    units: int,
    *,
    activation: str | None = None,
    use_bias: bool = True,
    initializer: str = "he_normal",
    name: str = "predictions",
    dtype: str | None = None,
):
    """Multiply by a matrix and add a bias: `(batch, features)` to `(batch, units)`.

    dtype: None is the policy in force; "float32" keeps a classifier exact in a mixed model.
    """
    return keras.layers.Dense(
        units,
        activation=activation,
        use_bias=use_bias,
        **initializers(initializer, x.shape[-1]),
        name=name,
        dtype=dtype,
    )(x)


def max_pooling(
    x, pool_size: int = 2, stride: int | None = None, *, padding: str = "valid", name: str
):
    """Take the maximum of square windows; the stride is the window's side unless given.

    padding: "valid" drops an incomplete window. "ceil" keeps it (Caffe's rounding: output side
    ceil((side - pool_size) / stride) + 1). "symmetric" pads (pool_size - 1) // 2 on every side
    (torchvision, Keras Applications). "same" is TensorFlow's. "ceil" and "symmetric" pad with
    zeros, which is right after a ReLU only. Their layer: `NAME_pad`, without a final `_pool`.
    Raises ValueError for another padding.
    """
    stride = pool_size if stride is None else stride
    before_after = {
        "valid": None,
        "same": None,
        "ceil": (0, stride - 1),
        "symmetric": ((pool_size - 1) // 2,) * 2,
    }
    if padding not in before_after:
        raise ValueError(f"padding={padding!r} is not one of {', '.join(map(repr, before_after))}.")
    if zeros := before_after[padding]:
        layer_name = f"{name.removesuffix('_pool')}_pad"
        x = keras.layers.ZeroPadding2D((zeros, zeros), name=layer_name)(x)
        padding = "valid"
    return keras.layers.MaxPooling2D(pool_size, stride, padding=padding, name=name)(x)


def average_pooling(
    x, pool_size: int = 2, stride: int | None = None, *, padding: str = "valid", name: str
):
    """Average square windows; "same" padding keeps incomplete ones and averages what is there."""
    return keras.layers.AveragePooling2D(pool_size, stride, padding=padding, name=name)(x)


def global_pooling(x, pooling: str | None):
    """Reduce to `(batch, channels)` by "avg" or "max"; None returns x as it is."""
    if pooling == "avg":
        return keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if pooling == "max":
        return keras.layers.GlobalMaxPooling2D(name="max_pool")(x)
    return x


def local_response_normalization(x, *, name: str):
    """Divide by (2 + 1e-4 * sum of squares over 5 neighbouring channels) ** 0.75.

    Krizhevsky et al. 2012, Sec. 3.3. The sum takes the neighbours that exist and is not divided
    by their number. A nested model, because ops cannot be named; float32 inside, where squares
    do not overflow.
    """
    neighbours, k, alpha, beta = 5, 2.0, 1e-4, 0.75
    inputs = keras.Input((None, None, x.shape[-1]), dtype=x.dtype, name="features")
    wide = keras.ops.cast(inputs, "float32")
    reach = neighbours // 2
    squares = keras.ops.pad(keras.ops.square(wide), [[0, 0]] * 3 + [[reach, reach]])
    channels = x.shape[-1]
    total = squares[..., :channels]
    for i in range(1, neighbours):
        total = total + squares[..., i : i + channels]
    outputs = keras.ops.cast(wide / (k + alpha * total) ** beta, x.dtype)
    return keras.Model(inputs, outputs, name=name)(x)
