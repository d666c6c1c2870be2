"""OpenVINO's inference of an ONNX file: a contender of bench_serve.py."""

import argparse
import os
from pathlib import Path

import numpy as np
import openvino
from turns import serve_each

NAMES = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--precision", choices=NAMES, default="float32")
    arguments = parser.parse_args()
    settings = {
        "INFERENCE_PRECISION_HINT": NAMES[arguments.precision],
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        "PERFORMANCE_HINT": "LATENCY",  # all cores for one request
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(arguments.onnx), "CPU", settings)
    request = compiled.create_infer_request()
    images = np.random.default_rng(0).normal(size=tuple(compiled.input(0).shape))
    tensor = openvino.Tensor(images.astype(np.float32))
    request.set_input_tensor(tensor)
    serve_each(request.infer)


if __name__ == "__main__":
    main()
