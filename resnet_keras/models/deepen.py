"""Start a network from a trained one, as deep or shallower, by copies and identity layers.

He et al. 2015, Sec. 1, the solution by construction: a deeper net that copies a shallower one and
adds identities computes the same. Simonyan and Zisserman 2014, Sec. 3.1: A's layers in B to E.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from resnet_keras.errors import InputError
from resnet_keras.models.architectures import ResNetSpec, Spec, VGGSpec
from resnet_keras.models.layers import hold_statistics

# VGG paper, Sec. 3.1: the first four convolutions of A and its three dense layers. The widths
# leave them one place in a deeper net.
VGG_SOURCE = "vgg_a"
VGG_LAYERS = (
    *("block1_conv1", "block2_conv1", "block3_conv1", "block3_conv2"),
    *("fc1", "fc2", "predictions"),
)
# What two networks need not share; the last two show in the shapes of layers.
_FREE = ("name", "blocks", "kernels", "initializer", "classes", "image_size")


def deepen(
    shallow: keras.Model,
    shallow_spec: Spec,
    deep: keras.Model,
    deep_spec: Spec,
    batches: Iterable[Any] = (),
) -> tuple[list[str], list[str]]:
    """Give `deep` the weights of `shallow`; return the names of layers copied and added.

    Networks of the same layers: a copy. VGG nets: VGG_LAYERS, the rest as initialised. Residual and
    plain nets: a block keeps its place in its stage, those that `deep` has beyond are added behind,
    as identities, for the input of a block is a ReLU's output and not negative:

    - a residual block by scale and offset 0 of its last batch norm; option C's projection as
    - a convolution with a Dirac kernel, and a batch norm that undoes itself: its statistics are
      measured on the layer's input, its scale is their standard deviation, its offset their mean.
      So is every layer of a plain net. That is the identity in evaluation, whatever the statistics.
      Training normalises by those of the batch: measured likewise, it holds to their noise.

    shallow: trained. deep: freshly built, set in place. Both of build_model, with top.
    shallow_spec, deep_spec: their rows, with the options that they were built with.
    batches: network inputs `(batch, height, width, channels)` to measure on, as large as those
        of training; needed where convolutions are added as identities, else not read.
    The names are those of convolutions and dense layers; batch norms go with theirs.

    Raises InputError, with `deep` as before, where it is not a deeper network of the same kind,
    naming the options or the layer that differ.
    """
    _check_kind(shallow_spec, deep_spec)
    names = [layer.name for layer in shallow.layers if layer.weights]
    if isinstance(deep_spec, VGGSpec) and _layers(shallow_spec) != _layers(deep_spec):
        names = list(VGG_LAYERS)
    _check_layers(shallow, deep, names)
    for name in names:
        deep.get_layer(name).set_weights(shallow.get_layer(name).get_weights())
    added = [layer for layer in deep.layers if layer.weights and layer.name not in names]
    if isinstance(deep_spec, ResNetSpec) and added:
        last = "_3_bn" if deep_spec.block == "bottleneck" else "_2_bn"
        plain = deep_spec.block == "plain"
        _pass_on(
            shallow, [x for x in added if plain or "_0_" in x.name], _layers(shallow_spec), batches
        )
        for layer in added:
            if layer.name.endswith(last) and not plain:
                layer.gamma.assign(np.zeros(layer.gamma.shape))
                layer.beta.assign(np.zeros(layer.beta.shape))
    kernels = {layer.name for layer in deep.layers if hasattr(layer, "kernel")}
    return [x for x in names if x in kernels], [x.name for x in added if x.name in kernels]


def _layers(spec: Spec) -> tuple:
    """Return a row's blocks a stage, or its kernels a group."""
    return spec.blocks if isinstance(spec, ResNetSpec) else spec.kernels


def _check_kind(shallow: Spec, deep: Spec) -> None:
    """Refuse what the shapes of weights do not show."""
    old, new = dataclasses.asdict(shallow), dataclasses.asdict(deep)
    differing = [
        f"{option}={old[option]} (now {value})"
        for option, value in new.items()
        if option not in _FREE and option in old and old[option] != value
    ]
    if type(shallow) is not type(deep):
        differing = ["another architecture"]
    if differing:
        raise InputError(
            f"{deep.name} cannot start from {shallow.name}, which has {', '.join(differing)}: take "
            "a network of its kind, with its options."
        )
    vgg = isinstance(deep, VGGSpec)
    if vgg and _layers(shallow) != _layers(deep) and shallow.name != VGG_SOURCE:
        raise InputError(
            f"{deep.name} cannot start from {shallow.name}: take {VGG_SOURCE}, whose layers the "
            f"deeper VGG nets start from, or {deep.name}."
        )


def _check_layers(shallow: keras.Model, deep: keras.Model, names: list[str]) -> None:
    """Refuse a network that has not all these layers, in the same shapes."""
    there, here = (
        {x.name: [w.shape for w in x.weights] for x in m.layers} for m in (shallow, deep)
    )
    for name in names:
        if name not in here:
            raise InputError(
                f"{deep.name} cannot start from {shallow.name}, whose layer {name} it does not "
                "have: take a network with no more blocks in any stage."
            )
        if there[name] != here[name]:
            raise InputError(
                f"{deep.name} cannot start from {shallow.name}, whose layer {name} has weights of "
                f"shape {_listed(there[name])} (now {_listed(here[name])}): take a network with "
                "the same classes and image size."
            )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def _pass_on(
    shallow: keras.Model, layers: list[keras.Layer], blocks: tuple, batches: Iterable[Any]
) -> None:
    """Make convolutions and batch norms pass on what comes from the end of the shallow stage."""
    stages = sorted({layer.name.partition("_block")[0] for layer in layers})
    if not stages:
        return
    last = {f"conv{stage}": count for stage, count in enumerate(blocks, start=2)}
    ends = [shallow.get_layer(f"{stage}_block{last[stage]}_out").output for stage in stages]
    moments = dict(zip(stages, _moments(keras.Model(shallow.input, ends), batches), strict=True))
    for layer in layers:
        if layer.name.endswith("_conv"):
            kernel = np.zeros(layer.kernel.shape, np.float32)
            height, width, channels, _ = kernel.shape
            every = np.arange(channels)
            kernel[height // 2, width // 2, every, every] = 1.0
            layer.kernel.assign(kernel)
            if layer.use_bias:
                layer.bias.assign(np.zeros(layer.bias.shape))
        else:
            mean, variance = moments[layer.name.partition("_block")[0]]
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
            layer.gamma.assign(np.sqrt(variance + layer.epsilon))
            layer.beta.assign(mean)


def _moments(model: keras.Model, batches: Iterable[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return mean and variance of each channel of each output in a batch, on average over them.

    As in training: where the moving averages lag behind, what they would give is not what the
    added layers will normalise by.
    """
    found = []
    for batch in batches:
        with hold_statistics():
            outputs = model(batch, training=True)
        values = [keras.ops.convert_to_numpy(output).astype(np.float64) for output in outputs]
        found.append([(x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))) for x in values])
    if not found:
        raise ValueError("Identity convolutions need batches to measure statistics on: give some.")
    return [tuple(np.mean(of_output, axis=0)) for of_output in zip(*found, strict=True)]
