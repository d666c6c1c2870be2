"""Seconds to evaluate CIFAR-10's test set with ResNet-20: one centre view, and ten crops.

    python tests/benchmarks/bench_evaluate.py --turns=3

Needs CIFAR-10 in ../shared. Each measurement is a process of its own, that does what
`--mode=evaluate` does, from after the imports to the written result. Writes
tests/benchmarks/results/bench_evaluate.json.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import turns
import whole_job

DATA = whole_job.SHARED / "tfds"
RESULTS = turns.HERE / "results/bench_evaluate.json"
VIEWS = ("center", "ten_crop")
# Its modules are loaded before the clock starts.
ASK = """
import sys, time
from resnet_keras.main import main
from resnet_keras import evaluate_job
import tensorflow_datasets
began = time.perf_counter()
code = main(sys.argv[1:])
print(f"SECONDS {time.perf_counter() - began}")
sys.exit(code)
"""


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=turns.surroundings(),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def evaluate(run: str, views: str) -> float:
    """Return the seconds of one evaluation; the network's weights do not matter for them."""
    told = _run(["-c", ASK, "--mode=evaluate", "--run_dir=run", f"--views={views}"], run)
    return float(told.split("SECONDS ")[1])


def main() -> None:
    """Measure in turns and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--flagfile={turns.ROOT}/configs/cifar_r20.flags", f"--data_dir={DATA}"]
        _run(["-m", "resnet_keras.main", *flags, "--train_steps=1", "--run_dir=run"], folder)
        measures = {views: functools.partial(evaluate, folder, views) for views in VIEWS}
        seconds = turns.take_turns(measures, arguments.turns)
        metrics = {
            views: json.loads(Path(folder, f"run/evaluation/test_{views}/metrics.json").read_text())
            for views in VIEWS
        }
    targets = [
        turns.Target("center", None, 12.0, at_most=True),
        turns.Target("ten_crop", "center", 10.5, at_most=True),
    ]
    section = turns.summary(
        seconds,
        targets,
        unit="s from after the imports to the written result",
        images={views: found["images"] for views, found in metrics.items()},
        scoring_seconds={views: round(found["seconds"], 2) for views, found in metrics.items()},
    )
    turns.write(RESULTS, "cifar20", section)
    print(json.dumps(section["ratios"], indent=1))


if __name__ == "__main__":
    main()
