"""Which devices train."""

import tensorflow as tf

from resnet_keras.errors import InputError


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the tf.distribute strategy of a ``--strategy`` name.

    ``auto`` is ``mirrored`` where there are several GPUs, else ``one_device``. ``mirrored`` takes
    all GPUs or, without any, all logical CPU devices. Batch-norm statistics are each replica's
    own, as in the paper's 8 GPUs of 32 images.

    Raises:
        InputError: for an unknown name.
    """
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0].name)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    raise InputError(f"--strategy={name} is not one of: auto, one_device, mirrored.")


def check_batch_size(strategy: tf.distribute.Strategy, batch_size: int, flag: str) -> None:
    """Refuse a global batch that does not divide among the replicas (sizes in images).

    Raises:
        InputError: naming the next sizes that divide.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        below = batch_size - batch_size % replicas
        sizes = " or ".join(str(size) for size in (below, below + replicas) if size)
        raise InputError(
            f"--{flag}={batch_size} does not divide among {replicas} devices: give {sizes}."
        )
