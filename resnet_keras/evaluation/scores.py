"""Probabilities of every image of a split: softmax averaged in float32 over views and passes.

In logarithms, so that answers still have a rank where a probability is too small for float32.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import pipelines
from pipelines import views
from pipelines.preprocessing import View, single_view
from resnet_keras.errors import InputError
from resnet_keras.evaluation.progress import watched

# [N, h, w, 3] float32 -> logarithms of probabilities [N, classes] float32
Predict = Callable[[tf.Tensor], tf.Tensor]
WHOLE = ("dense", "multi_scale")  # views that show a whole image, of any size, to the network


class Scores(NamedTuple):
    """What a network says of a split, in the images' stored order.

    log_probabilities: float32 [N, classes]. labels: int32 [N]. readable: bool [N]; False where an
    image could not be read, whose row means nothing.
    """

    log_probabilities: np.ndarray
    labels: np.ndarray
    readable: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """float32 [N, classes]."""
        return np.exp(self.log_probabilities)


def view_functions(name: str, recipe: pipelines.Recipe, scales: tuple[int, ...]) -> list[View]:
    """Return the passes over the data that a name of --views stands for, a view function each.

    name: "center", "ten_crop", "dense", "multi_scale" or "multi_crop". scales: shorter sides, one
    a pass of the last two.
    """
    functions: dict[str, list[View]] = {
        "center": [single_view],
        "ten_crop": [views.ten_crop],
        "dense": [views.whole_image(recipe.test_shorter_side)],
        "multi_scale": [views.whole_image(side) for side in scales],
        "multi_crop": [views.crop_grid(side) for side in scales],
    }
    return functions[name]


def log_softmax_of(logits: Callable[[tf.Tensor], tf.Tensor]) -> Predict:
    """Return the float32 log-probabilities behind a network's logits."""
    return lambda images: tf.nn.log_softmax(tf.cast(logits(images), tf.float32))


def make_score(predict: Predict, strategy: tf.distribute.Strategy, classes: int) -> Callable:
    """Return a function from evaluation batches to Scores.

    The function takes the padded ``{"image", "label", "weight"}`` batches that ``strategy``
    distributes, "image" being [B, h, w, 3] or [B, views, h, w, 3], how many batches and how many
    images they are, and what the progress bar says. The softmax of an image's views is averaged.
    Batches may differ in size; of one image each, they may differ in height and width.

    Args:
        predict: images -> log-probabilities, in a replica.
        strategy: runs the replicas.
        classes: number of probabilities.
    """

    def averaged(images: tf.Tensor) -> tf.Tensor:
        if len(images.shape) == 4:
            return predict(images)
        shape = tf.shape(images)
        sides = [known or shape[i] for i, known in enumerate(images.shape[2:], start=2)]
        answers = predict(tf.reshape(images, [-1, *sides]))
        answers = tf.reshape(answers, [shape[0], shape[1], classes])
        return tf.reduce_logsumexp(answers, axis=1) - tf.math.log(tf.cast(shape[1], tf.float32))

    def step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        images, weights = batch["image"], batch["weight"]
        if None in images.shape[1:]:
            # One image; none for a replica beyond the last, and one that could not be read is
            # smaller than a network takes.
            answers = tf.cond(
                tf.reduce_any(weights > 0),
                lambda: averaged(images),
                lambda: tf.zeros([tf.shape(images)[0], classes]),
            )
        else:
            answers = averaged(images)
        return answers, batch["label"], weights

    @tf.function(reduce_retracing=True)
    def distributed_step(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return strategy.run(step, args=(batch,))

    def score(batches: Iterable, count: int, images: int, doing: str = "evaluating") -> Scores:
        found = np.empty([images, classes], np.float32)
        labels, readable = np.empty(images, np.int32), np.zeros(images, bool)
        end = 0
        for batch in watched(batches, count, doing):
            results = map(strategy.experimental_local_results, distributed_step(batch))
            for answers, truth, weights in zip(*results, strict=True):
                # What fills the last batches up lies behind the last image.
                kept = min(len(truth), images - end)
                own = slice(end, end + kept)
                found[own] = answers[:kept]
                labels[own] = truth[:kept]
                readable[own] = weights[:kept] > 0
                end += kept
        if not readable.any():
            raise InputError("None of the images to evaluate can be read: look at the data set.")
        return Scores(found, labels, readable)

    return score


def mean(scores: Iterable[Scores]) -> Scores:
    """Average the probabilities of several passes or networks over the same images, in float32.

    An image counts where all could read it.
    """
    passes = iter(scores)
    total = next(passes)
    count = 1
    for found in passes:
        both = total.readable & found.readable  # what is unreadable has no label
        if not np.array_equal(found.labels[both], total.labels[both]):
            raise ValueError("The scores to be averaged are of different images.")
        total = Scores(
            np.logaddexp(total.log_probabilities, found.log_probabilities), total.labels, both
        )
        count += 1
    averages = total.log_probabilities - np.log(np.float32(count))
    return total._replace(log_probabilities=averages)
