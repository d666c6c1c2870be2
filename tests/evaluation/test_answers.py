"""Errors, intervals and confusions, against published and hand-made numbers."""

import csv
import json

import numpy as np
import pytest

from resnet_keras.evaluation import answers, results
from resnet_keras.evaluation.scores import Scores

CLASSES = ("cat", "dog", "owl", "bat", "rat", "ant")


@pytest.mark.parametrize(
    ("wrong", "images", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
     (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_intervals_are_the_published_ones(wrong, images, low, high):
    assert answers.wilson(wrong, images) == pytest.approx((low, high), abs=5e-5)
    # An interval of the right answers is that of the errors, turned around.
    other = answers.wilson(images - wrong, images)
    assert other == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_an_interval_holds_its_own_error():
    for images in (1, 7, 360, 10_000):
        for wrong in {0, 1, images // 3, images - 1, images}:
            low, high = answers.wilson(wrong, images)
            assert 0 <= low <= wrong / images <= high <= 1


# Six classes; true class, and what the network says of it.
ROWS = [
    (0, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], 0),  # right
    (1, [0.4, 0.3, 0.1, 0.1, 0.05, 0.05], 1),  # second
    (2, [0.3, 0.25, 0.02, 0.2, 0.15, 0.08], 5),  # last: wrong even among five
    (3, [0.2, 0.0, 0.2, 0.3, 0.3, 0.0], 1),  # shares the first place: a tie counts against
    (4, [1 / 6] * 6, 5),  # knows nothing
    (5, [np.nan] * 6, 6),  # is no answer
]
LABELS = np.array([row[0] for row in ROWS], np.int32)
PROBABILITIES = np.array([row[1] for row in ROWS], np.float32)
with np.errstate(divide="ignore"):
    LOGARITHMS = np.log(PROBABILITIES)


def test_ranks_count_ties_and_nan_against_the_network():
    assert answers.ranks(LOGARITHMS, LABELS).tolist() == [row[2] for row in ROWS]


def test_errors_by_hand():
    metrics = answers.count_errors(LOGARITHMS[:5], LABELS[:5])
    assert (metrics["images"], metrics["wrong"], metrics["wrong_top5"]) == (5, 4, 2)
    assert (metrics["top1_error"], metrics["top5_error"]) == (0.8, 0.4)
    expected = -np.log([0.5, 0.3, 0.02, 0.3, 1 / 6]).mean()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert answers.count_errors(LOGARITHMS, LABELS)["loss"] is None
    few = answers.count_errors(LOGARITHMS[:5, :5], LABELS[:5])
    assert "top5_error" not in few


def test_an_answer_is_right_exactly_where_its_rank_is_0():
    told = answers.predicted(LOGARITHMS, LABELS)
    assert told[:4].tolist() == [0, 0, 0, 4]
    assert ((told == LABELS) == (answers.ranks(LOGARITHMS, LABELS) == 0)).all()


def test_the_files_hold_every_readable_image_and_agree(tmp_path):
    readable = np.array([1, 1, 0, 1, 1, 0], bool)
    names = np.array([f"{name}.jpg" for name in "abcdef"])
    scores = Scores(LOGARITHMS, LABELS, readable)
    results.write(tmp_path, scores, {"images": 4}, class_names=CLASSES, names=names)
    with np.load(tmp_path / "predictions.npz") as found:
        assert found["index"].tolist() == [0, 1, 3, 4]
        assert found["name"].tolist() == ["a.jpg", "b.jpg", "d.jpg", "e.jpg"]
        assert found["probabilities"].dtype == np.float32
        np.testing.assert_allclose(found["probabilities"], PROBABILITIES[[0, 1, 3, 4]], rtol=1e-6)
        assert found["label"].tolist() == [0, 1, 3, 4]
        assert found["predicted"].tolist() == [0, 0, 4, 0]
        assert found["class_names"].tolist() == list(CLASSES)
    with (tmp_path / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[1:] == [row[0] for row in rows] == list(CLASSES)
    counts = np.array([row[1:] for row in rows], int)
    expected = np.zeros((6, 6), int)
    expected[[0, 1, 3, 4], [0, 0, 4, 0]] = 1
    np.testing.assert_array_equal(counts, expected)
    with (tmp_path / "per_class.csv").open() as file:
        by_class = {row["class"]: row for row in csv.DictReader(file)}
    assert by_class["dog"]["taken_for"] == "cat"
    assert (by_class["cat"]["wrong"], by_class["cat"]["taken_for"]) == ("0", "")
    assert (by_class["owl"]["images"], by_class["owl"]["error"]) == ("0", "")
    assert float(by_class["rat"]["error"]) == 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"images": 4}
    assert not list(tmp_path.glob(".*"))
