"""Measure training beside its peers, and what the loop costs beyond its steps.

    python tests/benchmarks/bench_train.py [--only='cifar20,loop_*'] [--turns=5] [--steps=N]

Needs the extra `bench` (PyTorch) and ../shared/data with tfds/cifar10 and imagenette_mini. The
contenders of a section take strictly alternating turns, each in a process of its own that sleeps
meanwhile; all have the same threads and environment. Figures are medians over the turns, ratios
those of medians, beside the lowest and highest ratio of a single turn. Run it on an idle machine:
neighbours hurt PyTorch's threads, which wait for each other at every operation, more than ours.
Every section replaces its part of tests/benchmarks/results/bench_train.json.
"""

import argparse
import fnmatch
import os
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import train_loop  # noqa: E402
import train_restart  # noqa: E402
import train_speed  # noqa: E402
import train_workers  # noqa: E402
from turns import environment, show, write  # noqa: E402


class Default(NamedTuple):
    """What a section measures in a turn; 0 where a section has no such thing."""

    steps: int
    batch_size: int


# Without bfloat16 instructions it is emulated, 20 times slower than float32.
FAST_BFLOAT16 = environment()["hardware_bfloat16"]
SECTIONS = {
    train_speed.resnet50: Default(2, 32),
    train_speed.resnet50_bfloat16: Default(2, 32) if FAST_BFLOAT16 else Default(1, 8),
    train_speed.cifar20: Default(60, 128),
    train_speed.cifar20_bfloat16: Default(60, 128) if FAST_BFLOAT16 else Default(2, 128),
    train_loop.loop_resnet50: Default(6, 32),
    train_loop.loop_cifar20: Default(60, 128),
    train_loop.loop_checkpoint_resnet50: Default(2, 32),
    train_loop.loop_checkpoint_cifar20: Default(60, 128),
    train_loop.loop_evaluation: Default(0, 0),
    train_workers.workers_resnet50: Default(3, 32),
    train_workers.workers_cifar20: Default(40, 128),
    train_restart.restart: Default(0, 32),
}


def main() -> None:
    """Measure the sections, print them, write them."""
    sections = {section.__name__: section for section in SECTIONS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(sections), help="sections, comma-separated; * is any"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, help="a turn; None is the section's own")
    parser.add_argument("--batch_size", type=int, help="None is the section's own")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench_train.json")
    arguments = parser.parse_args()
    patterns = arguments.only.split(",")
    chosen = [name for name in sections if any(fnmatch.fnmatch(name, part) for part in patterns)]
    if not all(fnmatch.filter(sections, part) for part in patterns):
        parser.error(f"--only={arguments.only}: choose of {', '.join(sections)}")
    for name in chosen:
        default = SECTIONS[sections[name]]
        load = [round(value, 2) for value in os.getloadavg()]
        print(f"\n{name}, load average {load[0]}", flush=True)
        section = sections[name](
            arguments.turns,
            arguments.steps or default.steps,
            arguments.batch_size or default.batch_size,
        )
        section["settings"]["load_average_before"] = load
        show(name, section)
        write(arguments.out, name, section)


if __name__ == "__main__":
    main()
