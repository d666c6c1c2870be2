"""Which devices train, and in which precision."""

import json
import os
import platform
import resource
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.training.runs import instructions


class Cluster(NamedTuple):
    """A process among the workers; worker 0 is the chief, who alone writes files."""

    worker: int = 0
    workers: tuple[str, ...] = ("localhost",)

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes log, checkpoints and exports."""
        return self.worker == 0


def read_cluster(tf_config: str | None) -> Cluster:
    """Return the cluster that the environment variable TF_CONFIG describes; one worker without it.

    Raises:
        InputError: where it is no ``{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type":
            "worker", "index": N}}``; other kinds of task have no place here.
    """
    if not tf_config:
        return Cluster()
    form = (
        'give {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": N}}.'
    )
    try:
        read = json.loads(tf_config)
        tasks = {name: list(addresses) for name, addresses in read["cluster"].items()}
        kind, index = read["task"]["type"], int(read["task"]["index"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"TF_CONFIG={tf_config[:200]} cannot be read: {form}") from None
    if set(tasks) != {"worker"} or kind != "worker" or not 0 <= index < len(tasks["worker"]):
        raise InputError(f"TF_CONFIG={tf_config[:200]} is no cluster of equal workers: {form}")
    return Cluster(index, tuple(tasks["worker"]))


def make_strategy(name: str, cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Return the tf.distribute strategy of a ``--strategy`` name.

    ``auto`` is ``multi_worker`` in a cluster of several workers, ``mirrored`` where there are
    several GPUs, else ``one_device``. ``mirrored`` takes all GPUs or, without any, all logical
    CPU devices. Batch-norm statistics are each replica's own, as in the paper's 8 GPUs of 32
    images. A cluster's strategy must be made before TensorFlow runs any operation.

    Raises:
        InputError: for an unknown name, or one that does not fit the cluster.
    """
    cluster = cluster or read_cluster(os.environ.get("TF_CONFIG"))
    workers = len(cluster.workers)
    if name == "auto" and workers > 1:
        name = "multi_worker"
    if name == "multi_worker":
        if workers < 2:
            raise InputError(
                "--strategy=multi_worker needs the addresses of at least two workers in the "
                "environment variable TF_CONFIG: set it on each, or leave the flag out."
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    if workers > 1:
        raise InputError(
            f"--strategy={name} trains on one machine, but TF_CONFIG names {workers} workers: "
            "unset it, or give --strategy=multi_worker."
        )
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one_device"
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0].name)
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    raise InputError(f"--strategy={name} is not one of: auto, one_device, mirrored, multi_worker.")


def check_batch_size(
    strategy: tf.distribute.Strategy, batch_size: int, flag: str, parts: int = 1
) -> None:
    """Refuse a global batch that does not divide among replicas and their parts (in images).

    Raises:
        InputError: naming the next sizes that divide.
    """
    replicas = strategy.num_replicas_in_sync
    unit = replicas * parts
    if batch_size % unit:
        below = batch_size - batch_size % unit
        sizes = " or ".join(str(size) for size in (below, below + unit) if size)
        devices = f"{replicas} device" + "s" * (replicas > 1)
        among = devices + (f" with {parts} parts each" if parts > 1 else "")
        raise InputError(f"--{flag}={batch_size} does not divide among {among}: give {sizes}.")


def check_agreement(strategy: tf.distribute.Strategy, values: Mapping[str, Any]) -> None:
    """Refuse workers that were started differently; all must call it.

    Args:
        strategy: of all workers.
        values: JSON-able, by the name that they are told by.

    Raises:
        InputError: naming what differs.
    """
    given = every_workers(strategy, [zlib.crc32(json.dumps(v).encode()) for v in values.values()])
    columns = zip(values, zip(*given, strict=True), strict=True)
    differing = [name for name, column in columns if len(set(column)) > 1]
    if differing:
        raise InputError(
            f"The workers differ in {', '.join(differing)}: give each the same command and data."
        )


def distribute(
    strategy: tf.distribute.Strategy,
    share: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Iterable[Any]:
    """Return the batches that ``share`` gives each worker, of a replica's size, for the replicas.

    A single CPU reads its data set directly: the iterators that TensorFlow would put in between
    tune themselves whatever the data set's options say, and where they are freed, as at the end of
    every evaluation, they wait for their tuning thread, up to a minute.
    """
    if strategy.num_replicas_in_sync == 1 and not tf.config.list_logical_devices("GPU"):
        return share(tf.distribute.InputContext())
    return strategy.distribute_datasets_from_function(share)


def every_workers(strategy: tf.distribute.Strategy, value: Any) -> list[Any]:
    """Return the value that each replica's worker gave; a barrier, too: all must call it.

    Args:
        strategy: of all workers.
        value: a number, or as many numbers on each.
    """
    return _gathered(strategy, tf.constant([value], tf.float64)).numpy().tolist()


@tf.function(reduce_retracing=True)
def _gathered(strategy: tf.distribute.Strategy, own: tf.Tensor) -> tf.Tensor:
    return strategy.gather(strategy.run(tf.identity, (own,)), axis=0)


def choose_precision(name: str) -> str:
    """Return the precision of a ``--precision`` name; ``auto`` is bfloat16 where it is fast.

    That is on GPUs of compute capability 8 or more and on CPUs with bfloat16 instructions;
    elsewhere bfloat16 is emulated, many times slower than float32.
    """
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = (tf.config.experimental.get_device_details(gpu) for gpu in gpus)
        fast = all(found.get("compute_capability", (0, 0)) >= (8, 0) for found in details)
    else:
        fast = any(name.endswith("bf16") for name in instructions())
    return "bfloat16" if fast else "float32"


def peak_memory() -> int:
    """Return the most bytes held at once so far: on the first GPU, or by this process without."""
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        return tf.config.experimental.get_memory_info(gpus[0].name.rpartition("device:")[2])["peak"]
    # Where Linux tells it. getrusage's is no less than that of the process that started this one.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    unit = 1 if platform.system() == "Darwin" else 1024
    return peaks[0] if peaks else unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def moving_statistics(model: keras.Model) -> list[tf.Variable]:
    """Return the moving averages of a network's batch-norm layers."""
    return [
        variable.value
        for variable in model.non_trainable_variables
        if variable.name in ("moving_mean", "moving_variance")
    ]


def average_statistics(strategy: tf.distribute.Strategy, model: keras.Model) -> Callable[[], Any]:
    """Return a function that sets every replica's moving statistics to their mean over replicas.

    Replicas keep statistics of their own; without this, a checkpoint or an answer would depend
    on which replica it came from. All workers must call it together.
    """
    statistics = moving_statistics(model)
    if strategy.num_replicas_in_sync == 1 or not statistics:
        return lambda: None

    def replica() -> None:
        context = tf.distribute.get_replica_context()
        means = context.all_reduce(
            tf.distribute.ReduceOp.MEAN, [tf.identity(value) for value in statistics]
        )
        for value, mean in zip(statistics, means, strict=True):
            tf.raw_ops.AssignVariableOp(resource=value.handle, value=mean)

    return tf.function(lambda: strategy.run(replica))
