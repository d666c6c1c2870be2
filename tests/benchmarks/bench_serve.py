"""Measure answers of an exported ResNet-50 at 224 beside its peers, and a server under load.

    python tests/benchmarks/bench_serve.py [--only='batch*'] [--turns=5] [--steps=N] [--minutes=5]

Needs the extra `bench`, and ../shared/data/imagenet_sample for the section `load`. Contenders:
our folded export and Keras Applications' `model.export()` in TensorFlow's C++ session, and the
same network by onnxruntime, OpenVINO and PyTorch (eager, channels last). They take strictly
alternating turns, each in a process of its own that sleeps meanwhile; all have the same threads.
Figures are medians over the turns, ratios those of medians, beside the lowest and highest ratio of
a single turn. The bfloat16 sections are left out where the CPU has no instructions for it: there
it is emulated. Every section replaces its part of tests/benchmarks/results/bench_serve.json. Run it
on an idle machine.
"""

import argparse
import fnmatch
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import serve_load  # noqa: E402
import serve_speed  # noqa: E402
from turns import environment, show, write  # noqa: E402

PACKAGES = ("onnxruntime", "openvino", "tensorflow-serving-api")
# Section -> steps a turn.
STEPS = {
    serve_speed.batch32: 4,
    serve_speed.batch1: 100,
    serve_speed.batch32_bfloat16: 4,
    serve_speed.batch1_bfloat16: 100,
}
BFLOAT16 = "bfloat16"


def main() -> None:
    """Measure the sections, print them, write them."""
    sections = {section.__name__: section for section in STEPS}
    names = [*sections, serve_load.load.__name__]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="sections, comma-separated; * is any")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, help="a turn; None is the section's own")
    parser.add_argument("--minutes", type=float, default=5, help="of the section load")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench_serve.json")
    arguments = parser.parse_args()
    patterns = arguments.only.split(",")
    if not all(fnmatch.filter(names, part) for part in patterns):
        parser.error(f"--only={arguments.only}: choose of {', '.join(names)}")
    for name in names:
        if not any(fnmatch.fnmatch(name, part) for part in patterns):
            continue
        if name.endswith(BFLOAT16) and not environment()["hardware_bfloat16"]:
            print(f"\n{name} is left out: this CPU has no bfloat16 instructions.")
            continue
        before = [round(value, 2) for value in os.getloadavg()]
        print(f"\n{name}, load average {before[0]}", flush=True)
        if name in sections:
            measure = sections[name]
            section = measure(arguments.turns, arguments.steps or STEPS[measure])
        else:
            section = serve_load.load(arguments.minutes)
        section["settings"]["load_average_before"] = before
        show(name, section)
        write(arguments.out, name, section, *PACKAGES)


if __name__ == "__main__":
    main()
