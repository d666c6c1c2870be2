"""Our compiled step on a batch in memory, as a contender of bench_train.py: the bare step."""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf
from turns import serve

from pipelines.loader import keep_freed_memory, options
from resnet_keras.models import build_model
from resnet_keras.training.optimizers import MomentumSGD
from resnet_keras.training.step import make_train_function
from resnet_keras.training.strategy import make_strategy

STEPS_PER_CALL = 10  # as `main` has it


def in_memory(batch_size: int, size: int, classes: int) -> tf.data.Dataset:
    random = np.random.default_rng(0)
    batch = {
        "image": random.normal(size=(batch_size, size, size, 3)).astype("float32"),
        "label": random.integers(classes, size=batch_size).astype("int32"),
        "weight": np.ones(batch_size, "float32"),
    }
    return tf.data.Dataset.from_tensors(batch).cache().repeat().with_options(options())


def build(
    network: str, size: int, classes: int, precision: str = "float32"
) -> tuple[tf.distribute.Strategy, keras.Model, MomentumSGD]:
    """Return what a job on one device trains."""
    strategy = make_strategy("one_device")
    with strategy.scope():
        model = build_model(
            network,
            classes=classes,
            input_shape=(size, size, 3),
            classifier_activation=None,
            dtype="mixed_bfloat16" if precision == "bfloat16" else "float32",
        )
        optimizer = MomentumSGD(0.9, 1e-4)
        optimizer.build(model.trainable_variables)
    return strategy, model, optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()

    keep_freed_memory()  # as the training stream does
    size, classes = arguments.image_size, arguments.classes
    strategy, model, optimizer = build(arguments.network, size, classes, arguments.precision)
    train = make_train_function(
        model,
        optimizer,
        strategy,
        batch_size=arguments.batch_size,
        seed=0,
        steps_per_call=STEPS_PER_CALL,
    )
    data = in_memory(arguments.batch_size, size, classes)
    iterator = iter(strategy.experimental_distribute_dataset(data))
    rates = [0.01] * STEPS_PER_CALL

    def run(steps: int) -> float:
        train(iterator, rates, 1, 0)  # a process that has slept is cold
        start = time.perf_counter()
        for first in range(0, steps, STEPS_PER_CALL):
            train(iterator, rates, min(STEPS_PER_CALL, steps - first), first)
        return time.perf_counter() - start

    run(1)
    serve(run)


if __name__ == "__main__":
    main()
