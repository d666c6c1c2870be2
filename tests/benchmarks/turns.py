"""Contenders that take turns on one machine, each in a process of its own.

A contender compiles once and then waits for its turns. Between them its whole process group is
stopped by signal, so that neither spinning threads nor prefetching workers disturb the others.
"""

import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

Turns = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Target:
    """State what a ratio of two medians shall be: at least (or at most) ``bound``.

    Without ``right``, what the median of ``left`` itself shall be.
    """

    left: str
    right: str | None
    bound: float
    at_most: bool = False

    def reached(self, ratio: float) -> bool:
        """Tell whether a ratio keeps the promise."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound


def serve(run: Callable[[int], float | list[float]]) -> None:
    """Answer each line of standard input, a number of steps, with the seconds they took.

    run: steps -> the seconds of all of them, or a list with each one's.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(f"{json.dumps(run(int(line)))}\n")


def serve_each(step: Callable[[], object]) -> None:
    """Answer as `serve` does, with the seconds that each call of ``step`` took."""

    def run(count: int) -> list[float]:
        step()  # a process that has slept is cold
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        return seconds

    run(1)
    serve(run)


class Contender:
    """A process that ``serve``s: started, warmed and stopped until its turn.

    Args:
        script: a file of this directory.
        arguments: its command line.
        cores: the cores it may use; None for all.
        environment: variables to add; None takes one away.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        cores: Sequence[int] | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        variables = {**surroundings(cores), **(environment or {})}
        self._name = " ".join((script, *arguments))
        self._chatter = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            pinned([sys.executable, str(HERE / script), *arguments], cores),
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._chatter,
            text=True,
            process_group=0,  # so that one signal reaches its own workers too
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    def run(self, steps: int) -> float:
        """Return the seconds that ``steps`` steps took."""
        return float(self._ask(steps))

    def run_each(self, steps: int) -> list[float]:
        """Return the seconds that each of ``steps`` steps took, of what does `serve_each`."""
        return self._ask(steps)

    def _ask(self, steps: int) -> Any:
        self._signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = json.loads(self._read())
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process and its workers."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._chatter.seek(0)
            raise RuntimeError(f"{self._name} ended with {code}:\n{self._chatter.read()[-3000:]}")
        return line.strip()

    def _signal(self, number: signal.Signals) -> None:
        # A group whose leader has been waited for may have a new owner.
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)


def pinned(command: Sequence[str], cores: Sequence[int] | None) -> list[str]:
    """Return a command that runs on these cores only."""
    return [*(["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []), *command]


def surroundings(cores: Sequence[int] | None = None) -> dict[str, str]:
    """Return the environment in which every contender runs: same threads, same kernels."""
    threads = len(cores or os.sched_getaffinity(0))
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        # On CPUs without AVX-512, TensorFlow leaves its faster convolutions off unless asked.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def take_turns(contenders: Mapping[str, Callable[[], float]], turns: int) -> Turns:
    """Let the contenders measure themselves one after the other, ``turns`` times."""
    measured: Turns = {name: [] for name in contenders}
    for turn in range(turns):
        for name, measure in contenders.items():
            measured[name].append(measure())
            print(f"  turn {turn + 1}: {name}: {measured[name][-1]:,.4g}", flush=True)
    return measured


def summary(turns: Turns, targets: Sequence[Target], **settings: Any) -> dict[str, Any]:
    """Return a section of the results: medians, ratios of medians, and what each turn gave.

    A ratio's low and high are those of single turns.
    """
    medians = {name: statistics.median(values) for name, values in turns.items()}
    ratios = {}
    for target in targets:
        ratio, single, name = medians[target.left], turns[target.left], target.left
        if target.right is not None:
            ratio /= medians[target.right]
            single = [a / b for a, b in zip(single, turns[target.right], strict=True)]
            name += f" / {target.right}"
        ratios[name] = {
            "ratio": _rounded(ratio),
            "low": _rounded(min(single)),
            "high": _rounded(max(single)),
            "at_most" if target.at_most else "at_least": target.bound,
            "reached": target.reached(ratio),
        }
    return {
        "settings": settings,
        "ratios": ratios,
        "medians": {name: _rounded(value) for name, value in medians.items()},
        "turns": {name: [_rounded(value) for value in values] for name, values in turns.items()},
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def environment(*packages: str) -> dict[str, Any]:
    """Return the machine and the versions, of these packages too."""
    info = _cpu_info()
    flags = set(info.get("flags", "").split())
    packages = ("tensorflow", "keras", "torch", "numpy", *packages)
    return {
        "cpu": info.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "avx512": "avx512f" in flags,
        "hardware_bfloat16": bool(flags & {"avx512_bf16", "amx_bf16"}),
        "threads": int(surroundings()["OMP_NUM_THREADS"]),
        "TF_ENABLE_ONEDNN_OPTS": surroundings()["TF_ENABLE_ONEDNN_OPTS"],
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _cpu_info() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return {}
    pairs = [line.partition(":") for line in info.read_text().partition("\n\n")[0].split("\n")]
    return {name.strip(): value.strip() for name, _, value in pairs}


def show(name: str, section: Mapping[str, Any]) -> None:
    """Print a section's medians and its ratios beside their targets."""
    print(f"\n{name}: {section['settings']}")
    for contender, median in section["medians"].items():
        print(f"  {contender:40} {median:10,.4g}")
    for pair, found in section["ratios"].items():
        bound = f"<= {found['at_most']}" if "at_most" in found else f">= {found['at_least']}"
        spread = f"{found['low']:.3g}-{found['high']:.3g}"
        reached = "yes" if found["reached"] else "NO"
        print(f"  {pair:40} {found['ratio']:10.4g}  {spread:14} {bound:9} {reached}", flush=True)


def write(path: Path, name: str, section: Mapping[str, Any], *packages: str) -> None:
    """Replace one section of the results file; the others stay as they are.

    packages: whose versions are noted beside the usual ones.
    """
    results = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    results = {
        "environment": environment(*packages),
        "sections": {**results["sections"], name: section},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
