"""Parameters and multiply-adds of a network, by arithmetic from its row.

Standard library only: nothing is built, so the answer takes no time and needs no memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from resnet_keras.models.architectures import ResNetSpec, VGGSpec, architecture


@dataclass(frozen=True)
class Row:
    """Hold the counts of one stage, a row of Table 1; rows add up with `+`.

    output_size: (height, width). blocks: residual blocks, or convolutions of a VGG group.
    layers: weighted layers as the paper counts them, without projections. parameters: trainable.
    batchnorm_statistics: moving means and variances. multiply_adds: of convolutions and dense
    layers, for one image.
    """

    stage: str
    output_size: tuple[int, int]
    blocks: int = 0
    layers: int = 0
    parameters: int = 0
    batchnorm_statistics: int = 0
    multiply_adds: int = 0

    def __add__(self, other: Row) -> Row:
        """Return the sums, under this row's stage and the other's output size."""
        return Row(
            self.stage,
            other.output_size,
            self.blocks + other.blocks,
            self.layers + other.layers,
            self.parameters + other.parameters,
            self.batchnorm_statistics + other.batchnorm_statistics,
            self.multiply_adds + other.multiply_adds,
        )


def stages(
    name: str,
    *,
    classes: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    input_channels: int = 3,
    shortcut: str | None = None,
    stride_on: str | None = None,
    stem_pool: str | None = None,
) -> list[Row]:
    """Return the rows of a network: ResNets `conv1`..`conv5`, `head`; VGG `block1`.., `head`.

    input_size: pixels, one side of a square or (height, width); None: the paper's. Other options
    as build_model's. A stage's pooling belongs to it: `conv2` in ResNets opens with one, a VGG
    group ends with one.
    Raises ValueError as build_model does.
    """
    spec = architecture(
        name, classes=classes, shortcut=shortcut, stride_on=stride_on, stem_pool=stem_pool
    )
    size = spec.image_size if input_size is None else input_size
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < spec.min_size:
        raise ValueError(
            f"input_size={input_size!r}: {name} needs sides of at least {spec.min_size} pixels."
        )
    if input_channels < 1:
        raise ValueError(f"input_channels={input_channels!r}: give at least 1.")
    if isinstance(spec, ResNetSpec):
        return _resnet(spec, (height, width), input_channels)
    return _vgg(spec, (height, width), input_channels)


def total(rows: Iterable[Row]) -> Row:
    """Return the sum of rows, as a Row named `total`."""
    result = Row("total", (0, 0))
    for row in rows:
        result += row
    return result


def _resnet(spec: ResNetSpec, size: tuple[int, int], channels: int) -> list[Row]:
    size = _shrink(size, spec.stem_stride)
    rows = [_conv("conv1", size, channels, spec.filters[0], spec.stem_kernel, batch_norm=True)]
    channels = spec.filters[0]
    if spec.stem_pool == "ceil":  # 3x3 windows, stride 2: ceil((side - 3) / 2) + 1
        size = (size[0] // 2, size[1] // 2)
    elif spec.stem_pool == "symmetric":
        size = _shrink(size, 2)
    for stage, (filters, blocks) in enumerate(zip(spec.filters, spec.blocks, strict=True), start=2):
        row = Row(f"conv{stage}", size)
        for i in range(blocks):
            stride = 2 if i == 0 and stage > 2 else 1
            row += _block(spec, size, channels, filters, stride)
            size, channels = row.output_size, filters * spec.expansion
        rows.append(row)
    return [*rows, _dense("head", channels, spec.classes)]


def _block(
    spec: ResNetSpec, size: tuple[int, int], channels: int, filters: int, stride: int
) -> Row:
    small, out = _shrink(size, stride), filters * spec.expansion
    if spec.block == "bottleneck":
        middle = small if spec.stride_on == "1x1" else size
        convolutions = [
            _conv("", middle, channels, filters, 1, batch_norm=True),
            _conv("", small, filters, filters, 3, batch_norm=True),
            _conv("", small, filters, out, 1, batch_norm=True),
        ]
    else:
        convolutions = [
            _conv("", small, channels, filters, 3, batch_norm=True),
            _conv("", small, filters, filters, 3, batch_norm=True),
        ]
    row = Row("", small, blocks=1)
    for convolution in convolutions:
        row += convolution
    changes = stride > 1 or channels != out
    if spec.shortcut == "C" or (spec.shortcut == "B" and changes):
        row += _conv(
            "", small, channels, out, 1, batch_norm=True, bias=spec.projection_bias, layers=0
        )
    return row


def _vgg(spec: VGGSpec, size: tuple[int, int], channels: int) -> list[Row]:
    rows = []
    for group, (filters, kernels) in enumerate(zip(spec.filters, spec.kernels, strict=True), 1):
        row = Row(f"block{group}", size, blocks=len(kernels))
        for kernel in kernels:
            row += _conv("", size, channels, filters, kernel, spec.batch_norm, bias=True)
            channels = filters
        size = (size[0] // 2, size[1] // 2)
        rows.append(row + Row("", size))
    head = _dense("head", channels * size[0] * size[1], spec.units)
    head += _dense("", spec.units, spec.units)
    return [*rows, head + _dense("", spec.units, spec.classes)]


def _shrink(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def _conv(
    stage: str,
    size: tuple[int, int],
    channels: int,
    filters: int,
    kernel: int,
    batch_norm: bool,
    bias: bool = False,
    layers: int = 1,
) -> Row:
    """Count a convolution with output `size`, and its batch norm."""
    weights = kernel * kernel * channels * filters
    return Row(
        stage,
        size,
        layers=layers,
        parameters=weights + filters * bias + 2 * filters * batch_norm,
        batchnorm_statistics=2 * filters * batch_norm,
        multiply_adds=weights * size[0] * size[1],
    )


def _dense(stage: str, features: int, units: int) -> Row:
    """Count a dense layer with bias."""
    weights = features * units
    return Row(stage, (1, 1), layers=1, parameters=weights + units, multiply_adds=weights)
