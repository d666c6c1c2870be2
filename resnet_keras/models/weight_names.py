"""Who calls which weight what: the tables of foreign names, and what a format implies.

Our name of a weight is `LAYER/PART`, e.g. `conv2_block1_1_conv/kernel`: its variable's path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resnet_keras.errors import InputError
from resnet_keras.models.architectures import architecture
from resnet_keras.models.weight_files import WeightFile

FACTOR = "scale_factor"  # by which Caffe's mean and variance are to be divided
_TORCHVISION = "--channel_mean=0.485,0.456,0.406 --channel_std=0.229,0.224,0.225"
_CAFFE = "--channel_mean=0.485020,0.457957,0.407604 without --channel_std"  # 123.68, 116.779, ...

# A file's layers and their parts -> the layer of ours and the kind of each, where it is known.
Layers = Callable[[Mapping[str, set[str]]], dict[str, tuple[str, str]]]


@dataclass(frozen=True)
class Format:
    """Describe one way of writing weights.

    family: "ResNet" or "VGG". sign: pattern of a name that shows it. name: pattern of a name's
    `layer` and `part`. parts: part -> ours, by kind of layer; None for one that no answer depends
    on. transposed: kernels are `(out, in, height, width)` and `(out, in)`, and features of an
    image are flattened channels first. bgr: the network's input is blue, green, red. epsilon: of
    its batch norm. options: those of a network that the format implies. pixels: the flags that
    make the pixels it expects. ours: written by this project's models.
    """

    title: str
    family: str
    sign: str
    name: str
    layers: Layers
    parts: Mapping[str, Mapping[str, str | None]]
    transposed: bool = False
    bgr: bool = False
    epsilon: float = 1e-5
    options: Mapping[str, str] = field(default_factory=dict)
    pixels: str = ""
    ours: bool = False


def _by_rules(
    rules: tuple[tuple[str, str, str], ...], count: Callable[[str, str], object]
) -> Layers:
    """Return the Layers of a table: pattern, template of our name, kind; count(group, text)."""

    def layers(names: Mapping[str, set[str]]) -> dict[str, tuple[str, str]]:
        found = {}
        for name in names:
            for pattern, ours, kind in rules:
                if match := re.fullmatch(pattern, name):
                    groups = {key: count(key, text) for key, text in match.groupdict().items()}
                    found[name] = ours.format(**groups), kind
        return found

    return layers


def _count_from_zero(group: str, text: str) -> object:
    return text if group == "conv" else int(text) + 1  # torchvision's layer1.0 is conv2_block1


def _count_letters(group: str, text: str) -> object:
    """Read a, b, c as 1, 2, 3; deep networks have a, b1, b2 instead."""
    if group == "stage":
        return text
    return int(text[1:]) + 1 if text[1:] else ord(text) - ord("a") + 1


def _torchvision_vgg(names: Mapping[str, set[str]]) -> dict[str, tuple[str, str]]:
    """Return the layers of a torchvision VGG, whose numbers count ReLUs and poolings, too."""
    numbered = sorted(
        (int(name.removeprefix("features.")), name)
        for name in names
        if re.fullmatch(r"features\.\d+", name)
    )
    step = 3 if any("running_mean" in names[name] for _, name in numbered) else 2
    found, group, i, before = {}, 1, 0, -step
    for number, name in numbered:
        if "running_mean" in names[name]:
            found[name] = f"block{group}_conv{i}_bn", "norm"
            continue
        # A pooling in between takes one number more.
        group, i = (group + 1, 1) if number - before > step else (group, i + 1)
        found[name], before = (f"block{group}_conv{i}", "weights"), number
    dense = sorted(
        (name for name in names if re.fullmatch(r"classifier\.\d", name)), key=lambda n: n[-1]
    )
    if len(dense) == 3:
        ours = ("fc1", "fc2", "predictions")
        found |= {name: (layer, "weights") for name, layer in zip(dense, ours, strict=True)}
    return found


def _same(names: Mapping[str, set[str]]) -> dict[str, tuple[str, str]]:
    return {name: (name, "any") for name in names}


_OURS = "conv{stage}_block{block}"
_TORCH_BLOCK = r"layer(?P<stage>\d)\.(?P<block>\d+)\."
_TORCH_RESNET = _by_rules(
    (
        (r"conv1", "conv1_conv", "weights"),
        (r"bn1", "conv1_bn", "norm"),
        (_TORCH_BLOCK + r"conv(?P<conv>\d)", _OURS + "_{conv}_conv", "weights"),
        (_TORCH_BLOCK + r"bn(?P<conv>\d)", _OURS + "_{conv}_bn", "norm"),
        (_TORCH_BLOCK + r"(?:downsample|shortcut)\.0", _OURS + "_0_conv", "weights"),
        (_TORCH_BLOCK + r"(?:downsample|shortcut)\.1", _OURS + "_0_bn", "norm"),
        (r"fc|linear", "predictions", "weights"),
    ),
    _count_from_zero,
)
_CAFFE_BLOCK = r"(?P<stage>\d)(?P<block>[a-z]\d*)_branch"
_CAFFE_RESNET = _by_rules(
    (
        (r"conv1", "conv1_conv", "weights"),
        (r"bn_conv1", "conv1_bn", "norm"),
        (r"scale_conv1", "conv1_bn", "scale"),
        (r"res" + _CAFFE_BLOCK + r"2(?P<conv>[a-c])", _OURS + "_{conv}_conv", "weights"),
        (r"bn" + _CAFFE_BLOCK + r"2(?P<conv>[a-c])", _OURS + "_{conv}_bn", "norm"),
        (r"scale" + _CAFFE_BLOCK + r"2(?P<conv>[a-c])", _OURS + "_{conv}_bn", "scale"),
        (r"res" + _CAFFE_BLOCK + r"1", _OURS + "_0_conv", "weights"),
        (r"bn" + _CAFFE_BLOCK + r"1", _OURS + "_0_bn", "norm"),
        (r"scale" + _CAFFE_BLOCK + r"1", _OURS + "_0_bn", "scale"),
        (r"fc\d+", "predictions", "weights"),
    ),
    _count_letters,
)
_CAFFE_VGG = _by_rules(
    (
        (r"conv(?P<group>\d)_(?P<conv>\d)", "block{group}_conv{conv}", "weights"),
        (r"fc6", "fc1", "weights"),
        (r"fc7", "fc2", "weights"),
        (r"fc8", "predictions", "weights"),
    ),
    lambda group, text: text,
)

_TORCH_PARTS: dict[str, dict[str, str | None]] = {
    "weights": {"weight": "kernel", "bias": "bias"},
    "norm": {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
        "num_batches_tracked": None,
    },
}
_CAFFE_PARTS = {
    "weights": {"0": "kernel", "1": "bias"},
    "norm": {"0": "moving_mean", "1": "moving_variance", "2": FACTOR},
    "scale": {"0": "gamma", "1": "beta"},
}
_KERAS_PARTS = {
    "any": {
        part: part for part in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    }
}
_TORCH_NAME = r"(?P<layer>.+)\.(?P<part>\w+)"
_CAFFE_NAME = r"(?P<layer>.+)[/_.:](?P<part>\d)"
_KERAS_NAME = r"(?P<layer>[^/]+)/(?P<part>\w+)"
_APPLICATIONS = "Keras Applications' weights"
_LATER_CUSTOM = {"stride_on": "3x3", "stem_pool": "symmetric"}

FORMATS = (
    Format("PyTorch names (torchvision, timm)", "ResNet", r"layer1\.0\.conv1\.weight", _TORCH_NAME,
           _TORCH_RESNET, _TORCH_PARTS, transposed=True, options=_LATER_CUSTOM,
           pixels=_TORCHVISION),
    Format("torchvision's VGG names", "VGG", r"features\.0\.weight", _TORCH_NAME,
           _torchvision_vgg, _TORCH_PARTS, transposed=True, pixels=_TORCHVISION),
    Format("Caffe names of the authors' release", "ResNet", r"res2a_branch2a[/_.:]0", _CAFFE_NAME,
           _CAFFE_RESNET, _CAFFE_PARTS, transposed=True, bgr=True,
           options={"stride_on": "1x1", "stem_pool": "ceil"}, pixels=_CAFFE),
    Format("Caffe names of the authors' release", "VGG", r"conv1_1[/_.:]0", _CAFFE_NAME,
           _CAFFE_VGG, _CAFFE_PARTS, transposed=True, bgr=True, pixels=_CAFFE),
    # Our own convolutions before a batch norm have no bias, but for projections of a lab net.
    Format(_APPLICATIONS, "ResNet", r"conv1_conv/bias", _KERAS_NAME,
           _same, _KERAS_PARTS, bgr=True, epsilon=1.001e-5,
           options={"stride_on": "1x1", "stem_pool": "symmetric"}, pixels=_CAFFE),
    Format("weights of resnet_keras", "ResNet", r"conv1_conv/kernel", _KERAS_NAME, _same,
           _KERAS_PARTS, ours=True),
    Format(_APPLICATIONS, "VGG", r"block1_conv1/kernel", _KERAS_NAME, _same,
           _KERAS_PARTS, bgr=True, pixels=_CAFFE),
    Format("weights of resnet_keras", "VGG", r"block1_conv1/kernel", _KERAS_NAME, _same,
           _KERAS_PARTS, ours=True),
)  # fmt: skip
# What wrappers (DataParallel, torch.compile, Lightning) put before every name.
_WRAPPERS = ("module.", "model.", "net.", "_orig_mod.", "backbone.")


@dataclass(frozen=True)
class Names:
    """Hold a file's names: ours -> the file's, those that no rule knows, and the format."""

    format: Format
    known: dict[str, str]
    unknown: list[str]


def recognise(content: WeightFile, path: object) -> Names:
    """Find the format of a file by its names.

    Raises InputError where there is none, and where two of its names mean the same.
    """
    plain = _unwrapped(content.arrays)
    for candidate in FORMATS:
        if any(re.fullmatch(candidate.sign, name) for name in plain):
            if candidate.title == _APPLICATIONS and candidate.family == "VGG" and _is_ours(content):
                continue
            return _resolve(candidate, plain, path)
    some = ", ".join(sorted(content.arrays)[:5]) or "nothing"
    raise InputError(
        f"The weights in {path} are named {some}, which is no ResNet or VGG of torchvision, timm, "
        "Keras Applications, the authors' Caffe release (LAYER/0, LAYER/1 for its blobs) or ours."
    )


def _is_ours(content: WeightFile) -> bool:
    """Tell our VGG from Keras Applications', whose weights have the same names."""
    if not content.by_keras or "fc1_dropout" in content.layers:
        return True
    try:
        return content.network is not None and bool(architecture(content.network))
    except ValueError:
        return False


