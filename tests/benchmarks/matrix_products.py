"""Large matrix products in TensorFlow, as a contender of bench_train.py: what the cores can do."""

import argparse
import time

import tensorflow as tf
from turns import serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    shape = [arguments.size, arguments.size]
    left, right = (tf.cast(tf.random.normal(shape), arguments.precision) for _ in range(2))
    product = tf.function(lambda: tf.matmul(left, right))

    def run(steps: int) -> float:
        product().numpy()  # a process that has slept is cold
        start = time.perf_counter()
        for _ in range(steps):
            product()
        return time.perf_counter() - start

    run(1)
    serve(run)


if __name__ == "__main__":
    main()
