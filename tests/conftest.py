"""What every test shares: where data lies, and several logical devices on one CPU."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """Give ../shared, the data beside the project."""
    if not SHARED.is_dir():
        pytest.skip("needs the real images in ../shared, which is not here")
    return SHARED


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make four logical CPU devices, stand-ins for GPUs, before TensorFlow counts its devices."""
    if any("cpus" in getattr(item, "fixturenames", ()) for item in session.items):
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 4
        )


@pytest.fixture(scope="session")
def cpus() -> list:
    """Give four logical CPU devices."""
    import tensorflow as tf

    return tf.config.list_logical_devices("CPU")


def mirrored(devices: list):
    """Return a MirroredStrategy; collectives would tie a process to one number of replicas."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(
        [device.name for device in devices],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