def _unwrapped(names: Mapping[str, object]) -> dict[str, str]:
    """Return the file's names by what they are without wrappers' prefixes."""
    plain = {name: name for name in names}
    while plain:
        prefix = next((w for w in _WRAPPERS if all(n.startswith(w) for n in plain)), None)
        if prefix is None:
            break
        plain = {name.removeprefix(prefix): whole for name, whole in plain.items()}
    return plain


def _resolve(found: Format, plain: Mapping[str, str], path: object) -> Names:
    split: dict[str, tuple[str, str]] = {}
    parts: dict[str, set[str]] = {}
    for name in plain:
        if match := re.fullmatch(found.name, name):
            split[name] = match["layer"], match["part"]
            parts.setdefault(match["layer"], set()).add(match["part"])
    layers = found.layers(parts)
    known: dict[str, str] = {}
    unknown: list[str] = []
    for name, whole in plain.items():
        layer, part = split.get(name, ("", ""))
        ours, kind = layers.get(layer, ("", ""))
        if part not in found.parts.get(kind, {}):
            unknown.append(whole)
            continue
        our_part = found.parts[kind][part]
        if our_part is None:
            continue
        if (key := f"{ours}/{our_part}") in known:
            raise InputError(
                f"{path} has two weights for {key}, {known[key]} and {whole}: leave one out."
            )
        known[key] = whole
    return Names(found, known, unknown)
