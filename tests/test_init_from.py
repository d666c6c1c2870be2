"""--init_from on the command line: trained from, logged, resumed, got wrong."""

import dataclasses
import json

import numpy as np
import processes
import pytest

from resnet_keras import command_line, config, validation
from resnet_keras.errors import InputError
from resnet_keras.main import main

DIGITS = ["--dataset=digits", "--batch_size=32", "--lr_schedule=piecewise"]
SHALLOW = {
    kind: [*DIGITS, f"--model=cifar_{kind}8", "--run_dir=shallow", "--export=false",
           "--train_steps=60", "--checkpoint_every=60", "--learning_rate=0.05"]
    for kind in ("resnet", "plain")
}  # fmt: skip


def _deep(kind: str, *more: str) -> list[str]:
    return [*DIGITS, f"--model=cifar_{kind}14", "--run_dir=run", "--export=false",
            "--init_from=shallow", "--log_every=1", *more]  # fmt: skip


def _kill_when(moment, arguments: list[str], folder) -> None:
    with processes.running(arguments, folder) as (process,):
        process.catch(moment)
        process.kill()


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    """Give a folder for each kind, with a run of 8 layers that has come to step 60."""

    class Folders(dict):
        def __missing__(self, kind):  # trained when it is first asked for
            self[kind] = tmp_path_factory.mktemp(kind)
            processes.done_here(SHALLOW[kind], self[kind])
            return self[kind]

    return Folders()


@pytest.mark.parametrize("kind", [pytest.param("resnet", marks=pytest.mark.slow), "plain"])
def test_a_deeper_run_starts_where_the_shallower_one_ended(shallow, kind):
    folder = shallow[kind]
    processes.done_here(_deep(kind, "--train_steps=1"), folder)
    start = processes.records(folder / "run")[0]
    assert {name: start[name] for name in ("kind", "step", "init_from", "init_step")} == {
        "kind": "start", "step": 0, "init_from": "shallow", "init_step": 60,
    }  # fmt: skip
    assert (start["copied"], start["added"], start["images"]) == (8, 6, 1280)
    # The claim: equal answers in evaluation, equal training error at the start.
    assert start["relative_difference"] < 1e-4
    assert start["error"] == start["init_error"]
    assert start["batch_error"] == pytest.approx(start["init_batch_error"], abs=0.05)
    assert start["batch_error"] < 0.5  # of ten classes: something had been learnt


@pytest.mark.slow
def test_killed_it_starts_over_and_resumed_it_keeps_its_own_weights(shallow):
    folder = shallow["resnet"]
    run = folder / "killed"
    arguments = _deep("resnet", "--run_dir=killed", "--train_steps=6", "--checkpoint_every=3",
                      "--export=true", "--export_dir=out/deep")  # fmt: skip
    _kill_when(lambda: processes.records(run), arguments, folder)
    assert processes.saved_step(run) == 0
    (first,) = [r for r in processes.records(run) if r["kind"] == "start"]
    _kill_when((run / "checkpoint").is_file, arguments, folder)
    (folder / "shallow").rename(folder / "gone")  # it may be gone by then
    try:
        told = processes.done(arguments, folder)
    finally:
        (folder / "gone").rename(folder / "shallow")
    assert "steps 3 to 6" in told
    records = processes.records(run)
    assert [r["kind"] for r in records] == ["start", *["train"] * 6, "test"]
    assert records[0] == first
    manifest = json.loads((folder / "out/deep/1/manifest.json").read_text())
    assert manifest["config"]["init_from"] == "shallow"


