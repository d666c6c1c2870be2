"""Sections of bench_train.py: two workers of one core each against one worker on one core."""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import whole_job
from turns import HERE, Target, Turns, pinned, summary, surroundings, take_turns


def workers_resnet50(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Train ResNet-50 on photographs, ``batch_size`` images a worker."""
    with tempfile.TemporaryDirectory() as folder:
        photographs = whole_job.photographs(Path(folder), 600)

        def flags(images: int) -> list[str]:
            return whole_job.resnet50_flags(
                photographs, steps=steps + 1, log_every=1, batch_size=images
            )

        found = _one_and_two(flags, turns, batch_size)
    targets = [Target("two", "one", 1.8)]
    return _summary(found, targets, "resnet50", turns, steps, batch_size)


def workers_cifar20(turns: int, steps: int, batch_size: int) -> dict[str, Any]:
    """Train ResNet-20 on CIFAR-10, ``batch_size`` images a worker; no target."""
    window = max(steps // 2, 1)

    def flags(images: int) -> list[str]:
        chosen = whole_job.cifar_flags(steps=3 * window, log_every=window)
        return [*chosen, f"--batch_size={images}", "--evaluation_batch_size=500"]

    found = _one_and_two(flags, turns, batch_size)
    return _summary(found, [], "cifar_resnet20", turns, 2 * window, batch_size)


def _one_and_two(flags: Callable[[int], list[str]], turns: int, batch_size: int) -> Turns:
    """Return images a second of one worker and of two, and the seconds that two take longer."""
    first, second = cores()

    def one() -> float:
        return whole_job.run(flags(batch_size), cores=[first]).images_per_second

    def two() -> float:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            running = [
                whole_job.Running(
                    [*flags(2 * batch_size), "--strategy=multi_worker"],
                    cores=[core],
                    environment={"TF_CONFIG": tf_config},
                    folder=Path(folder),
                )
                for core, tf_config in zip((first, second), cluster(), strict=True)
            ]
            for process in running:
                stack.callback(process.kill)
            chief, _ = [process.finish() for process in running]
            return chief.images_per_second

    rates = take_turns({"one": one, "two": two}, turns)
    pairs = zip(rates["one"], rates["two"], strict=True)
    rates["step_longer_by"] = [2 * batch_size / two - batch_size / one for one, two in pairs]
    return rates


def _summary(
    found: Turns, targets: list[Target], network: str, turns: int, steps: int, batch_size: int
) -> dict[str, Any]:
    found["all_reduce"], gradient_bytes = all_reduce(network, turns)
    longer = 2 * batch_size / statistics.median(found["two"])
    return summary(
        found,
        targets,
        unit="images/s of all workers; step_longer_by and all_reduce are seconds a step",
        images_a_worker=batch_size,
        steps_a_turn=steps,
        gradient_bytes=gradient_bytes,
        all_reduce="of the gradients between two such workers with nothing else to do",
        share_of_all_reduce_in_a_step=round(statistics.median(found["all_reduce"]) / longer, 4),
    )


def all_reduce(network: str, turns: int) -> tuple[list[float], int]:
    """Return the seconds of reducing a network's gradients between two workers, and the bytes."""
    script = [sys.executable, str(HERE / "all_reduce.py"), f"--network={network}"]
    processes = [
        subprocess.Popen(
            pinned([*script, f"--turns={turns}"], [core]),
            env={**surroundings([core]), "TF_CONFIG": tf_config},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for core, tf_config in zip(cores(), cluster(), strict=True)
    ]
    try:
        told = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    if codes := [process.returncode for process in processes if process.returncode]:
        raise RuntimeError(f"{script} ended with {codes[0]}.")
    found = json.loads(told[0])
    return found["seconds"], found["bytes"]


def cores() -> tuple[int, int]:
    """Return two cores."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("Two workers of one core each need two cores.")
    return usable[0], usable[1]


def cluster() -> list[str]:
    """Return the TF_CONFIG of two workers on this machine, on ports that are free now."""
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, two)]
    tasks = ({"type": "worker", "index": index} for index in range(2))
    return [json.dumps({"cluster": {"worker": workers}, "task": task}) for task in tasks]
