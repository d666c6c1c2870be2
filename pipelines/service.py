"""The training pipeline on other machines, through TensorFlow's own tf.data service.

A dispatcher hands the positions of the stream (of TFRecord data: the files) to workers as they
ask, so that every image comes once an epoch, but neither order nor position are kept: a run
resumes approximately. No image is lost or doubled as long as no worker dies.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable

import tensorflow as tf

from pipelines.errors import DataError
from pipelines.loader import OnBad, finish, map_examples, positional, train_example
from pipelines.order import record_keys_by_file, scattered_indices
from pipelines.recipes import Recipe
from pipelines.sources import Source
from pipelines.splits import ArraySplit, RecordSplit

# A dispatcher is asked every so many seconds, and given up when it has been silent for so many.
ASKED_EVERY, PATIENCE = 5.0, 20.0


def service_batches(
    source: Source,
    recipe: Recipe,
    *,
    batch_size: int,
    seed: int,
    service: str,
    job: str,
    on_bad: OnBad,
    start: int = 0,
    epochs: int | None = None,
) -> tf.data.Dataset:
    """Return the training batches that the workers of a tf.data service make.

    service: "grpc://HOST:PORT" of the dispatcher. job: consumers that give the same name share
    the images between them; every run, and every resumed run, needs a new one. start: images
    consumed before; TFRecord data begin at the epoch it lies in. epochs: end after that many,
    dropping the last partial batch. Unreadable images get weight 0 and their names are given to
    on_bad. Elements as those of `train_batches`.
    """
    split = source.splits["train"]
    if isinstance(split, ArraySplit):
        raise DataError(f"{source.name} fits the memory; data workers are for data on disk.")
    size = len(split)
    last = sys.maxsize if epochs is None else epochs
    if isinstance(split, RecordSplit):
        keys = record_keys_by_file(split, seed, start // size, last)
    else:
        keys = scattered_indices(size, seed, start, min(last * size, sys.maxsize))
    examples = map_examples(
        keys, train_example(source, recipe, seed), positional(split), guarded=True
    )
    distributed = examples.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
            service=service,
            job_name=job,
        )
    )
    return finish(distributed, batch_size, on_bad)


def check(service: str, source: Source | None = None, seconds: float = 10.0) -> None:
    """Ask whether a dispatcher answers at "grpc://HOST:PORT"; TensorFlow would wait for hours.

    source: what is to be read. Raises DataError.
    """
    if source and isinstance(source.splits["train"], ArraySplit):
        raise DataError(f"{source.name} fits the memory; data workers are for data on disk.")
    host, _, port = service.removeprefix("grpc://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except (OSError, ValueError) as error:
        raise DataError(
            f"No dispatcher answers at {service} ({error}): start one with --mode=data_worker."
        ) from None


def watch(service: str, lost: Callable[[str], None]) -> threading.Event:
    """Ask from now on, in a thread, whether the dispatcher still answers.

    Once it does not, a step waits for its batch inside TensorFlow, without end and deaf to signals.
    lost: called in that thread, once, with why it is given up. Returns what ends the asking.
    """
    ended = threading.Event()

    def ask() -> None:
        answered = time.monotonic()
        while not ended.wait(ASKED_EVERY):
            try:
                check(service, seconds=ASKED_EVERY)
                answered = time.monotonic()
            except DataError as error:
                if time.monotonic() - answered > PATIENCE and not ended.is_set():
                    return lost(str(error))

    threading.Thread(target=ask, daemon=True).start()
    return ended


def start_dispatcher(port: int = 0) -> tf.data.experimental.service.DispatchServer:
    """Start a dispatcher; port 0 takes a free one. Its `target` is the service's address."""
    return tf.data.experimental.service.DispatchServer(
        tf.data.experimental.service.DispatcherConfig(port=port)
    )


def start_worker(
    dispatcher: str, *, host: str = "localhost", port: int = 0
) -> tf.data.experimental.service.WorkerServer:
    """Start a worker that reads for the dispatcher "HOST:PORT" or "grpc://HOST:PORT".

    host, port: where consumers reach this worker; port 0 takes a free one.
    """
    return tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(
            dispatcher_address=dispatcher.removeprefix("grpc://"),
            worker_address=f"{host}:%port%",
            port=port,
        )
    )
