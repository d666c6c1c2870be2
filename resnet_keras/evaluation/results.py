"""Write what an evaluation found: every answer, the classes, the confusions, the numbers."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from resnet_keras.evaluation import answers
from resnet_keras.evaluation.scores import Scores


def write(
    folder: Path,
    scores: Scores,
    metrics: Mapping[str, Any],
    *,
    class_names: tuple[str, ...],
    names: np.ndarray | None,
) -> np.ndarray:
    """Write the files of an evaluation; return the confusion matrix, int64, true class by row.

    * ``predictions.npz``: of each readable image ``index`` (int64, in the stored order),
      ``probabilities`` (float32 [N, classes]), ``label`` and ``predicted`` (int32), ``name``
      (where known), and ``class_names``;
    * ``per_class.csv``: images, errors, 95 % interval and the likeliest wrong answer;
    * ``confusion.csv``: counts, a row a true class;
    * ``metrics.json``: ``metrics``, which a report reads. It is written last.

    Args:
        folder: exists.
        scores: of all images.
        metrics: JSON-able.
        class_names: in label order.
        names: of all images, where they have any.
    """
    index = np.flatnonzero(scores.readable)
    labels = scores.labels[index]
    predicted = answers.predicted(scores.log_probabilities[index], labels)
    counts = answers.confusion(labels, predicted, len(class_names))
    found: dict[str, Any] = {
        "index": index,
        "probabilities": scores.probabilities[index],
        "label": labels,
        "predicted": predicted,
        "class_names": np.asarray(class_names),
    }
    if names is not None:
        found["name"] = np.asarray(names)[index]
    _whole(folder / "predictions.npz", lambda file: np.savez(file, **found))
    rows = [
        [
            row["class"],
            row["images"],
            row["wrong"],
            row["error"],
            *(row["interval"] or (None, None)),
            row["rival"],
        ]
        for row in answers.by_class(counts, class_names)
    ]
    header = ["class", "images", "wrong", "error", "low", "high", "taken_for"]
    write_csv(folder / "per_class.csv", header, rows)
    write_csv(
        folder / "confusion.csv",
        ["true \\ predicted", *class_names],
        ([name, *row.tolist()] for name, row in zip(class_names, counts, strict=True)),
    )
    content = (json.dumps(metrics, indent=1) + "\n").encode()
    _whole(folder / "metrics.json", lambda file: file.write(content))
    return counts


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, None as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    _whole(file, lambda stream: stream.write(text.getvalue().encode()))


def _whole(file: Path, fill: Callable[[IO[bytes]], Any]) -> None:
    """Write a file under another name and rename it, so that it is whole or the one before."""
    written = file.with_name(f".{file.name}.new")
    with written.open("wb") as stream:
        fill(stream)
    written.rename(file)
