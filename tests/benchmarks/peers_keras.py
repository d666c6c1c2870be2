"""The training of a Keras user, `compile` and `fit`, as a contender of bench_train.py.

resnet50 is Keras Applications' own; cifar_resnet20 is our network with Keras's BatchNormalization
in place of the fused one, as a Keras user would write it. `fit` runs with its defaults, but
without the progress bar. Momentum SGD with Keras's own (decoupled) weight decay.
"""

import argparse
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from turns import serve


class Clock(keras.callbacks.Callback):
    """Time the steps of a `fit` after its first, which opens the data."""

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0:
            self._start = time.perf_counter()
        self.seconds = time.perf_counter() - self._start


def resnet50() -> keras.Model:
    return keras.applications.ResNet50(weights=None, classifier_activation=None)


def cifar_resnet20() -> keras.Model:
    from resnet_keras.models import build_model  # here: the peer above needs nothing of ours

    def stock(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.BatchNormalization):
            return keras.layers.BatchNormalization.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    fused = build_model("cifar_resnet20", classifier_activation=None)
    return keras.models.clone_model(fused, clone_function=stock)


NETWORKS = {"resnet50": resnet50, "cifar_resnet20": cifar_resnet20}


def in_memory(batch_size: int, size: int) -> tf.data.Dataset:
    images = np.random.default_rng(0).normal(size=(batch_size, size, size, 3)).astype("float32")
    labels = np.random.default_rng(0).integers(1000, size=batch_size)
    return tf.data.Dataset.from_tensors((images, labels)).cache().repeat()


def cifar(file: Path, batch_size: int) -> tf.data.Dataset:
    stored = np.load(file)
    images, labels = stored["images"], stored["labels"]
    mean = images.mean(axis=0, dtype=np.float64).astype("float32")

    def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(image, tf.float32) - mean
        image = tf.image.random_crop(tf.pad(image, [[4, 4], [4, 4], [0, 0]]), [32, 32, 3])
        return tf.image.random_flip_left_right(image), label

    data = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels)).repeat()
    data = data.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet50")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--images", type=Path, help="decoded CIFAR-10; none: one batch in memory")
    options = parser.parse_args()

    model = NETWORKS[options.network]()
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    if options.images:
        data = cifar(options.images, options.batch_size)
    else:
        data = in_memory(options.batch_size, options.image_size)

    def run(steps: int) -> float:
        clock = Clock()
        model.fit(data, steps_per_epoch=steps + 1, shuffle=False, verbose=0, callbacks=[clock])
        return clock.seconds

    run(1)
    serve(run)


if __name__ == "__main__":
    main()
