"""Sections of bench_serve.py: answers a second and latency beside the peers."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from turns import HERE, Contender, Target, environment, summary, surroundings, take_turns

Command = list[str]


def batch32(turns: int, steps: int) -> dict[str, Any]:
    """Compare batches of 32 in float32."""
    targets = [
        Target("ours", "keras_export", 1.25),
        Target("ours", "onnxruntime", 0.97),
        Target("ours", "torch", 1.5),
        Target("ours", "openvino", 1.0),
    ]
    with _float32(32) as commands:
        return _compare(commands, targets, 32, turns, steps, aims=["ours / openvino"])


def batch32_bfloat16(turns: int, steps: int) -> dict[str, Any]:
    """Compare batches of 32 in bfloat16."""
    targets = [Target("ours", "torch", 1.5), Target("ours", "openvino", 0.92)]
    with _bfloat16(32) as commands:
        return _compare(commands, targets, 32, turns, steps, precision="bfloat16")


def batch1(turns: int, steps: int) -> dict[str, Any]:
    """Compare the latency of one image in float32."""
    targets = [Target("ours", "onnxruntime", 0.97)]
    with _float32(1) as commands:
        return _compare(commands, targets, 1, turns, steps)


def batch1_bfloat16(turns: int, steps: int) -> dict[str, Any]:
    """Compare the latency of one image in bfloat16."""
    targets = [Target("ours", "ours_float32", 1.4), Target("ours", "openvino", 1.0)]
    with _bfloat16(1) as commands:
        return _compare(
            commands, targets, 1, turns, steps, precision="bfloat16", aims=["ours / openvino"]
        )


@contextlib.contextmanager
def _float32(batch_size: int) -> Iterator[dict[str, Command]]:
    """Give the contenders' commands, whose files live as long."""
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), f"--batch_size={batch_size}"
        make_export(folder / "ours")
        make_export(folder / "keras", "--keras")
        onnx = _make("answers_torch.py", size, f"--onnx={folder / 'resnet50.onnx'}")
        session = ["answers_session.py", size]
        yield {
            "ours": [*session, f"--folder={folder / 'ours/1'}"],
            "keras_export": [*session, f"--folder={folder / 'keras/1'}", "--signature=serve"],
            "onnxruntime": ["answers_onnxruntime.py", onnx],
            "openvino": ["answers_openvino.py", onnx],
            "torch": ["answers_torch.py", size],
        }


@contextlib.contextmanager
def _bfloat16(batch_size: int) -> Iterator[dict[str, Command]]:
    with tempfile.TemporaryDirectory() as name:
        folder, size = Path(name), f"--batch_size={batch_size}"
        make_export(folder / "ours", "--precision=bfloat16")
        make_export(folder / "ours_float32")
        onnx = _make("answers_torch.py", size, f"--onnx={folder / 'resnet50.onnx'}")
        session = ["answers_session.py", size]
        yield {
            "ours": [*session, f"--folder={folder / 'ours/1'}"],
            "ours_float32": [*session, f"--folder={folder / 'ours_float32/1'}"],
            "openvino": ["answers_openvino.py", onnx, "--precision=bfloat16"],
            "torch": ["answers_torch.py", size, "--precision=bfloat16"],
        }


def make_export(folder: Path, *options: str) -> None:
    """Write ResNet-50 as version 1 in a new folder."""
    _make("exports.py", f"--folder={folder}", *options)


def _make(script: str, *arguments: str) -> str:
    """Run a script of this directory; return its last argument."""
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        env=surroundings(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return arguments[-1]


def _compare(
    commands: Mapping[str, Command],
    targets: list[Target],
    batch_size: int,
    turns: int,
    steps: int,
    precision: str = "float32",
    aims: list[str] | None = None,
) -> dict[str, Any]:
    """Measure the contenders in turns: images/s by the median step, and each turn's p99."""
    tails: dict[str, list[float]] = {f"{name}_p99_ms": [] for name in commands}
    with contextlib.ExitStack() as stack:
        started = {
            name: stack.enter_context(contextlib.closing(Contender(*command)))
            for name, command in commands.items()
        }

        def images_per_second(name: str) -> float:
            seconds = started[name].run_each(steps)
            tails[f"{name}_p99_ms"].append(1000 * float(np.quantile(seconds, 0.99)))
            return batch_size / float(np.median(seconds))

        rates = take_turns(
            {name: lambda name=name: images_per_second(name) for name in commands}, turns
        )
    if batch_size == 1:
        medians = {f"{name}_median_ms": [1000 / rate for rate in rates[name]] for name in commands}
        rates |= medians | tails
    return summary(
        rates,
        targets,
        unit="images/s by the median step of a turn; ms where it says so",
        precision=precision,
        hardware_bfloat16=environment()["hardware_bfloat16"],
        batch_size=batch_size,
        image_size=224,
        steps_a_turn=steps,
        **({"aims": aims} if aims else {}),
    )
