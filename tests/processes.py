"""Run the command line as processes, alone or as a cluster, kill them, and read what they leave.

Where it is not the process that is tested, a command runs in this one, which has TensorFlow loaded.
"""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_keras.main import main

TINY = ["--dataset=digits", "--model=cifar_resnet8", "--batch_size=32", "--run_dir=run",
        "--export_dir=out", "--lr_schedule=piecewise"]  # fmt: skip
# What depends on the clock, in log and TensorBoard.
TIMES = ("images_per_second", "input_wait", "saving", "seconds", "peak_memory", "elapsed")
# The command with stand-ins for several GPUs.
ON_DEVICES = """
from resnet_keras.main import console
from resnet_keras.startup import quiet
with quiet():
    import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * {})
console()
"""


class Process:
    """One command that runs in ``folder``; its output goes to files, so that it never waits."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        devices: int = 1,
        tf_config: str | None = None,
        program: Sequence[str] = ("-m", "resnet_keras.main"),
    ) -> None:
        command = ["-c", ON_DEVICES.format(devices)] if devices > 1 else program
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        if tf_config is not None:
            environment["TF_CONFIG"] = tf_config
        self._files = [(folder / f"{time.time_ns()}.{name}").open("w+") for name in ("out", "err")]
        self.popen = subprocess.Popen(
            [sys.executable, *command, *arguments],
            cwd=folder,
            env=environment,
            stdout=self._files[0],
            stderr=self._files[1],
        )

    def wait(self, timeout: float = 300) -> int:
        """Return the exit code; negative for a signal."""
        return self.popen.wait(timeout)

    def _text(self, index: int) -> str:
        self._files[index].seek(0)
        return self._files[index].read()

    @property
    def output(self) -> str:
        return self._text(0)

    @property
    def complaints(self) -> list[str]:
        """The lines of stderr but the log's own."""
        return [line for line in self._text(1).splitlines() if not line.startswith("step ")]

    def catch(self, moment: Callable[[], Any], timeout: float = 300) -> None:
        """Freeze the process at a moment when ``moment()`` is true; it may last milliseconds."""
        deadline = time.monotonic() + timeout
        while True:
            if moment():
                self.popen.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, self.popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if moment():
                    return
                self.popen.send_signal(signal.SIGCONT)
            assert self.popen.poll() is None, (self.popen.returncode, self.complaints)
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.0005)

    def kill(self) -> None:
        """End it as a lost machine would: nothing is flushed, no handler runs."""
        self.popen.kill()
        assert self.popen.wait() == -signal.SIGKILL

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        for file in self._files:
            file.close()


@contextlib.contextmanager
def running(
    arguments: Sequence[str],
    folder: Path,
    *,
    workers: int = 1,
    tf_config: str | None = None,
    **options: Any,
) -> Iterator[list[Process]]:
    """Start a command, as a cluster of several ``workers`` on loopback; end what is left of it.

    Of a single one, ``tf_config`` may be given. ``arguments`` may hold ``{worker}``.
    """
    folder.mkdir(exist_ok=True)
    configs = clusters(workers) if workers > 1 else [tf_config]
    started: list[Process] = []
    try:
        for worker, own_config in enumerate(configs):
            own = [argument.format(worker=worker) for argument in arguments]
            started.append(Process(own, folder, tf_config=own_config, **options))
        yield started
    finally:
        for process in started:
            process.close()


def clusters(workers: int) -> list[str]:
    """Return each worker's TF_CONFIG, on ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": worker}})
        for worker in range(workers)
    ]


def done(arguments: Sequence[str], folder: Path, **options: Any) -> str:
    """Run a command to its good end; return what the first worker prints."""
    with running(arguments, folder, **options) as processes:
        for process in processes:
            code = process.wait()
            assert code == 0, process.complaints
            assert not process.complaints, process.complaints
        return processes[0].output


def run_here(arguments: Sequence[str], folder: Path) -> tuple[int, str, list[str]]:
    """Run a command in this process; return exit code, output, and stderr without the log's own."""
    output, errors = io.StringIO(), io.StringIO()
    folder.mkdir(exist_ok=True)
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = main(arguments)
    lines = [line for line in errors.getvalue().splitlines() if not line.startswith("step ")]
    return code, output.getvalue(), lines


