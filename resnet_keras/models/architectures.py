"""The tables: one frozen row per network.

ResNets and plain nets: He et al. 2015, arXiv:1512.03385. VGG: Simonyan & Zisserman 2014,
arXiv:1409.1556. Standard library only, so that names and flags are checked before TensorFlow
is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import numbers
import re
from dataclasses import dataclass

SHORTCUTS = ("A", "B", "C")  # Sec. 4.1: zero padding, projection where shapes change, always
STRIDES_ON = ("1x1", "3x3")
STEM_POOLS = ("ceil", "symmetric")
INITIALIZERS = ("he_normal", "glorot_uniform", "vgg_paper", "pytorch")
EXPANSION = 4  # Fig. 5, right: a bottleneck leaves with four times its width


@dataclass(frozen=True)
class ResNetSpec:
    """Describe a residual or plain network; defaults are those of Table 1's networks."""

    name: str
    block: str  # "basic", "bottleneck" or "plain"
    blocks: tuple[int, ...]  # a number per stage
    filters: tuple[int, ...] = (64, 128, 256, 512)  # width of a stage; the stem has the first
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: str | None = "ceil"  # 3x3, stride 2, output size rounded up; None: no pooling
    shortcut: str | None = "B"  # None: a plain net
    stride_on: str | None = None  # a bottleneck's strided convolution
    projection_bias: bool = False
    initializer: str = "he_normal"  # Sec. 3.4, [13]
    classes: int = 1000
    image_size: int = 224

    @property
    def expansion(self) -> int:
        """Return a block's output channels divided by its width."""
        return EXPANSION if self.block == "bottleneck" else 1

    @property
    def min_size(self) -> int:
        """Return the smallest image side that leaves every layer a non-empty output."""
        return 3 if self.stem_pool == "ceil" else 1


@dataclass(frozen=True)
class VGGSpec:
    """Describe a VGG network: the kernel sizes of each group of convolutions."""

    name: str
    kernels: tuple[tuple[int, ...], ...]
    filters: tuple[int, ...] = (64, 128, 256, 512, 512)  # Table 1
    units: int = 4096  # of the two hidden dense layers
    lrn: bool = False  # local response normalisation after the first group
    batch_norm: bool = False
    dropout: float = 0.5  # Sec. 3.1; 0: no such layers
    initializer: str = "glorot_uniform"  # Sec. 3.1: works without pre-training A
    classes: int = 1000
    image_size: int = 224

    @property
    def min_size(self) -> int:
        """Return the smallest image side that leaves every layer a non-empty output."""
        return 2 ** len(self.kernels)


Spec = ResNetSpec | VGGSpec


def _cifar(name: str, depth: int) -> ResNetSpec:
    """Return the row of a CIFAR-10 network of 6n + 2 layers (Sec. 4.2)."""
    return ResNetSpec(
        name,
        block="plain" if "plain" in name else "basic",
        blocks=((depth - 2) // 6,) * 3,
        filters=(16, 32, 64),
        stem_kernel=3,
        stem_stride=1,
        stem_pool=None,
        shortcut=None if "plain" in name else "A",
        classes=10,
        image_size=32,
    )


_ROWS: tuple[Spec, ...] = (
    # Table 1
    ResNetSpec("resnet18", "basic", (2, 2, 2, 2)),
    ResNetSpec("resnet34", "basic", (3, 4, 6, 3)),
    ResNetSpec("resnet50", "bottleneck", (3, 4, 6, 3), stride_on="1x1"),
    ResNetSpec("resnet101", "bottleneck", (3, 4, 23, 3), stride_on="1x1"),
    ResNetSpec("resnet152", "bottleneck", (3, 8, 36, 3), stride_on="1x1"),
    # Fig. 3, middle
    ResNetSpec("plain18", "plain", (2, 2, 2, 2), shortcut=None),
    ResNetSpec("plain34", "plain", (3, 4, 6, 3), shortcut=None),
    # Table 6; plain nets: Fig. 6
    *(_cifar(f"cifar_resnet{depth}", depth) for depth in (20, 32, 44, 56, 110, 1202)),
    *(_cifar(f"cifar_plain{depth}", depth) for depth in (20, 32, 44, 56, 110, 1202)),
    # VGG paper, Table 1
    VGGSpec("vgg_a", ((3,), (3,), (3, 3), (3, 3), (3, 3))),
    VGGSpec("vgg_a_lrn", ((3,), (3,), (3, 3), (3, 3), (3, 3)), lrn=True),
    VGGSpec("vgg_b", ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3))),
    VGGSpec("vgg_c", ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))),
    VGGSpec("vgg_d", ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))),
    VGGSpec("vgg_e", ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3))),
    # VGG paper, Sec. 4.1: B with each pair of 3x3 replaced by one 5x5
    VGGSpec("vgg_b_5x5", ((5,), (5,), (5,), (5,), (5,))),
    # Networks for three classes of CIFAR-10 with PyTorch's habits (README, lab report)
    VGGSpec(
        "lab_vgg16",
        ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        batch_norm=True,
        dropout=0.0,
        initializer="pytorch",
        classes=3,
        image_size=32,
    ),
    ResNetSpec(
        "lab_resnet50",
        "bottleneck",
        (3, 4, 6, 3),
        stem_kernel=3,
        stem_stride=1,
        stem_pool=None,
        stride_on="1x1",
        projection_bias=True,
        initializer="pytorch",
        classes=3,
        image_size=32,
    ),
)

