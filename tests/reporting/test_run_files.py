"""What a run leaves is read, and refused where it contradicts itself."""

import json
from pathlib import Path

import pytest
from report_fixtures import evaluated, train, write_evaluation, write_run

from resnet_keras.errors import InputError
from resnet_keras.reporting.run_files import (
    Responses,
    Run,
    fingerprint,
    hardware,
    read_evaluation,
    read_run,
)

HEADER = "run,step,layer,name,std,sorted_std\n"
RECORDS = [train(100), evaluated(100, 2_000), train(200), evaluated(200, 900)]


def _lines(place, change):
    lines = (place / "log.jsonl").read_text().splitlines()
    (place / "log.jsonl").write_text("\n".join(change(lines)) + "\n")


def test_a_run_is_read(tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    members = [{"place": "r", "step": 200}]
    write_evaluation(place / "evaluation/test_ten_crop", members, 3, views="ten_crop")
    run = read_run(place)
    assert (run.name, run.step, len(run.records)) == ("r", 200, 4)
    assert run.evaluations["test_ten_crop"].counts == ((3, 3), (0, 4))


def test_a_run_that_is_writing_its_last_line_is_read(tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    with (place / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')
    assert read_run(place).step == 200


def test_a_run_without_a_log_has_no_step(tmp_path):
    place = write_run(tmp_path / "r", [])
    (place / "log.jsonl").unlink()
    assert read_run(place).step == 0


BROKEN = {
    "a changed error": (lambda lines: [*lines[:3], lines[3].replace("0.09", "0.08")],
                        r"Line 4 of .*log.jsonl has 'top1_error': 0.08, but 900 wrong of 10000"),
    "a changed count": (lambda lines: [lines[0], lines[1].replace("2000", "1999"), *lines[2:]],
                        r"Line 2 of .*log.jsonl has 'top1_error': 0.2"),
    "no count": (lambda lines: [*lines[:3], lines[3].replace('"wrong"', '"wrung"')],
                 r"Line 4 of .* lacks a number of 'wrong'"),
    "no images": (lambda lines: [*lines[:3], lines[3].replace("10000", "0")], r"Line 4 of .*lacks"),
    "no training error": (lambda lines: [lines[0].replace('"error"', '"err"')],
                          r"Line 1 of .* lacks a number 'error'"),
    "NaN": (lambda lines: [lines[0].replace("0.2", "NaN")], r"Line 1 of .* lacks a number 'error'"),
    "half a line": (lambda lines: [lines[0], lines[1][:30], *lines[2:]],
                    r"Line 2 of .*log.jsonl is no record"),
    "a list": (lambda lines: ["[1, 2]", *lines], r"Line 1 of .* is no record"),
    "a step again": (lambda lines: [*lines, lines[2]], r"Line 5 of .* has 'step': 200, which"),
    "a step as text": (lambda lines: [lines[0].replace("100", '"1"')],
                       r"Line 1 of .* whole 'step'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_log_that_cannot_be_is_refused_by_its_line(name, tmp_path):
    change, sentence = BROKEN[name]
    place = write_run(tmp_path / "r", RECORDS)
    read_run(place)
    _lines(place, change)
    with pytest.raises(InputError, match=sentence):
        read_run(place)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "top1_error",
            0.2,
            r"metrics.json has 'top1_error': 0.2, but 3 wrong of 10 images are 0.3",
        ),
        ("members", [], r"metrics.json has no 'members'"),
        ("wrong_top5", 1, r"metrics.json lacks a number of 'wrong_top5', 'images', 'top5_error'"),
    ],
)
def test_metrics_that_cannot_be_are_refused_by_their_field(name, value, sentence, tmp_path):
    file = write_evaluation(tmp_path, [{"place": "r", "step": 1}], 3)
    metrics = json.loads(file.read_text()) | {name: value}
    file.write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=sentence):
        read_evaluation(file)


def test_confusions_are_those_of_the_metrics(tmp_path):
    file = write_evaluation(tmp_path, [{"place": "r", "step": 1}], 3)
    table = tmp_path / "confusion.csv"
    table.write_text(table.read_text().replace("cat,3,3", "cat,4,2"))
    with pytest.raises(InputError, match=r"has 'wrong': 3, and confusion.csv beside it counts 2"):
        read_evaluation(file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("run,layer,name,std,sorted_std\nr,1,conv,0.5,0.5\n",
         r"responses.csv has the columns 'run,layer,name,std,sorted_std', not 'run,step,layer"),
        ("", r"responses.csv has the columns '', not 'run,step"),
        (HEADER + "r,100,1,conv,0.5\n", r"Line 2 of .* is no response of the next"),
        (HEADER + "r,1,1,conv,nan,0.5\n", r"Line 2 of .* is no response of the next"),
        # Of two runs of one name, or of two steps.
        (HEADER + "a/r,9,1,c,0.5,0.5\nb/r,9,1,c,0.5,0.5\n", r"Line 3 of .* is no response"),
        (HEADER + "r,9,1,c,0.5,0.5\nr,8,2,c,0.5,0.5\n", r"Line 3 of .* is no response"),
        (HEADER + "r,?,1,conv,0.5,0.5\n", r"Line 2 of .* is no response of the next"),
    ],
)  # fmt: skip
def test_responses_that_do_not_tell_their_step_are_refused(text, sentence, tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    (place / "responses").mkdir()
    file = place / "responses/responses.csv"
    file.write_text(HEADER + "x/r,100,1,a,0.5,0.75\nx/r,100,2,b,0.75,0.5\n")
    assert read_run(place).responses == {"r": Responses(100, (0.5, 0.75))}
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_run(place)


@pytest.mark.parametrize("content", ["{", "[]", '{"flags": {}}', "\x00"])
def test_a_damaged_configuration_is_refused(content, tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    (place / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_run(place)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"true,cat\n"])
@pytest.mark.parametrize(
    "name", ["evaluation/test_center/confusion.csv", "responses/responses.csv"]
)
def test_a_table_that_a_crash_left_empty_or_binary_is_named(name, content, tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    write_evaluation(place / "evaluation/test_center", [{"place": "r", "step": 1}], 3)
    (place / "responses").mkdir()
    (place / name).write_bytes(content)
    with pytest.raises(InputError, match=str(place / name)):
        read_run(place)


def test_a_fingerprint_is_of_the_texts_alone(tmp_path):
    place = write_run(tmp_path / "r", RECORDS)
    write_evaluation(place / "evaluation/test_center", [{"place": "r", "step": 1}], 3)
    found = fingerprint(place)
    (place / "ckpt-200.index").write_text("weights")
    assert fingerprint(place) == found
    other = write_run(tmp_path / "other", RECORDS)
    write_evaluation(other / "evaluation/test_center", [{"place": "r", "step": 1}], 3)
    assert fingerprint(other) == found
    for name in ("log.jsonl", "config.json", "evaluation/test_center/metrics.json"):
        before = (place / name).read_text()
        (place / name).write_text(before.replace("1", "7", 1))
        assert fingerprint(place) != found
        (place / name).write_text(before)


def test_all_machines_of_a_run_are_told():
    first = {"cpu": "a CPU"}
    run = Run(Path("r"), {}, {"replicas": 2}, [first, first, {"cpu": "another", "cores": 4}], [])
    assert hardware(run) == "a CPU, 2 devices; another with 4 cores, 2 devices"
    gpus = {"cpu": "a CPU", "cores": 96, "gpus": ["V100", "V100"]}
    run = Run(Path("r"), {}, {"replicas": 2}, [gpus, gpus | {"gpus": []}], [])
    assert hardware(run) == (
        "2 x V100 and a CPU with 96 cores, 2 devices; a CPU with 96 cores, 2 devices"
    )
