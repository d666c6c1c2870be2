"""Section of bench_train.py: seconds from a killed run's restart to its first step."""

import functools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import whole_job
from turns import HERE, Target, summary, surroundings, take_turns

IMAGES = 10_000
POSITIONS = (0, 5_000, 9_900)  # images of the epoch; 0 is a new run
TIMEOUT = 600  # seconds


def restart(turns: int, _steps: int, batch_size: int) -> dict[str, Any]:
    """Restart ResNet-50 at positions of an epoch, on a folder of files and on TFRecord shards."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        photographs = whole_job.photographs(place / "photographs", IMAGES)
        files = whole_job.resnet50_flags(
            photographs, steps=100_000, log_every=1, batch_size=batch_size
        )
        sources = {"folder": files, "tfrecord": _as_records(files, photographs, place)}
        measures = {}
        for source, flags in sources.items():
            runs = _runs(place / source, flags, batch_size)
            for position, run in runs.items():
                step = position // batch_size + 1
                measures[f"{source}_at_{position}"] = functools.partial(
                    _first_step, flags, run, step
                )
        seconds = take_turns(measures, turns)
    targets = [Target(f"{source}_at_5000", None, 30.0, at_most=True) for source in sources]
    pairs = [(f"{source}_at_9900", f"{source}_at_5000") for source in sources]
    grown = {f"{a} - {b}": _median_difference(seconds[a], seconds[b]) for a, b in pairs}
    return summary(
        seconds,
        targets,
        unit="s from the start of the process to the log's line of the first step",
        images=IMAGES,
        batch_size=batch_size,
        grown_by_seconds=grown,
    )


def _median_difference(left: list[float], right: list[float]) -> float:
    differences = sorted(a - b for a, b in zip(left, right, strict=True))
    return round(differences[len(differences) // 2], 3)


def _as_records(files: list[str], photographs: Path, place: Path) -> list[str]:
    """Prepare the photographs as TFRecord shards and return the flags to train on them."""
    given = ["--dataset=folder", f"--data_dir={photographs}"]
    made = ["--output_dir=" + str(place / "prepared"), "--output_name=photographs"]
    _python("-m", "resnet_keras.main", "--mode=prepare", "--recipe=imagenet", *given, *made)
    ours = [flag for flag in files if flag not in given]
    data = ["--dataset=photographs", f"--data_dir={place / 'prepared'}", "--recipe=imagenet"]
    return [*ours, *data]


def _runs(place: Path, flags: list[str], batch_size: int) -> dict[int, Path | None]:
    """Return for each position the folder of a run that stands there; None for a new run."""
    begun = place / "begun"
    begun.mkdir(parents=True)
    whole_job.run([*flags, "--train_steps=1"], folder=begun)
    moved = {position: place / str(position) for position in POSITIONS if position}
    copies = [f"{folder}:{position // batch_size}" for position, folder in moved.items()]
    script = [str(HERE / "move_run.py"), f"--run={begun / 'run'}", "--classes=10"]
    _python(*script, "--copies", *copies)
    return {position: moved.get(position) for position in POSITIONS}


def _first_step(flags: list[str], run: Path | None, step: int) -> float:
    """Return the seconds until the log tells of ``step``, the first after the run's checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        if run:
            shutil.copytree(run, Path(folder, "run"))
        running = whole_job.Running(flags, folder=Path(folder))
        try:
            while time.perf_counter() - running.began < TIMEOUT:
                if any(record["step"] == step for record in running.records()):
                    return time.perf_counter() - running.began
                time.sleep(0.02)
            raise RuntimeError(f"No step within {TIMEOUT} s.")
        finally:
            running.kill()


def _python(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, *arguments],
        env=surroundings(),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