def done_here(arguments: Sequence[str], folder: Path) -> str:
    """Run a command to its good end in this process; return what it prints."""
    code, output, complaints = run_here(arguments, folder)
    assert (code, complaints) == (0, [])
    return output


def refused_here(arguments: Sequence[str], folder: Path) -> str:
    """Run a command in this process that must be refused as bad input; return its one sentence."""
    code, _, complaints = run_here(arguments, folder)
    assert code == 2, complaints
    (sentence,) = complaints
    return sentence


def records(run: Path) -> list[dict[str, Any]]:
    """Return the log without times; the last line may be half-written."""
    file = run / "log.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.is_file() else []
    return [
        {name: value for name, value in json.loads(line).items() if name not in TIMES}
        for line in lines
    ]


def last_step(run: Path) -> int:
    """Return the step that the log has come to."""
    return max((record["step"] for record in records(run)), default=0)


def saved_step(run: Path) -> int:
    """Return the step of the checkpoint that a restart would read, 0 without one."""
    import tensorflow as tf

    newest = tf.train.latest_checkpoint(str(run))
    return int(newest.rpartition("-")[2]) if newest else 0


def tensors(run: Path) -> dict[str, np.ndarray]:
    """Return all that the newest checkpoint holds: weights, statistics, optimizer, state."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(run))
    # TensorFlow's own: the object graph, and how many checkpoints a process has written.
    own = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")
    names = sorted(reader.get_variable_to_shape_map())
    return {name: reader.get_tensor(name) for name in names if name not in own}


def scalars(run: Path) -> Counter:
    """Count TensorBoard's points: (folder, tag, step, value), but for times."""
    import tensorflow as tf
    from tensorboard.compat.proto.event_pb2 import Event

    points: Counter = Counter()
    for file in sorted(run.glob("tensorboard/*/*tfevents*")):
        for raw in tf.data.TFRecordDataset(str(file)):
            event = Event.FromString(raw.numpy())
            for value in event.summary.value:
                if value.tag not in TIMES and value.tensor.dtype == tf.float32.as_datatype_enum:
                    number = float(tf.make_ndarray(value.tensor))
                    points[file.parent.name, value.tag, event.step, number] += 1
    return points


def assert_same_run(one: Path, other: Path, rounded: str = "") -> None:
    """Compare checkpoints bitwise, logs, and TensorBoard's points, each there once.

    Args:
        one: a run's directory.
        other: another's.
        rounded: tensors with this in their names may differ in the last digits, and what is
            evaluated with them.
    """
    for place in ("", "best"):
        first, second = tensors(one / place), tensors(other / place)
        assert first.keys() == second.keys()
        assert len(first) > 20
        for name, value in first.items():
            assert value.dtype == second[name].dtype, name
            if rounded and rounded in name:
                np.testing.assert_allclose(value, second[name], rtol=1e-5, err_msg=name)
            else:
                assert value.tobytes() == second[name].tobytes(), name
    tolerance = 1e-5 if rounded else 0.0
    for record, again in zip(records(one), records(other), strict=True):
        if record["kind"] == again["kind"] == "test":
            numbers = [{**found, "kind": 0} for found in (record, again)]
            assert numbers[0] == pytest.approx(numbers[1], rel=tolerance, abs=0)
        else:
            assert record == again
    points, others = scalars(one), scalars(other)
    assert len(points) >= 2 * len([r for r in records(one) if r["kind"] in ("train", "test")])
    for point, again in zip(sorted(points), sorted(others), strict=True):
        assert point[:3] == again[:3]
        assert point[3] == pytest.approx(again[3], rel=tolerance, abs=0)
    assert set(points.values()) == set(others.values()) == {1}
