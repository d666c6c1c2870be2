"""Exact error counts: every image once, whatever the batch size and the number of replicas."""

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from resnet_keras.errors import InputError
from resnet_keras.evaluation.progress import watched

TOP5_CLASSES = 6  # with five classes or fewer the top-5 error is 0 whatever the network answers


def make_evaluate(model: keras.Model, strategy: tf.distribute.Strategy) -> Callable:
    """Return a function from evaluation batches to metrics.

    The function takes the padded ``{"image", "label", "weight"}`` batches that ``strategy``
    distributes, how many they are (for the progress bar), and what to call before each (it may
    raise, to end early). It returns a dict: ``images`` (count), ``loss`` (mean cross-entropy),
    ``top1_error`` and, above five classes, ``top5_error`` (in 0..1), and ``wrong`` (the count
    behind top1_error). It is traced once, however often called.

    Args:
        model: returns logits [batch, classes].
        strategy: runs the replicas.
    """

    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        logits = tf.cast(model(batch["image"], training=False), tf.float32)
        labels, weights = batch["label"], batch["weight"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        # Ties count against the network: in_top_k would call a constant answer right.
        own = tf.gather(logits, labels, axis=1, batch_dims=1)[:, None]
        others = tf.reduce_sum(tf.cast(logits >= own, tf.int32), axis=1) - 1
        # A NaN is larger than nothing, so it would pass for the best answer.
        others = tf.where(tf.reduce_all(tf.math.is_finite(logits), axis=1), others, 5)
        wrong = [tf.cast(others >= k, tf.float32) for k in (1, 5)]
        sums = [tf.reduce_sum(weights * x) for x in (losses, *wrong, tf.ones_like(weights))]
        return tf.stack(sums)

    @tf.function(reduce_retracing=True)
    def distributed_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return strategy.reduce(
            tf.distribute.ReduceOp.SUM, strategy.run(step, args=(batch,)), axis=None
        )

    def evaluate(
        batches: Iterable, count: int, watch: Callable[[], None] = lambda: None
    ) -> dict[str, int | float]:
        totals = [0.0] * 4
        for batch in watched(batches, count, "evaluating"):
            watch()
            totals = [
                total + float(new)
                for total, new in zip(totals, distributed_step(batch).numpy(), strict=True)
            ]
        loss, wrong1, wrong5, images = totals
        if not images:
            raise InputError("None of the images to evaluate can be read: look at the data set.")
        metrics: dict[str, int | float] = {
            "images": round(images),
            "wrong": round(wrong1),
            "loss": loss / images,
            "top1_error": wrong1 / images,
        }
        if model.output_shape[-1] >= TOP5_CLASSES:
            metrics["top5_error"] = wrong5 / images
        return metrics

    return evaluate
