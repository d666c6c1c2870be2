"""Input pipelines: data sets, the papers' recipes, and tf.data streams of batches.

Importing the package and calling `check` load neither TensorFlow nor TensorFlow Datasets.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipelines.bad_images import BadImages
from pipelines.datasets import DATASETS, DatasetSpec, check, describe
from pipelines.errors import DataError, first_line
from pipelines.recipes import RECIPES, Recipe, recipe
from pipelines.statistics import Statistics

if TYPE_CHECKING:
    from pipelines.loader import is_pad_crop, test_batches, train_batches
    from pipelines.prepare import compute_statistics
    from pipelines.preprocessing import (
        fingerprint,
        mean_and_std,
        normalise,
        preprocess_encoded,
    )
    from pipelines.service import service_batches
    from pipelines.sources import Source, open_source
    from pipelines.streams import test_stream, train_stream

# Loaded at first use, because these modules import TensorFlow.
_LAZY = {
    "Source": "sources",
    "compute_statistics": "prepare",
    "fingerprint": "preprocessing",
    "is_pad_crop": "loader",
    "mean_and_std": "preprocessing",
    "normalise": "preprocessing",
    "open_source": "sources",
    "preprocess_encoded": "preprocessing",
    "service_batches": "service",
    "test_batches": "loader",
    "test_stream": "streams",
    "train_batches": "loader",
    "train_stream": "streams",
}

__all__ = [
    "DATASETS",
    "RECIPES",
    "BadImages",
    "DataError",
    "DatasetSpec",
    "Recipe",
    "Source",
    "Statistics",
    "check",
    "compute_statistics",
    "describe",
    "fingerprint",
    "first_line",
    "is_pad_crop",
    "mean_and_std",
    "normalise",
    "open_source",
    "preprocess_encoded",
    "recipe",
    "service_batches",
    "test_batches",
    "test_stream",
    "train_batches",
    "train_stream",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipelines' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pipelines.{_LAZY[name]}"), name)
