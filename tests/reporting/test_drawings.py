"""What figures show, by their text."""

import dataclasses
import re
from pathlib import Path

from report_fixtures import DATA, FLAGS, evaluated, train

from resnet_keras.reporting import drawings
from resnet_keras.reporting.run_files import Run


def _ticks(*runs):
    drawing = drawings.curves("figure", [(run.name, run) for run in runs], losses=False)
    (panel,) = drawing.panels
    return [int(text.replace(",", "")) for text in re.findall(r">([\d,]+,000)</text>", panel)]


def _run(name, *records):
    return Run(Path(name), FLAGS, DATA, [], list(records))


def test_a_run_begins_where_the_one_shown_that_it_started_from_ended():
    """3,000 and 1,000 iterations more; after one that is not shown, it begins at 0."""
    first = _run("first", *(train(step) for step in range(100, 3_001, 100)), evaluated(3_000, 5))
    start = {"kind": "start", "step": 0, "init_from": "first", "init_step": 3_000}
    then = _run("then", start, *(train(step) for step in range(100, 1_001, 100)))
    assert max(_ticks(first, then)) == 4_000
    assert max(_ticks(then)) == 1_000


def test_a_caption_says_what_is_there():
    first = _run("first", train(40_000), evaluated(40_000, 5))
    start = {"kind": "start", "step": 0, "init_from": "first", "init_step": 40_000}
    then = _run("then", start, train(100))
    plain = dataclasses.replace(first, place=Path("p"), flags=FLAGS | {"model": "cifar_plain20"})

    def said(*runs):
        caption = drawings.curves("x", [(run.name, run) for run in runs]).caption
        sentences = ("plain nets left", "Light vertical lines", "A run that started from another")
        return [sentence in caption for sentence in sentences]

    assert said(then) == [False, False, False]
    assert said(first) == [False, True, False]  # the rate drops at 32,000
    assert said(first, plain) == [True, True, False]
    assert said(first, then) == [False, True, True]
