"""A SavedModel in TensorFlow's C++ session, as TF Serving runs it: a contender of bench_serve.py.

A step is one batch of float images, from memory to probabilities.
"""

import argparse
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from turns import serve_each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="of a version")
    parser.add_argument("--signature", default="predict_tensor")
    parser.add_argument("--batch_size", type=int, default=32)
    arguments = parser.parse_args()
    images = np.random.default_rng(0).uniform(0, 255, (arguments.batch_size, 224, 224, 3))
    images = images.astype(np.float32)
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(arguments.folder))
    definition = meta.signature_def[arguments.signature]
    (given,), (asked,) = definition.inputs.values(), definition.outputs.values()
    # TF Serving calls the session without Python's checks between.
    run = session._make_callable_from_options(
        config_pb2.CallableOptions(feed=[given.name], fetch=[asked.name])
    )
    assert run(images)[0].shape == (arguments.batch_size, 1000)
    serve_each(lambda: run(images))


if __name__ == "__main__":
    main()
