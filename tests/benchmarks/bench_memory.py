"""Peak memory and step time with and without recomputation, each in fresh processes.

    python tests/benchmarks/bench_memory.py --turns=5
    python tests/benchmarks/bench_memory.py --turns=0 --deep_batch=32   # cifar_resnet1202 only

A turn trains cifar_resnet110 for some steps of batch 128, plainly and recomputed, in a process
each. Then cifar_resnet1202 is built, traced and trained, recomputed. The step is the whole one
(forward, backward, momentum), in a loop in the graph; peak memory is the process's resident
maximum, less what it held with TensorFlow loaded and nothing built.
Writes tests/benchmarks/results/bench_memory.json; a part that is not run keeps its last result.
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
RESULTS = Path(__file__).parent / "results" / "bench_memory.json"
TRACING_TARGET = 180.0  # seconds to build and trace cifar_resnet1202
PROGRAM = """
import json, resource, statistics, sys, time
import tensorflow as tf
from resnet_keras.models import build_model
from resnet_keras.training.recompute import recomputed

name, dtype, batch, recompute, steps = json.loads(sys.argv[1])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
loaded = peak()
clock, cpu = time.perf_counter(), time.process_time()
model = build_model(name, dtype=dtype, classifier_activation=None)
built, built_cpu = time.perf_counter() - clock, time.process_time() - cpu
clock = time.perf_counter()
forward = recomputed(model) if recompute else lambda x: model(x, training=True)
cut = time.perf_counter() - clock
variables = [variable.value for variable in model.trainable_variables]
momenta = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
images = tf.random.stateless_normal([batch, 32, 32, 3], [0, 0])
labels = tf.range(batch) % 10

def step(index):
    with tf.GradientTape() as tape:
        logits = tf.cast(forward(images), tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, variables)
    for variable, momentum, gradient in zip(variables, momenta, gradients):
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=momentum.handle, lr=0.01, grad=gradient, momentum=0.9
        )
    return [index + 1]

@tf.function
def train(count):
    tf.while_loop(lambda index: index < count, step, [0], parallel_iterations=1)

clock, cpu = time.perf_counter(), time.process_time()
train.get_concrete_function(tf.TensorSpec([], tf.int32))
traced, traced_cpu = time.perf_counter() - clock, time.process_time() - cpu
seconds, cpu_seconds = [], []
for _ in range(1 + steps):
    clock, cpu = time.perf_counter(), time.process_time()
    train(tf.constant(1))
    seconds.append(time.perf_counter() - clock)
    cpu_seconds.append(time.process_time() - cpu)
median = statistics.median(seconds[1:])
cpu_first = cpu_seconds[0] - statistics.median(cpu_seconds[1:])
print(json.dumps({
    "build_seconds": built, "build_cpu_seconds": built_cpu, "cut_seconds": cut,
    "python_trace_seconds": traced,
    # TensorFlow optimizes the graph in the first call.
    "trace_seconds": cut + traced + seconds[0] - median,
    "trace_cpu_seconds": traced_cpu + cpu_first,  # on a shared machine the truer figure
    "step_seconds": median, "peak_mib": peak(), "peak_over_loaded_mib": peak() - loaded,
}))
"""


def measure(name: str, dtype: str, batch: int, recompute: bool, steps: int) -> dict[str, float]:
    """Train in a new process; return seconds and MiB."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "1",  # as main.py sets it
    }
    arguments = json.dumps([name, dtype, batch, recompute, steps])
    command = [sys.executable, "-c", PROGRAM, arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured = {key: round(value, 3) for key, value in json.loads(done.stdout).items()}
    kind = "recomputed" if recompute else "plain"
    print(
        f"{name}, {dtype}, batch {batch}, {kind}: build {measured['build_seconds']:.1f} s, "
        f"trace {measured['trace_seconds']:.1f} s (CPU {measured['trace_cpu_seconds']:.1f}), "
        f"step {measured['step_seconds']:.2f} s, "
        f"peak {measured['peak_mib']:,.0f} MiB",
        flush=True,
    )
    return measured


def compare(turns: int, dtype: str, steps: int) -> dict:
    """Return cifar_resnet110's medians, plain and recomputed in turn, and their ratios."""
    name, batch = "cifar_resnet110", 128
    runs: dict[str, list[dict[str, float]]] = {"plain": [], "recomputed": []}
    for _ in range(turns):
        for kind, measured in runs.items():
            measured.append(measure(name, dtype, batch, kind == "recomputed", steps))
    medians = {
        kind: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for kind, measured in runs.items()
    }
    ratios = {
        key: round(medians["recomputed"][key] / medians["plain"][key], 3)
        for key in ("step_seconds", "peak_mib", "peak_over_loaded_mib")
    }
    return {
        "network": name,
        "dtype": dtype,
        "batch": batch,
        "turns": turns,
        "steps_a_turn": steps,
        "medians": medians,
        "recomputed_to_plain": ratios,
        "runs": runs,
    }


def main() -> None:
    """Measure, print a table, write the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="of cifar_resnet110; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=5, help="timed in each turn")
    parser.add_argument("--deep_batch", type=int, default=128, help="0 leaves resnet1202 out")
    parser.add_argument("--deep_steps", type=int, default=2, help="timed, of cifar_resnet1202")
    parser.add_argument("--dtype", default="float32", help="of build_model")
    flags = parser.parse_args()
    log = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if flags.turns:
        log["comparison"] = compare(flags.turns, flags.dtype, flags.steps)
        print(f"{'cifar_resnet110':20} step s  peak MiB  over loaded")
        for kind, row in log["comparison"]["medians"].items():
            print(
                f"{kind:20} {row['step_seconds']:6.2f} {row['peak_mib']:9,.0f} "
                f"{row['peak_over_loaded_mib']:12,.0f}"
            )
        ratios = log["comparison"]["recomputed_to_plain"].values()
        print(f"{'ratio':20} {{:6.2f}} {{:9.2f}} {{:12.2f}}".format(*ratios))
    if flags.deep_batch:
        options = ("cifar_resnet1202", flags.dtype, flags.deep_batch, True, flags.deep_steps)
        measured = measure(*options)
        log["deep"] = {
            "network": options[0],
            "dtype": flags.dtype,
            "batch": flags.deep_batch,
            "steps": flags.deep_steps,
            **measured,
            "build_and_trace_target_seconds": TRACING_TARGET,
        }
        ready = measured["build_seconds"] + measured["trace_seconds"]
        print(f"cifar_resnet1202 ready after {ready:.0f} s (target: {TRACING_TARGET:.0f} s)")
    log["host"] = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average_at_the_end": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{package: version(package) for package in ("tensorflow", "keras", "numpy")},
    }
    log["note"] = "The machine may have been shared: compare ratios; load averages are beside them."
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    main()