ARCHITECTURES: dict[str, Spec] = {row.name: row for row in _ROWS}


def architecture(
    name: str,
    *,
    classes: int | None = None,
    shortcut: str | None = None,
    stride_on: str | None = None,
    stem_pool: str | None = None,
    initializer: str | None = None,
) -> Spec:
    """Return the row of a network, changed by the options that are not None.

    name: a key of ARCHITECTURES, or cifar_resnetD / cifar_plainD for any D = 6n + 2, n >= 1.
    classes: at least 1. shortcut: "A", "B" or "C" (residual nets). stride_on: "1x1" or "3x3"
    (bottleneck nets). stem_pool: "ceil" or "symmetric" (nets whose stem pools). initializer:
    one of INITIALIZERS.
    Raises ValueError for an unknown name or value, or an option the network does not have.
    """
    spec = ARCHITECTURES.get(str(name)) or _cifar_of_any_depth(str(name))
    if classes is not None and not (is_whole(classes) and classes >= 1):
        raise ValueError(f"classes={classes!r}: give a whole number of at least 1.")
    if shortcut is not None:
        applies = getattr(spec, "shortcut", None) is not None
        _check_option(name, "shortcut", shortcut, SHORTCUTS, applies, "residual networks")
    if stride_on is not None:
        applies = getattr(spec, "block", None) == "bottleneck"
        _check_option(name, "stride_on", stride_on, STRIDES_ON, applies, "bottleneck networks")
    if stem_pool is not None:
        applies = getattr(spec, "stem_pool", None) is not None
        _check_option(name, "stem_pool", stem_pool, STEM_POOLS, applies, "nets whose stem pools")
    if initializer is not None:
        _check_option(name, "initializer", initializer, INITIALIZERS, True, "")
    options = {
        "classes": None if classes is None else int(classes),
        "shortcut": shortcut,
        "stride_on": stride_on,
        "stem_pool": stem_pool,
        "initializer": initializer,
    }
    changes = {key: value for key, value in options.items() if value is not None}
    return dataclasses.replace(spec, **changes)  # type: ignore[arg-type]


def feature_layers(name: str) -> dict[str, str]:
    """Return the names of the layers to tap for features, by level.

    ResNets: c2..c5, the last block of each stage, strides 4, 8, 16, 32 (CIFAR nets: c2..c4,
    strides 1, 2, 4; lab_resnet50: 1, 2, 4, 8). VGG: c2..c5, the last convolution of groups
    2..5 before its pooling, strides 2, 4, 8, 16.
    Raises ValueError for an unknown name.
    """
    spec = architecture(name)
    if isinstance(spec, ResNetSpec):
        return {f"c{i}": f"conv{i}_block{n}_out" for i, n in enumerate(spec.blocks, start=2)}
    end = "_relu" if spec.batch_norm else ""
    groups = list(enumerate(spec.kernels, start=1))[1:]
    return {f"c{i}": f"block{i}_conv{len(kernels)}{end}" for i, kernels in groups}


def is_whole(value: object) -> bool:
    """Return whether value is a whole number; NumPy's count, booleans do not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _cifar_of_any_depth(name: str) -> Spec:
    match = re.fullmatch(r"cifar_(?:resnet|plain)([1-9]\d*)", name)
    if match:
        depth = int(match[1])
        if depth >= 8 and depth % 6 == 2:
            return _cifar(name, depth)
        raise ValueError(
            f"Network {name!r} has no depth of the form 6n + 2: try 8, 14, 20, 26, ..."
        )
    near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0)
    raise ValueError(
        f"Unknown network {name!r}, the nearest name is {near[0]!r}; allowed are "
        f"{', '.join(ARCHITECTURES)}, and cifar_resnetD or cifar_plainD with D = 6n + 2."
    )


def _check_option(
    name: str, option: str, value: str, allowed: tuple[str, ...], applies: bool, owners: str
) -> None:
    if not applies:
        raise ValueError(
            f"{option}={value!r}: only {owners} have it, {name} does not; leave it out."
        )
    if value not in allowed:
        raise ValueError(f"{option}={value!r} is not one of {', '.join(map(repr, allowed))}.")
