"""Evaluations beside what the log says of the same test."""

import pytest
from report_fixtures import evaluated, train, write_evaluation, write_run

from resnet_keras.errors import InputError
from resnet_keras.reporting import evaluations, run_section
from resnet_keras.reporting.document import Paragraph
from resnet_keras.reporting.run_files import read_run
from resnet_keras.reporting.standing import Standing

MEMBER = {"place": "r", "step": 100, "precision": "float32"}


def _run(place, wrong, images, logged=30, of=10_000, **member):
    write_run(place, [train(100), evaluated(100, logged, of)], precision="float32")
    folder = place / "evaluation/test_center"
    write_evaluation(folder, [MEMBER | member], wrong, images)
    return read_run(place)


def _told(run):
    blocks = run_section.section(run, Standing("measured"))
    texts = [block.text for block in blocks if isinstance(block, Paragraph)]
    return [text for text in texts if "counts" in text]


@pytest.mark.parametrize(
    ("wrong", "images", "logged"),
    [(40, 10_000, 30), (20, 10_000, 30), (3, 10, 2), (1_050, 50_000, 1_000)],
)
def test_what_rounding_explains_is_told_and_not_refused(wrong, images, logged, tmp_path):
    """At most 0.1 % of the images, and one in any case."""
    run = _run(tmp_path / "r", wrong, images, logged, images)
    evaluations.check(run)
    (told,) = _told(run)
    assert told.startswith(
        f"At step 100 the log counts {logged:,} wrong, test_center {wrong:,}: other batch sizes"
    )


def test_equal_counts_need_no_word(tmp_path):
    run = _run(tmp_path / "r", 30, 10_000)
    evaluations.check(run)
    assert _told(run) == []


@pytest.mark.parametrize(
    ("wrong", "images", "logged", "of", "sentence"),
    [
        (41, 10_000, 30, 10_000, r"'wrong': 41, and .*log.jsonl has 30 at the same step 100"),
        (19, 10_000, 30, 10_000, r"'wrong': 19, and .*log.jsonl has 30 at the same step 100"),
        (4, 10, 2, 10, r"'wrong': 4, and .*log.jsonl has 2 at the same step 100"),
        (30, 9_999, 30, 10_000, r"'images': 9999, and .*log.jsonl has 10000 at the same step 100"),
    ],
)
def test_an_evaluation_that_the_log_contradicts_is_refused(
    wrong, images, logged, of, sentence, tmp_path
):
    run = _run(tmp_path / "r", wrong, images, logged, of)
    with pytest.raises(InputError, match=sentence):
        evaluations.check(run)


@pytest.mark.parametrize(
    "member",
    [
        {"step": 99},
        {"batchnorm_statistics": "true_average"},
        {"precision": "bfloat16"},
        {"exported": True},
    ],
)
def test_another_measurement_contradicts_nothing(member, tmp_path):
    run = _run(tmp_path / "r", 500, 10_000, **member)
    evaluations.check(run)
    assert _told(run) == []


def test_an_evaluation_of_a_step_that_never_was_is_refused(tmp_path):
    run = _run(tmp_path / "r", 30, 10_000, step=101)
    with pytest.raises(InputError, match=r"is of step 101, and .*log.jsonl ends at 100"):
        evaluations.check(run)


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([{"kind": "warm", "step": 350}], "fell below 80 % at step 350; then the rate is 0.1."),
        ([], "fell below 80 % not within 100 steps."),
    ],
)
def test_a_run_tells_when_its_warmup_ended(records, told, tmp_path):
    flags = {"warmup_until_error": 0.8, "warmup_learning_rate": 0.01, "learning_rate": 0.1}
    for place, asked in (("r", flags), ("other", {"warmup_until_error": 0.0})):
        write_run(tmp_path / place, [*records, train(100)], **asked)
        blocks = run_section.section(read_run(tmp_path / place), Standing("measured"))
        texts = [str(block.text) for block in blocks if isinstance(block, Paragraph)]
        found = [text for text in texts if "training error of 50 steps" in text]
        assert [text.endswith(told) for text in found] == ([True] if place == "r" else [])
