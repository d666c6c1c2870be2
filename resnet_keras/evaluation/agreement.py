"""How far two networks agree on the same images, in evaluation and as in training."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from resnet_keras.models.layers import hold_statistics


def compare(model: keras.Model, other: keras.Model, batches: Iterable[Any]) -> dict[str, Any]:
    """Return how equal a network is to the one that it started from; both stay as they are.

    Args:
        model: returns logits [B, classes]; its batch norms are FusedBatchNormalization.
        other: likewise.
        batches: of ``{"image", "label", "weight"}``, weight 0 for what is no image.

    Returns:
        ``images`` (count), ``relative_difference`` (the largest difference of two logits in
        evaluation, divided by the largest logit of ``other``), ``error`` and ``init_error`` (of
        ``model`` and ``other`` in evaluation, in 0..1), ``batch_error`` and ``init_batch_error``
        (likewise, each layer normalising by the batch, as in training).
    """
    names = ("error", "init_error", "batch_error", "init_batch_error")
    wrong = dict.fromkeys(names, 0.0)
    images = difference = largest = 0.0
    for batch in batches:
        logits = [_logits(network, batch, training=False) for network in (model, other)]
        difference = max(difference, np.abs(logits[0] - logits[1]).max())
        largest = max(largest, np.abs(logits[1]).max())
        with hold_statistics():
            logits += [_logits(network, batch, training=True) for network in (model, other)]
        labels, weights = np.asarray(batch["label"]), np.asarray(batch["weight"])
        for name, found in zip(names, logits, strict=True):
            wrong[name] += float(weights[found.argmax(axis=1) != labels].sum())
        images += float(weights.sum())
    errors = {name: count / max(images, 1.0) for name, count in wrong.items()}
    return {"images": round(images), "relative_difference": float(difference / largest), **errors}


def _logits(network: keras.Model, batch: Any, *, training: bool) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(batch["image"], training=training)).astype(np.float64)
