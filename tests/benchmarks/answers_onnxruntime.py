"""onnxruntime's inference of an ONNX file: a contender of bench_serve.py."""

import argparse
import os
from pathlib import Path

import numpy as np
import onnxruntime
from turns import serve_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(
        str(arguments.onnx), options, providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    images = np.random.default_rng(0).normal(size=given.shape).astype(np.float32)
    serve_each(lambda: session.run(None, {given.name: images}))


if __name__ == "__main__":
    main()
