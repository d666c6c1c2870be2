"""A worker of test_workers.py: 20 steps of the library's loop, then its variables in a file."""

import os
import sys

import keras
import numpy as np

import pipelines
from resnet_keras.training.optimizers import MomentumSGD
from resnet_keras.training.step import make_train_function
from resnet_keras.training.strategy import (
    average_statistics,
    every_workers,
    make_strategy,
    read_cluster,
)

BATCH, STEPS = 32, 20


def main(norm: bool, file: str) -> None:
    strategy = make_strategy("auto", read_cluster(os.environ.get("TF_CONFIG")))
    replicas = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(3)
    with strategy.scope():
        image = keras.Input((32, 32, 3))
        x = keras.layers.Rescaling(1 / 64)(image)  # for a loss that falls smoothly
        for channels in (8, 8, 16):
            x = keras.layers.Conv2D(channels, 3, strides=2)(x)
            x = keras.layers.BatchNormalization()(x) if norm else x
            x = keras.layers.Activation("relu")(x)
        model = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
        optimizer = MomentumSGD(0.9, 1e-4)
        optimizer.build(model.trainable_variables)
    train = make_train_function(
        model, optimizer, strategy, batch_size=BATCH, seed=3, steps_per_call=5
    )
    source = pipelines.open_source("digits")
    recipe = pipelines.recipe(pipelines.describe("digits").recipe, image_size=32)
    batches = strategy.distribute_datasets_from_function(
        lambda context: pipelines.train_batches(
            source, recipe, batch_size=BATCH // replicas, seed=3,
            shard_index=context.input_pipeline_id, shard_count=context.num_input_pipelines,
        )
    )  # fmt: skip
    iterator = iter(batches)
    losses = []
    for step in range(0, STEPS, 5):
        losses += [row[0] for row in train(iterator, [0.02] * 5, 5, step).sums]

    def own() -> list[np.ndarray]:
        values = [strategy.experimental_local_results(v.value) for v in model.variables]
        return [value[0].numpy() for value in values]

    before = own()
    average_statistics(strategy, model)()
    after = own()
    found = {f"before_{v.path}": value for v, value in zip(model.variables, before, strict=True)}
    found |= {f"after_{v.path}": value for v, value in zip(model.variables, after, strict=True)}
    np.savez(file, losses=losses, **found)
    every_workers(strategy, 0.0)


if __name__ == "__main__":
    main(sys.argv[1] == "norm", sys.argv[2])
