"""Sections of bench_train.py: what the loop costs beyond its steps."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import whole_job
from turns import HERE, Contender, Target, Turns, summary, surroundings, take_turns

STEPS_BETWEEN_CHECKPOINTS = 500
WHOLE_UNIT = (
    "images/s; input_wait is a share of the whole job's time, exit_seconds is from its last word "
    "to its end"
)


def loop_resnet50(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the whole job on photographs with the bare step on a batch in memory."""
    bare = ["--network=resnet50", "--classes=10", f"--batch_size={batch_size}"]
    with tempfile.TemporaryDirectory() as folder:
        photographs = whole_job.photographs(Path(folder), 600)

        def flags(steps: int, window: int) -> list[str]:
            return whole_job.resnet50_flags(
                photographs, steps=steps, log_every=window, batch_size=batch_size
            )

        return _whole_and_bare(flags, bare, 1.03, turns, steps, batch_size)


def loop_cifar20(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the whole job on CIFAR-10 with the bare step on a batch in memory."""

    def flags(steps: int, window: int) -> list[str]:
        chosen = whole_job.cifar_flags(steps=steps, log_every=window)
        return [*chosen, f"--batch_size={batch_size}"]

    return _whole_and_bare(flags, _cifar20(batch_size), 1.06, turns, steps, batch_size)


def _cifar20(batch_size: int) -> list[str]:
    size = ["--image_size=32", "--classes=10", f"--batch_size={batch_size}"]
    return ["--network=cifar_resnet20", *size]


def _whole_and_bare(
    flags: Callable[[int, int], list[str]],
    bare: Sequence[str],
    bound: float,
    turns: int,
    steps: int,
    batch_size: int,
) -> dict[str, Any]:
    window = max(steps // 2, 1)
    others: Turns = {"input_wait": [], "exit_seconds": []}

    def whole() -> float:
        done = whole_job.run(flags(3 * window, window))
        others["input_wait"].append(done.input_wait)
        others["exit_seconds"].append(done.exit_seconds)
        return done.images_per_second

    with contextlib.closing(Contender("steps_ours.py", *bare)) as step:
        rates = take_turns(
            {"bare": lambda: 2 * window * batch_size / step.run(2 * window), "whole": whole}, turns
        )
    targets = [Target("bare", "whole", bound, at_most=True)]
    settings = {"unit": WHOLE_UNIT, "batch_size": batch_size, "steps_a_turn": 2 * window}
    return summary({**rates, **others}, targets, **settings)


def loop_checkpoint_resnet50(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the seconds of a checkpoint with those of the steps between two."""
    bare = ["--network=resnet50", f"--batch_size={batch_size}"]
    return _checkpoint(["--network=resnet50"], bare, turns, steps, batch_size)


def loop_checkpoint_cifar20(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Compare the seconds of a checkpoint with those of the steps between two."""
    bare = _cifar20(batch_size)
    return _checkpoint(bare[:-1], bare, turns, steps, batch_size)


def _checkpoint(
    saved: Sequence[str], bare: Sequence[str], turns: int, steps: int, batch_size: int
) -> dict[str, Any]:
    between = f"{STEPS_BETWEEN_CHECKPOINTS}_steps"
    with (
        contextlib.closing(Contender("saves_ours.py", *saved)) as save,
        contextlib.closing(Contender("steps_ours.py", *bare)) as step,
    ):
        seconds = take_turns(
            {
                "checkpoint": lambda: save.run(3) / 3,
                between: lambda: STEPS_BETWEEN_CHECKPOINTS * step.run(steps) / steps,
            },
            turns,
        )
    targets = [Target("checkpoint", between, 0.01, at_most=True)]
    return summary(seconds, targets, unit="s", batch_size=batch_size, steps_a_turn=steps)


def loop_evaluation(turns: int, _steps: int, _batch_size: int) -> dict[str, Any]:
    """Tell how long evaluation waits for its input and for its own end."""
    seconds: Turns = {}
    for name, arguments in {
        "resnet50": [f"--data_dir={whole_job.SHARED / 'imagenette_mini'}", "--batch_size=30"],
        "cifar20": [
            "--network=cifar_resnet20",
            "--recipe=cifar",
            "--dataset=cifar10",
            f"--data_dir={whole_job.SHARED / 'tfds'}",
            "--batch_size=250",
        ],
    }.items():
        command = [sys.executable, str(HERE / "evaluations_ours.py"), f"--turns={turns}"]
        done = subprocess.run(
            [*command, *arguments],
            env=surroundings(),
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        for part in found[0]:
            seconds[f"{name}_{part}"] = [turn[part] for turn in found]
        idle = [turn["opening"] + turn["waiting"] + turn["end"] for turn in found]
        seconds[f"{name}_idle"] = idle
        print(f"  {name}: {found}", flush=True)
    targets = [Target(f"{name}_idle", None, 1.0, at_most=True) for name in ("resnet50", "cifar20")]
    images = {"resnet50": "300 photographs", "cifar20": "10,000 images"}
    return summary(seconds, targets, unit="s", idle="opening + waiting + end", images=images)
