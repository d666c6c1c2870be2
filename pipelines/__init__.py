"""Input pipelines: data sets, the papers' recipes, and tf.data streams of batches.

Importing the package and calling `check` load neither TensorFlow nor TensorFlow Datasets.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pipelines.datasets import DATASETS, DataError, DatasetSpec, check
from pipelines.recipes import RECIPES, Recipe, recipe
from pipelines.statistics import Statistics

if TYPE_CHECKING:
    from pipelines.loader import test_batches, train_batches
    from pipelines.preprocessing import normalise, preprocess_encoded
    from pipelines.sources import Source, open_source

# Loaded at first use, because these modules import TensorFlow.
_LAZY = {
    "Source": "sources",
    "normalise": "preprocessing",
    "open_source": "sources",
    "preprocess_encoded": "preprocessing",
    "test_batches": "loader",
    "train_batches": "loader",
}

__all__ = [
    "DATASETS",
    "RECIPES",
    "DataError",
    "DatasetSpec",
    "Recipe",
    "Source",
    "Statistics",
    "check",
    "normalise",
    "open_source",
    "preprocess_encoded",
    "recipe",
    "test_batches",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pipelines' has no attribute '{name}'")
    return getattr(importlib.import_module(f"pipelines.{_LAZY[name]}"), name)
