"""What the answers of a network amount to: errors, intervals, classes, confusions."""

import math
from typing import Any

import numpy as np

from resnet_keras.evaluation.metrics import TOP5_CLASSES

Z = 1.959964  # of a 95 % interval


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of an error, in 0..1 (Wilson 1927).

    Unlike wrong / images +- 1.96 standard errors, it holds near 0 and 1, too.
    """
    share, spread = wrong / images, Z * Z / images
    centre = share + spread / 2
    reach = Z * math.sqrt((share * (1 - share) + spread / 4) / images)
    low, high = (centre - reach) / (1 + spread), (centre + reach) / (1 + spread)
    # Rounding must not shut out an error of 0 or 1.
    return (0.0 if wrong == 0 else low), (1.0 if wrong == images else high)


def ranks(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many classes are rated no lower than the true one: 0 is right, int64 [N].

    log_probabilities: float32 [N, classes]. labels: int32 [N]. Ties count against the network, and
    so does an answer with a NaN.
    """
    own = np.take_along_axis(log_probabilities, labels[:, None], axis=1)
    found = np.count_nonzero(log_probabilities >= own, axis=1) - 1
    return np.where(np.isnan(log_probabilities).any(axis=1), log_probabilities.shape[1], found)


def predicted(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class each answer amounts to, int32 [N]; arguments as those of ``ranks``.

    The one rated highest; of equals, one that is not the true class, so that an image's answer is
    right if and only if its rank is 0.
    """
    others = log_probabilities.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    right = ranks(log_probabilities, labels) == 0
    return np.where(right, labels, others.argmax(axis=1)).astype(np.int32)


def count_errors(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a split; arguments as those of ``ranks``.

    ``images`` and ``wrong`` (counts), ``top1_error`` and its ``top1_interval``, ``loss`` (mean
    cross-entropy; None where it is not finite), and, above five classes, ``wrong_top5``,
    ``top5_error``, ``top5_interval``.
    """
    images, found = len(labels), ranks(log_probabilities, labels)
    wrong, wrong5 = int(np.count_nonzero(found >= 1)), int(np.count_nonzero(found >= 5))
    own = np.take_along_axis(log_probabilities, labels[:, None], axis=1)
    loss = -float(own.mean(dtype=np.float64))
    metrics: dict[str, Any] = {
        "images": images,
        "wrong": wrong,
        "top1_error": wrong / images,
        "top1_interval": wilson(wrong, images),
        "loss": loss if math.isfinite(loss) else None,
    }
    if log_probabilities.shape[1] >= TOP5_CLASSES:
        metrics |= {
            "wrong_top5": wrong5,
            "top5_error": wrong5 / images,
            "top5_interval": wilson(wrong5, images),
        }
    return metrics


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Count the images of each true class (row) by predicted class (column), int64."""
    cells = labels.astype(np.int64) * classes + answers
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def by_class(counts: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row a class from a confusion matrix: images, wrong, error, interval, rival.

    rival: the class that its images are most often taken for, "" without errors. Classes without
    images have no error.
    """
    rows: list[dict[str, Any]] = []
    for label, name in enumerate(names):
        images, right = int(counts[label].sum()), int(counts[label, label])
        others = np.delete(counts[label], label)
        rival = int(others.argmax()) if others.any() else -1
        rows.append(
            {
                "class": name,
                "images": images,
                "wrong": images - right,
                "error": (images - right) / images if images else None,
                "interval": wilson(images - right, images) if images else None,
                "rival": names[rival + (rival >= label)] if rival >= 0 else "",
            }
        )
    return rows
