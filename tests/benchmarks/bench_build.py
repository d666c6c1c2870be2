"""Seconds to build a network, ours beside Keras Applications', each in fresh processes.

    python tests/benchmarks/bench_build.py --turns=5

A turn builds every network once, in a process of its own, so the networks take turns on the same
machine. TensorFlow is imported and warmed with a three-layer model before the clock starts.
Writes tests/benchmarks/results/bench_build.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "bench_build.json"
PEER = "keras.applications.ResNet152(weights=None)"
NETWORKS = {
    PEER: PEER,
    "resnet152": "resnet_keras.build_model('resnet152')",
    "resnet152, Glorot": "resnet_keras.build_model('resnet152', initializer='glorot_uniform')",
    "cifar_resnet1202": "resnet_keras.build_model('cifar_resnet1202')",
}
TARGETS = {"resnet152": 4.0, "cifar_resnet1202": 60.0}  # seconds
PROGRAM = """
import time
import keras, resnet_keras.models.build
inputs = keras.Input((8, 8, 3))
keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(inputs)))
wall, cpu = time.perf_counter(), time.process_time()
model = {expression}
print(len(model.layers), time.perf_counter() - wall, time.process_time() - cpu)
"""


def measure(expression: str) -> tuple[int, float, float]:
    """Return a build's number of layers, wall-clock seconds and CPU seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM.format(expression=expression)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    layers, wall, cpu = done.stdout.split()
    return int(layers), float(wall), float(cpu)


def main() -> None:
    """Measure, print a table, write the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="builds of each network")
    turns = parser.parse_args().turns
    measured: dict[str, list[tuple[int, float, float]]] = {name: [] for name in NETWORKS}
    for turn in range(turns):
        for name, expression in NETWORKS.items():
            measured[name].append(measure(expression))
            _, wall, cpu = measured[name][-1]
            print(f"turn {turn + 1}: {name}: {wall:.2f} s, CPU {cpu:.2f} s", flush=True)
    rows = {
        name: {
            "keras_layers": runs[0][0],
            "median_seconds": round(statistics.median(wall for _, wall, _ in runs), 3),
            "median_cpu_seconds": round(statistics.median(cpu for *_, cpu in runs), 3),
            "seconds": [round(wall, 3) for _, wall, _ in runs],
            "target_seconds": TARGETS.get(name),
        }
        for name, runs in measured.items()
    }
    print(f"{'network':44} layers  median s  CPU s  / peer  target s")
    for name, row in rows.items():
        row["ratio_to_peer"] = round(row["median_seconds"] / rows[PEER]["median_seconds"], 3)
        print(
            f"{name:44} {row['keras_layers']:6} {row['median_seconds']:9.2f} "
            f"{row['median_cpu_seconds']:6.2f} {row['ratio_to_peer']:7.2f}  "
            f"{row['target_seconds'] or '-'}"
        )
    host = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average_at_the_end": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{package: version(package) for package in ("tensorflow", "keras", "numpy")},
    }
    note = "The machine may have been shared: compare ratios; load averages are beside them."
    log = {"turns": turns, "host": host, "note": note, "networks": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
