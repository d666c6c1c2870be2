"""manifest.json: what an export is, where it comes from, and the hashes of its files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import pipelines
from resnet_keras.serving.places import MANIFEST

PIXEL_MEAN = "pixel_mean.npy"


def preprocessing(recipe: pipelines.Recipe, statistics: pipelines.Statistics) -> dict[str, Any]:
    """Return in numbers what serving does to an image, for those who do it themselves.

    Pixels are RGB in 0..255: the shorter side is resized, the centre square cut, the mean
    subtracted, and the result divided by the deviation. A per-pixel mean, float32 [S, S, 3], is
    there as ``pixel_mean`` beside its three averages.
    """
    mean, std = pipelines.mean_and_std(recipe, statistics)
    numbers: dict[str, Any] = {
        "recipe": recipe.name,
        "shorter_side": recipe.test_shorter_side,
        "antialias": recipe.test_antialias,
        "image_size": recipe.image_size,
        "mean": _numbers(mean.reshape(-1, 3).mean(axis=0, dtype=np.float64)),
        "std": _numbers(std),
    }
    return numbers if mean.ndim == 1 else {**numbers, "pixel_mean": mean}


def write(
    model: keras.Model, folder: Path, class_names: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Write ``folder/manifest.json``; last, because it holds the hash of every other file.

    Args:
        model: that was exported.
        folder: of the version.
        class_names: in label order.
        facts: JSON-able, what else there is to know; an array among its ``preprocessing`` is
            written beside as ``pixel_mean.npy``.
    """
    told = dict(facts)
    prepared = dict(told.get("preprocessing", {}))
    if "pixel_mean" in prepared:
        np.save(folder / PIXEL_MEAN, prepared["pixel_mean"])
        told["preprocessing"] = {**prepared, "pixel_mean": PIXEL_MEAN}
    manifest = {
        **told,
        "parameters": {
            "trainable": _count(model.trainable_weights),
            "batchnorm_statistics": _count(model.non_trainable_weights),
        },
        "labels": list(class_names),
        "sha256": {
            file.relative_to(folder).as_posix(): _sha256(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        },
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _numbers(values: np.ndarray) -> list[float]:
    """Return floats as short as float32 allows."""
    return [float(str(np.float32(value))) for value in values]


def _count(weights: Sequence[Any]) -> int:
    return sum(int(np.prod(weight.shape)) for weight in weights)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
