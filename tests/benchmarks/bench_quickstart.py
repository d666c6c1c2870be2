"""Test error and wall time of the quickstart, seed by seed, each as a user's command.

    python tests/benchmarks/bench_quickstart.py --seeds=6

Seed 0 is the shipped one. Writes tests/benchmarks/results/bench_quickstart.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(seed: int) -> dict[str, float]:
    """Train, evaluate and export with one seed, in a directory that is thrown away."""
    command = [sys.executable, "-m", "resnet_keras.main"]
    command += [f"--flagfile={ROOT}/configs/quickstart.flags", f"--seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        told = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
    ((wrong, images),) = re.findall(r"\((\d+) of (\d+) images wrong\)", told.stdout)
    return {"seed": seed, "wrong": int(wrong), "images": int(images), "seconds": round(seconds, 1)}


def main() -> None:
    """Run all seeds and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    runs = []
    for seed in range(parser.parse_args().seeds):
        runs.append(run(seed))
        error = 100 * runs[-1]["wrong"] / runs[-1]["images"]
        print(f"seed {seed}: test error {error:.2f} %, {runs[-1]['seconds']:.0f} s", flush=True)
    host = {
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_the_end": os.getloadavg(),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("tensorflow", "keras")},
    }
    results = ROOT / "tests/benchmarks/results/bench_quickstart.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"host": host, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
