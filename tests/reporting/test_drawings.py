"""What figures show, by their text."""

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
