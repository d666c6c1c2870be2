"""Section of bench_serve.py: four clients with good and bad requests at one server for minutes.

The server is the tests' stand-in for TF Serving, over the same C++ session: what is measured is
that session and our graph in it, with a Python gRPC server around them.
"""

import collections
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from serve_speed import make_export
from turns import HERE, ROOT, surroundings
from whole_job import SHARED

CLIENTS = 4
PHOTOS = SHARED / "imagenet_sample"
MEMORY_BOUND = 1.02  # of the last minute to the second


def load(minutes: float) -> dict[str, Any]:
    """Load the server; return throughput, latency, faults and how its memory went."""
    seconds = 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        make_export(Path(folder) / "resnet50")
        with (
            _server(Path(folder) / "resnet50/1") as (pid, address),
            _clients(address, seconds) as clients,
        ):
            began = time.monotonic()
            memory: list[tuple[float, float]] = []
            while any(client.poll() is None for client in clients):
                memory.append((time.monotonic() - began, _resident_mib(pid)))
                time.sleep(0.5)
            lasted = time.monotonic() - began
            reports = [json.loads(client.communicate()[0]) for client in clients]
    return _summary(reports, memory, minutes, lasted)


def _summary(
    reports: list[dict[str, Any]], memory: list[tuple[float, float]], minutes: float, lasted: float
) -> dict[str, Any]:
    latency = np.array([value for report in reports for value in report["seconds"]])
    faults = [fault for report in reports for fault in report["faults"]]
    refused: collections.Counter = collections.Counter()
    for report in reports:
        refused.update(report["refused"])
    images = sum(report["images"] for report in reports)
    # Clients start and end at slightly different times; a shorter load has shorter "minutes".
    window, ran = min(60.0, 20 * minutes), min(lasted, 60 * minutes)
    second = _median(memory, window, 2 * window)
    last = _median(memory, ran - window, ran)
    found = {
        "images_per_second": sum(report["images"] / report["lasted"] for report in reports),
        "median_ms": 1000 * float(np.median(latency)),
        "p99_ms": 1000 * float(np.quantile(latency, 0.99)),
        "good_images": images,
        "refused": sum(refused.values()),
        "faults": len(faults),
        "memory_second_minute_mib": second,
        "memory_last_minute_mib": last,
    }
    return {
        "settings": {
            "server": "stand-in for TF Serving, tests/serving/stand_in.py",
            "clients": CLIENTS,
            "minutes": minutes,
            "requests": "of each client's, 72 % one photograph, 8 % four, 20 % bad",
            "latency": "of good requests of one photograph, decoding included",
        },
        "medians": {name: float(f"{value:.5g}") for name, value in found.items()},
        "refused": dict(refused),
        "faults": faults[:20],
        "ratios": {
            "memory_last_minute_mib / memory_second_minute_mib": _ratio(last / second),
            "faults": _ratio(float(len(faults)), 0),
        },
    }


def _ratio(value: float, at_most: float = MEMORY_BOUND) -> dict[str, Any]:
    value = float(f"{value:.5g}")
    return {
        "ratio": value,
        "low": value,
        "high": value,
        "at_most": at_most,
        "reached": value <= at_most,
    }


def _median(memory: list[tuple[float, float]], begin: float, end: float) -> float:
    return statistics.median(mib for at, mib in memory if begin <= at <= end)


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[tuple[int, str]]:
    """Serve a version; give the process's id and its address."""
    command = [str(ROOT / "tests/serving/stand_in.py"), "--name=resnet50", f"--folder={folder}"]
    with (
        tempfile.TemporaryFile("w+") as chatter,
        subprocess.Popen(
            [sys.executable, *command],
            env=surroundings(),
            stdout=subprocess.PIPE,
            stderr=chatter,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                chatter.seek(0)
                raise RuntimeError(f"The stand-in did not start:\n{chatter.read()[-3000:]}")
            yield process.pid, f"localhost:{port}"
            if process.poll() is not None:
                chatter.seek(0)
                raise RuntimeError(f"The stand-in ended:\n{chatter.read()[-3000:]}")
        finally:
            process.kill()


@contextlib.contextmanager
def _clients(address: str, seconds: float) -> Iterator[list[subprocess.Popen]]:
    command = [str(HERE / "load_client.py"), f"--server={address}", "--model=resnet50"]
    command += [f"--photos={PHOTOS}", f"--seconds={seconds}"]
    clients = [
        subprocess.Popen(
            [sys.executable, *command, f"--seed={seed}"],
            env=surroundings(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for seed in range(CLIENTS)
    ]
    try:
        yield clients
    finally:
        for client in clients:
            client.kill()
            client.wait()
