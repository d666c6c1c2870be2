"""Real data beside the project, and small folders of images made by hand."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import pipelines

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(place: str) -> Path:
    """Return a directory of the data beside the project, or skip the test."""
    if not (SHARED / place).exists():
        pytest.skip(f"needs the data set {place} in ../shared/data")
    return SHARED / place


@pytest.fixture(scope="session")
def shared_data():
    """Return the function from a place to a directory of the data beside the project."""
    return shared


@pytest.fixture(scope="session")
def cifar10():
    return pipelines.open_source("cifar10", data_dir=shared("tfds/cifar10").parent)


@pytest.fixture(scope="session")
def imagenet():
    return pipelines.open_source("imagenet2012", data_dir=shared("tfds/imagenet2012").parent)


@pytest.fixture(scope="session")
def imagenette():
    return pipelines.open_source("folder", data_dir=shared("imagenette_mini"))


@pytest.fixture(scope="session")
def digits():
    return pipelines.open_source("digits")


@pytest.fixture
def write_folder(tmp_path):
    """Return a function that writes a folder of noise images, 40 x 50 pixels."""

    def write(counts: dict[str, int], *, place: str = "images") -> Path:
        random = np.random.default_rng(0)
        for class_dir, count in counts.items():
            folder = tmp_path / place / class_dir
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                encoded = tf.io.encode_jpeg(pixels).numpy()
                (folder / f"{number:03d}.jpg").write_bytes(encoded)
        return tmp_path / place

    return write
