"""Which network a file's weights are of."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.models.architectures import ARCHITECTURES, ResNetSpec, Spec, architecture
from resnet_keras.models.weight_files import WeightFile
from resnet_keras.models.weight_names import Names

_OPTIONS = ("stride_on", "stem_pool", "shortcut")


def check_network(
    names: Names,
    content: WeightFile,
    spec: Spec,
    variables: Collection[str],
    file: Path,
) -> None:
    """Refuse a file of another network or other options, though its weights might fit.

    variables: names of the model's. Raises InputError, naming the flags to give.
    """
    family = "ResNet" if isinstance(spec, ResNetSpec) else "VGG"
    implied: dict[str, str | None] = dict(names.format.options)
    give = None
    if names.format.family != family:
        give = guess(names, content, spec) or f"the {names.format.family} that they are of"
    elif content.flags is not None:
        theirs = _spec_of_run(content.flags, file)
        give = None if theirs.name == spec.name else theirs.name
        implied |= {option: getattr(theirs, option, None) for option in _OPTIONS}
    elif isinstance(spec, ResNetSpec):
        if _has_layer(names, content, "_add") is (spec.shortcut is None):
            swap = ("plain", "resnet") if spec.shortcut is None else ("resnet", "plain")
            give = spec.name.replace(*swap)
        implied |= _options_of_layers(content.layers)
        implied["shortcut"] = _shortcut(names, variables)
    elif _has_layer(names, content, "_lrn") is (not spec.lrn):
        give = "vgg_a" if spec.lrn else "vgg_a_lrn"
    if give:
        raise InputError(
            f"{file} ({names.format.title}) is for another network than {spec.name}: give "
            f"--model={give}."
        )
    wrong = {
        option: value
        for option, value in implied.items()
        if value is not None and getattr(spec, option, None) not in (None, value)
    }
    # Of another depth, it is told as such.
    if wrong and guess(names, content, spec) in (None, spec.name):
        has = " ".join(f"--{option}={getattr(spec, option)}" for option in wrong)
        needs = " ".join(f"--{option}={value}" for option, value in wrong.items())
        raise InputError(
            f"{file} ({names.format.title}) is for another network than {spec.name} with {has}: "
            f"give {needs}."
        )


def _spec_of_run(flags: Mapping[str, Any], file: Path) -> Spec:
    try:
        options = {option: flags.get(option) or None for option in _OPTIONS}
        return architecture(flags["model"], **options)
    except (KeyError, ValueError):
        raise InputError(
            f"{file} lies by a config.json that names no network of this version: give a "
            "checkpoint of a run."
        ) from None


def _has_layer(names: Names, content: WeightFile, end: str) -> bool | None:
    """Return whether the file's network has a layer with that end, which has no weights."""
    if not names.format.ours:
        return end == "_add"
    return any(layer.endswith(end) for layer in content.layers) if content.layers else None


def _options_of_layers(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Read where the stride sits and how the stem pools, where Keras's configuration is there."""
    found = {}
    if strides := layers.get("conv3_block1_1_conv", {}).get("strides"):
        found["stride_on"] = "1x1" if max(strides) == 2 else "3x3"
    if padding := layers.get("pool1_pad", {}).get("padding"):
        found["stem_pool"] = "symmetric" if padding[0][0] else "ceil"
    return found


def _shortcut(names: Names, variables: Collection[str]) -> str | None:
    """Return the file's option of shortcuts, None where it projects where the model does."""

    def blocks(of: Collection[str], end: str) -> set[str]:
        return {name.removesuffix(end) for name in of if name.endswith(end)}

    projected = blocks(names.known, "_0_conv/kernel")
    if projected == blocks(variables, "_0_conv/kernel"):
        return None
    if not projected:
        return "A"
    return "C" if projected == blocks(names.known, "_1_conv/kernel") else "B"


def guess(names: Names, content: WeightFile, spec: Spec) -> str | None:
    """Return a network with these convolutions: spec's name where it has them, or a row's."""
    kernel = -1 if names.format.transposed else 0
    sides = {
        name: content.arrays[whole].shape[kernel]
        for name, whole in names.known.items()
        if re.fullmatch(r"conv\d_block\d+_[1-9]_conv/kernel|block\d_conv\d/kernel", name)
        and content.arrays[whole].ndim == 4
    }
    rows = (spec, *ARCHITECTURES.values())
    return next((row.name for row in rows if _kernel_sizes(row) == sides), None)


def _kernel_sizes(spec: Spec) -> dict[str, int]:
    """Return the sides of a network's kernels, without its stem and projections."""
    if isinstance(spec, ResNetSpec):
        sizes = (1, 3, 1) if spec.block == "bottleneck" else (3, 3)
        return {
            f"conv{stage}_block{block}_{i}_conv/kernel": size
            for stage, blocks in enumerate(spec.blocks, start=2)
            for block in range(1, blocks + 1)
            for i, size in enumerate(sizes, start=1)
        }
    return {
        f"block{group}_conv{i}/kernel": size
        for group, sizes in enumerate(spec.kernels, start=1)
        for i, size in enumerate(sizes, start=1)
    }
