"""--init_weights on the command line: evaluated, exported, trained from, resumed, got wrong."""

import json
import subprocess
import sys

import numpy as np
import processes
import pytest

from resnet_keras import command_line, config, validation
from resnet_keras.errors import InputError
from resnet_keras.main import main
from resnet_keras.models import architecture, build_model, load_weights

DIGITS = ["--dataset=digits", "--model=cifar_resnet8"]
# Keras 3.15 copies variables with np.array(variable), which NumPy 2 finds out of date.
NUMPY = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _main(*arguments, cwd) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "resnet_keras.main", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_others_weights_make_others_number_of_mistakes(tmp_path, shared):
    """9,173 of 10,000 right: measured in PyTorch by those who trained it."""
    file = shared / "weights/cifar_resnet20_option_a_torch_names.npz"
    told = processes.done_here(
        ["--mode=evaluate", f"--init_weights={file}", "--model=cifar_resnet20",
         "--dataset=cifar10", f"--data_dir={shared}/data/tfds",
         "--channel_mean=0.485,0.456,0.406", "--channel_std=0.229,0.224,0.225"],
        tmp_path,
    )  # fmt: skip
    assert "PyTorch names" in told
    assert "(827 of 10,000 images wrong)" in told


@NUMPY
@pytest.mark.slow
def test_a_run_starts_from_weights_and_resumes_from_its_own(tmp_path):
    model = build_model("cifar_resnet8")
    model.save_weights(tmp_path / "start.weights.h5")
    # Without a learning rate, training moves the statistics alone.
    run = [*processes.TINY, "--init_weights=start.weights.h5", "--learning_rate=0"]
    run.append("--export=false")
    told = processes.done([*run, "--train_steps=2"], tmp_path)
    assert "Weights of start.weights.h5: weights of resnet_keras." in told
    saved = processes.tensors(tmp_path / "run")
    for variable in model.variables:
        layer, part = variable.path.split("/")
        value = saved[f"model/{layer}.S{part}/.ATTRIBUTES/VARIABLE_VALUE"]
        assert np.array_equal(value, variable.numpy()) is ("moving" not in part), variable.path

    # The weights may be gone by then; others are another run.
    (tmp_path / "start.weights.h5").rename(tmp_path / "gone.weights.h5")
    told = processes.done([*run, "--train_steps=4"], tmp_path)
    assert "steps 2 to 4" in told
    assert "Weights of" not in told
    other = _main(*run, "--init_weights=gone.weights.h5", "--train_steps=5", cwd=tmp_path)
    assert other.returncode == 2
    assert "--init_weights=start.weights.h5 (now gone.weights.h5)" in other.stderr
    restarted = _main(*run, "--restart", cwd=tmp_path)
    assert restarted.returncode == 2
    assert "--init_weights=start.weights.h5 is not there" in restarted.stderr
    assert processes.saved_step(tmp_path / "run") == 4


@NUMPY
@pytest.mark.slow
def test_weights_are_exported_and_come_back_bitwise(tmp_path):
    model, again = build_model("cifar_resnet8"), build_model("cifar_resnet8")
    model.save_weights(tmp_path / "start.weights.h5")
    told = processes.done(
        ["--mode=export", "--init_weights=start.weights.h5", "--export_dir=out", *DIGITS], tmp_path
    )
    assert "Weights of start.weights.h5: weights of resnet_keras." in told
    manifest = json.loads((tmp_path / "out/1/manifest.json").read_text())
    assert manifest["config"]["init_weights"] == "start.weights.h5"
    load_weights(again, architecture("cifar_resnet8"), tmp_path / "out/1/model.keras")
    for one, two in zip(again.get_weights(), model.get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()


@NUMPY
def test_what_is_wrong_with_weights_costs_one_sentence_and_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/log.jsonl").write_text("a run's\n")
    build_model("cifar_resnet8", classes=3).save_weights(tmp_path / "three.weights.h5")
    build_model("cifar_resnet14").save_weights(tmp_path / "deeper.weights.h5")
    for arguments, told in (
        ([*processes.TINY, "--restart", "--init_weights=deeper.weights.h5"], "unexpected"),
        (["--mode=evaluate", "--init_weights=three.weights.h5", *DIGITS], "no classifier for 10"),
    ):
        assert main(arguments) == 2
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert told in sentence
    assert (tmp_path / "run/log.jsonl").read_text() == "a run's\n"


def test_weights_without_a_run_need_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parsed = command_line.parse(["--mode=evaluate", "--init_weights=~/a.npz", *DIGITS])
    assert not parsed.init_weights.startswith("~")
    with pytest.raises(InputError, match="is not there: name a file of weights"):
        validation.check_places(parsed)
    (tmp_path / "a.npz").write_bytes(b"")
    validation.check_places(
        command_line.parse(["--mode=evaluate", "--init_weights=a.npz", *DIGITS])
    )
    for other in ("--run_dir=run", "--ensemble=run", "--mode=responses", "--checkpoint=best",
                  "--batchnorm_statistics=true_average"):  # fmt: skip
        with pytest.raises(InputError, match=f"no place beside {other}"):
            command_line.parse(["--mode=evaluate", "--init_weights=a.npz", *DIGITS, other])


def test_a_runs_own_weights_are_its_checkpoints(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"flags": {"model": "cifar_resnet8", "dataset": "digits", "shortcut": "",
                              "stride_on": "", "stem_pool": "", "classes": [],
                              "init_weights": "others.npz"}})
    )  # fmt: skip
    (tmp_path / "checkpoint").touch()
    parsed = command_line.parse(["--mode=evaluate", f"--run_dir={tmp_path}"])
    assert parsed.init_weights == ""
    assert "init_weights" not in config.resumable(parsed)
