"""Read a file of weights, whoever wrote it, into arrays by name.

What an array is called, and what that means, is weight_names' subject.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file

from resnet_keras.errors import InputError

KINDS = (
    "a .npz, .safetensors, .pth, .pt, .h5 or .keras file, a checkpoint (RUN/ckpt-STEP) or the "
    "directory of a run"
)
# Under these, a PyTorch training script keeps the weights beside its optimizer and epoch.
_STATE_DICTS = ("state_dict", "model_state_dict", "model", "net")
# What a layer's variables are by their number, in the order in which Keras writes them.
_PARTS: dict[int, tuple[str, ...]] = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}
# What the readers raise at files that are cut short or hold something else.
_DAMAGED = (
    *(OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, RuntimeError),
    *(struct.error, zlib.error, zipfile.BadZipFile, SafetensorError, tf.errors.OpError),
)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """Hold what a file says.

    arrays: by the file's own names; those of Keras and of our checkpoints are `LAYER/PART`.
    by_keras: whether Keras wrote it. network: Keras's name of the model, where it is told.
    layers: Keras's configuration by layer; an empty one where only the name is told.
    flags: of the run that a checkpoint belongs to, where its config.json is there.
    """

    arrays: dict[str, np.ndarray]
    by_keras: bool = False
    network: str | None = None
    layers: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    flags: Mapping[str, Any] | None = None


def read(path: Path) -> WeightFile:
    """Read the arrays of one of KINDS; floating point of 16 bits becomes float32.

    Raises InputError where the file is missing, damaged, of another kind, or holds code.
    """
    prefix = _checkpoint(path)
    with _one_sentence(path):
        if prefix is not None:
            return _read_checkpoint(prefix)
        with path.open("rb") as file:
            head = file.read(9)
        if head.startswith(b"\x89HDF"):
            with h5py.File(path) as opened:
                return _read_hdf5(opened)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
                if "model.weights.h5" in members:
                    return _read_keras(archive)
            if any(member.endswith("data.pkl") for member in members):
                return WeightFile(_read_torch(path))
            with np.load(path, allow_pickle=False) as arrays:
                return WeightFile(_plain({name: arrays[name] for name in arrays.files}))
        if path.suffix == ".safetensors" or head[8:] == b"{":
            return WeightFile(_plain(load_file(path)))
        if path.suffix in (".pth", ".pt", ".th", ".bin") or head.startswith(b"\x80"):
            return WeightFile(_read_torch(path))
    raise InputError(f"{path} is no file of weights: give {KINDS}.")


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn what a reader of damaged files raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGED as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().split("\n")[0]
        raise InputError(
            f"{path} cannot be read as weights ({reason.rstrip('.') or type(error).__name__}): "
            f"give {KINDS} that is whole."
        ) from None


def _plain(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return float16 and bfloat16 as float32, and the rest as it is."""
    return {
        name: array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
        for name, array in arrays.items()
    }


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path} is PyTorch's, which is not installed: install torch, or save the weights as "
            ".safetensors or .npz."
        ) from None
    import pickle

    try:
        # weights_only: a pickle may hold any code, and this refuses to run it.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is damaged or holds Python objects, which could run any code, beside its "
            "weights: save model.state_dict() alone, and give that."
        ) from None
    tensors = _state_dict(loaded, torch.Tensor)
    if tensors is None:
        raise InputError(
            f"{path} holds no weights by name at its top or under {', '.join(_STATE_DICTS)}: save "
            "model.state_dict(), and give that."
        )
    return {
        str(name): (
            tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        ).numpy()
        for name, tensor in tensors.items()
    }


def _state_dict(loaded: Any, tensor: type) -> Mapping[str, Any] | None:
    """Return the tensors by name of a PyTorch file, at its top or below one of _STATE_DICTS."""
    if not isinstance(loaded, Mapping) or not loaded:
        return None
    if all(isinstance(value, tensor) for value in loaded.values()):
        return loaded
    below = (_state_dict(loaded.get(name), tensor) for name in _STATE_DICTS)
    return next((found for found in below if found is not None), None)


def _read_keras(archive: zipfile.ZipFile) -> WeightFile:
    config = json.loads(archive.read("config.json"))
    with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
        return _described(_read_hdf5(weights), config)


def _read_hdf5(file: h5py.File) -> WeightFile:
    if "layers" not in file:
        return _read_legacy_hdf5(file)
    arrays: dict[str, np.ndarray] = {}
    layers: dict[str, dict] = {}

    def add(path: str, group: Any) -> None:
        # Dropout's seeds are set at every step.
        if not path.endswith("vars") or "seed_generator" in path:
            return
        layer = group.attrs.get("name")
        if layer is None and len(group):
            raise InputError(
                f"{file.filename} does not name its layers, as older versions of Keras write it: "
                "load it into its model, and save that with this version, or as .keras."
            )
        layers[layer] = {}
        arrays.update(_named(layer, [group[str(i)][()] for i in range(len(group))]))

    file["layers"].visititems(add)
    network = file["vars"].attrs.get("name") if "vars" in file else None
    return WeightFile(_plain(arrays), by_keras=True, network=network, layers=layers)


def _read_legacy_hdf5(file: h5py.File) -> WeightFile:
    """Read Keras's older format, in which the weights of Keras Applications are published."""
    top = file.get("model_weights", file)
    arrays: dict[str, np.ndarray] = {}
    for layer, group in top.items():
        if "weight_names" in group.attrs and layer != "top_level_model_weights":
            names = [
                getattr(name, "decode", name.__str__)() for name in group.attrs["weight_names"]
            ]
            arrays.update(_named(layer, [group[name][()] for name in names]))
    if not arrays:
        raise InputError(f"{file.filename} is HDF5, but no weights of Keras: give {KINDS}.")
    content = WeightFile(_plain(arrays), by_keras=True)
    config = file.attrs.get("model_config")
    return content if config is None else _described(content, json.loads(config))


def _named(layer: str, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    parts = _PARTS.get(len(values), tuple(map(str, range(len(values)))))
    return {f"{layer}/{part}": value for part, value in zip(parts, values, strict=True)}


def _described(content: WeightFile, config: Mapping[str, Any]) -> WeightFile:
    """Add what the configuration of a Keras model says of its layers."""
    inner = config["config"]
    layers = {layer["config"]["name"]: layer["config"] for layer in inner["layers"]}
    return dataclasses.replace(content, network=inner.get("name"), layers=layers)


def _checkpoint(path: Path) -> Path | None:
    """Return the prefix of our checkpoint's files, None where ``path`` is another file."""
    if path.is_dir():
        newest = tf.train.latest_checkpoint(str(path))
        if newest is None:
            raise InputError(f"{path} is a directory without a checkpoint: give {KINDS}.")
        return Path(newest)
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if prefix.with_name(prefix.name + ".index").is_file():
        return prefix
    if not path.is_file():
        raise InputError(f"There is no {path}: give {KINDS}.")
    return None


def _read_checkpoint(prefix: Path) -> WeightFile:
    reader = tf.train.load_checkpoint(str(prefix))
    ours, end = "model/", "/.ATTRIBUTES/VARIABLE_VALUE"
    arrays = {
        # TensorFlow writes "." as ".." and "/" as ".S" in the names of a mapping.
        name.removeprefix(ours).removesuffix(end).replace(".S", "/"): reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith(ours) and name.endswith(end)
    }
    # The best checkpoint lies in a folder of the run's.
    for folder in (prefix.parent, prefix.parent.parent):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return WeightFile(
                arrays, flags=json.loads((folder / "config.json").read_text())["flags"]
            )
    return WeightFile(arrays)