@pytest.mark.slow
def test_the_same_network_goes_on_from_the_newest_checkpoint(shallow, monkeypatch):
    folder = shallow["plain"]
    on = folder / "on"
    run = [*SHALLOW["plain"], "--run_dir=on", "--init_from=shallow",
           "--learning_rate=0", "--checkpoint_every=1"]  # fmt: skip
    _kill_when((on / "checkpoint").is_file, run, folder)
    old, new = (processes.tensors(folder / name) for name in ("shallow", "on"))
    weights = [name for name in old if name.startswith("model/") and "moving" not in name]
    assert len(weights) > 20
    for name in weights:  # without a rate, training moves the statistics alone
        assert old[name].tobytes() == new[name].tobytes(), name
    start = processes.records(on)[0]
    assert (start["copied"], start["added"], start["relative_difference"]) == (8, 0, 0)
    assert start["batch_error"] == start["init_batch_error"]
    # A run is evaluated as it is, whatever it began with.
    monkeypatch.chdir(folder)
    assert command_line.parse(["--mode=evaluate", "--run_dir=on"]).init_from == ""


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--model=cifar_resnet14"], "block=plain (now basic)"),
        (["--model=cifar_plain8", "--classes=3,4"], "other classes than digits"),
        (["--image_size=24"], "images of 32 pixels a side, not 24: give --image_size=32"),
    ],
)
def test_what_cannot_be_started_from_costs_one_sentence_and_no_run(
    shallow, monkeypatch, capsys, changed, told
):
    folder = shallow["plain"]
    monkeypatch.chdir(folder)
    (folder / "kept").mkdir(exist_ok=True)
    (folder / "kept/log.jsonl").write_text("a run's\n")
    assert main([*_deep("plain"), "--run_dir=kept", "--restart", *changed]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert told in sentence
    assert (folder / "kept/log.jsonl").read_text() == "a run's\n"


def test_a_start_is_a_run_with_a_checkpoint_and_the_only_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = dataclasses.asdict(config.Config(model="cifar_resnet8", dataset="digits"))
    (tmp_path / "runs/cifar_resnet8_digits").mkdir(parents=True)
    (tmp_path / "runs/cifar_resnet8_digits/config.json").write_text(json.dumps({"flags": own}))
    (tmp_path / "runs/cifar_resnet8_digits/checkpoint").touch()
    for arguments, told in (
        (["--mode=evaluate", "--init_from=a"], "leave it out with --mode=evaluate"),
        (["--mode=export", "--init_from=a"], "leave it out with --mode=export"),
        (["--init_weights=b.npz", "--init_from=a"], "two starts: give one"),
    ):
        with pytest.raises(InputError, match=told):
            command_line.parse([*DIGITS, "--model=cifar_resnet8", *arguments])
    parsed = command_line.parse([*_deep("resnet"), "--init_from=~/a"])
    assert not parsed.init_from.startswith("~")
    assert "init_from" not in config.immaterial(parsed)
    run = tmp_path / "shallow"
    for names in ((), ("config.json",), ("config.json", "checkpoint")):
        run.mkdir(exist_ok=True)
        for name in names:
            (run / name).touch()
        parsed = command_line.parse(_deep("resnet"))
        if len(names) < 2:
            with pytest.raises(InputError, match="no run with a checkpoint: name the directory"):
                validation.check_places(parsed)
    validation.check_places(parsed)
    itself = command_line.parse([*_deep("resnet"), "--run_dir=shallow", "--restart"])
    with pytest.raises(InputError, match="in the run itself"):
        validation.check_places(itself)
    (run / "best").mkdir()
    for own in ("shallow", "shallow/best"):
        weights = [*DIGITS, "--model=cifar_resnet8", f"--init_weights={own}", "--restart"]
        with pytest.raises(InputError, match=f"--init_weights={own} is in the run itself"):
            validation.check_places(command_line.parse([*weights, "--run_dir=shallow"]))


def test_a_sample_is_spread_over_the_split():
    from pipelines.splits import ArraySplit, RecordSplit, sample

    labels = np.repeat(np.arange(10, dtype=np.int32), 100)  # as folders are listed: by class
    split = ArraySplit(np.zeros((1000, 1, 1, 3), np.uint8), labels)
    drawn = sample(split, 200, seed=0).labels
    assert np.bincount(drawn, minlength=10).min() > 5
    assert len(np.unique(drawn[:20])) > 4  # within a batch, too
    assert np.array_equal(sample(split, 200, seed=0).labels, drawn)
    assert not np.array_equal(sample(split, 200, seed=1).labels, drawn)
    counts = np.array([3, 50, 0, 47])
    shards = RecordSplit(("a", "b", "c", "d"), np.zeros(4, np.int64), counts, parse=lambda x: x)
    shares = sample(shards, 33, seed=0).counts
    assert shares.sum() == 33
    assert (np.abs(shares - 0.33 * counts) <= 1).all()
    assert np.array_equal(sample(shards, 100, seed=0).counts, counts)
