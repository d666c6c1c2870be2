"""Reduce a network's gradients between the workers of TF_CONFIG; the chief prints the seconds."""

import argparse
import json
import os
import time

import tensorflow as tf
from steps_ours import make_strategy

from resnet_keras.models import build_model

REDUCTIONS = 10  # a turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    strategy = make_strategy("multi_worker")
    shapes = [variable.shape for variable in build_model(arguments.network).trainable_variables]
    gradients = [tf.random.normal(shape) for shape in shapes]

    def replica() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        reduced = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return tf.add_n([tf.reduce_sum(gradient) for gradient in reduced])

    @tf.function
    def reduce() -> None:
        for _ in tf.range(REDUCTIONS):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            strategy.run(replica)

    reduce()
    seconds = []
    for _ in range(arguments.turns):
        start = time.perf_counter()
        reduce()
        seconds.append((time.perf_counter() - start) / REDUCTIONS)
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
        count = sum(shape.num_elements() for shape in map(tf.TensorShape, shapes))
        print(json.dumps({"bytes": 4 * count, "seconds": seconds}))


if __name__ == "__main__":
    main()
