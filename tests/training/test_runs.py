import json
import shutil
import subprocess
import sys

import pytest

from resnet_keras.errors import InputError
from resnet_keras.training import runs
from resnet_keras.training.runs import checkout, open_run

FLAGS = {"model": "resnet50", "lr_drops": (3, 5), "train_steps": 10}
DATA = {"class_names": ["cat", "dog"], "training_images": 100}


def _open(run, restart=False, data=DATA, **changed):
    defaults = {"momentum": 0.9, "classes": ()}
    open_run(
        run, FLAGS | changed, data, defaults=defaults, free=["train_steps"], restart=restart
    )  # fmt: skip


def _config(run) -> dict:
    return json.loads((run / "config.json").read_text())


def test_the_same_settings_resume_and_a_free_one_may_change(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    _open(tmp_path)
    _open(tmp_path, train_steps=20)
    saved = _config(tmp_path)
    assert saved["flags"] == {"model": "resnet50", "lr_drops": [3, 5], "train_steps": 20}
    assert saved["data"] == DATA
    assert len(saved["environments"]) == 1


def test_a_flag_that_is_newer_than_the_run_had_its_default(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    _open(tmp_path, momentum=0.9, classes=())
    _open(tmp_path, restart=True)
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(InputError, match=r"--momentum=0\.9 \(now 0\.5\)"):
        _open(tmp_path, momentum=0.5)


def test_checkpoints_of_an_unknown_configuration_are_not_gone_on_with(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"checkpoints without the config\.json that says how"):
        _open(tmp_path)
    assert not (tmp_path / "config.json").exists()
    _open(tmp_path, restart=True)


def test_what_a_run_did_not_record_of_its_data_may_be_anything(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    known = DATA | {"image_statistics": "channel mean 1.0 2.0 3.0, c0ffee"}
    _open(tmp_path, data=known)
    assert _config(tmp_path)["data"] == known
    with pytest.raises(InputError, match=r"c0ffee \(now .*, decade\)"):
        _open(tmp_path, data=DATA | {"image_statistics": "channel mean 1.0 2.0 3.0, decade"})


def test_a_run_without_a_checkpoint_may_change(tmp_path):
    _open(tmp_path)
    _open(tmp_path, model="resnet18", data=DATA | {"training_images": 90})
    assert _config(tmp_path)["flags"]["model"] == "resnet18"
    assert _config(tmp_path)["data"]["training_images"] == 90


def test_other_settings_are_refused_field_by_field(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as caught:
        _open(tmp_path, model="resnet18", lr_drops=(3, 6), data=DATA | {"training_images": 90})
    assert "--model=resnet50 (now resnet18)" in str(caught.value)
    assert "--lr_drops=[3, 5] (now [3, 6])" in str(caught.value)
    assert ", training_images=100 (now 90)" in str(caught.value)
    assert "class_names" not in str(caught.value)
    assert (tmp_path / "config.json").read_text() == before


def test_results_whose_checkpoints_are_gone_are_not_trained_over(tmp_path):
    """As of a committed run, or one that was cleared to save room."""
    _open(tmp_path)
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "train", "step": 5}\n{"kind": "test", "step": 0}\n')
    _open(tmp_path, model="resnet18")  # killed before its first checkpoint
    before = log.read_text() + '{"kind": "validation", "step": 7}\n'
    log.write_text(before)
    with pytest.raises(InputError, match=r"whose checkpoints are gone: .*--restart"):
        _open(tmp_path, model="resnet18")
    assert log.read_text() == before
    _open(tmp_path, model="resnet18", restart=True)
    assert not log.exists()


def test_restart_deletes_the_run_and_nothing_else(tmp_path):
    _open(tmp_path)
    written = ("log.jsonl", "checkpoint", "ckpt-7.index", "first_batch.png", "log.jsonl.new")
    for name in (*written, "notes.txt"):
        (tmp_path / name).write_text("x")
    for name in ("ckpt-9_temp", "best", "tensorboard", "profile", "photos"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    _open(tmp_path, restart=True, model="resnet18")
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "notes.txt", "photos"}


@pytest.mark.parametrize("damage", ["{", "", "\xff", "[]", '{"model": "resnet50"}'])
def test_a_damaged_config_is_one_sentence(tmp_path, damage):
    (tmp_path / "config.json").write_text(damage, encoding="latin-1")
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(InputError, match="--restart"):
        _open(tmp_path)


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        _open(tmp_path / "run")


def test_the_environment_says_what_is_installed(tmp_path):
    _open(tmp_path)
    (found,) = _config(tmp_path)["environments"]
    told = subprocess.run(
        [sys.executable, "-c", "import numpy, platform; "
         "print(numpy.__version__, platform.python_version())"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert [found["packages"]["numpy"], found["python"]] == told
    assert set(found["packages"]) == {
        "tensorflow", "keras", "tensorflow-datasets", "numpy", "resnet-keras",
    }  # fmt: skip
    assert found["cpu"]
    has_avx2 = subprocess.run(["grep", "-qw", "avx2", "/proc/cpuinfo"], check=False).returncode == 0
    assert ("avx2" in found["instructions"]) == has_avx2
    assert found["since"].endswith("+00:00")


def test_resuming_under_other_versions_is_told_and_kept(tmp_path, capsys, monkeypatch):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    old = runs.environment()
    assert capsys.readouterr().err == ""
    newer = old | {
        "commit": "c0ffee" * 6, "dirty": True, "packages": old["packages"] | {"keras": "9.0"},
    }  # fmt: skip
    monkeypatch.setattr(runs, "environment", lambda: newer)
    _open(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"keras {old['packages']['keras']} -> 9.0" in line
    assert "-> c0ffeec0ff (changed)" in line
    assert "numpy" not in line
    _open(tmp_path)
    assert capsys.readouterr().err == ""
    first, second = _config(tmp_path)["environments"]
    assert first == {"since": first["since"], **old}
    assert second == {"since": second["since"], **newer}


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments) -> str:
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("1")
    (tmp_path / "README.md").write_text("1")
    assert checkout(package / "module.py") == (None, None)
    git("init")
    git("add", "README.md")
    git("commit", "-m", "one")
    # As a wheel installed in a folder of somebody's repository.
    assert checkout(package / "module.py") == (None, None)
    git("add", "package")
    git("commit", "-m", "two")
    (tmp_path / "new.txt").write_text("1")
    assert checkout(package / "module.py") == (git("rev-parse", "HEAD"), False)
    (tmp_path / "README.md").write_text("2")
    assert checkout(package / "module.py") == (git("rev-parse", "HEAD"), True)
    monkeypatch.setenv("PATH", "")
    assert checkout(package / "module.py") == (None, None)
