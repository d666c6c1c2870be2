import json

import pytest

from resnet_keras.errors import InputError
from resnet_keras.training.runs import open_run

SETTINGS = {"model": "resnet50", "lr_drops": (3, 5), "train_steps": 10}


def _open(run, restart=False, **changed):
    open_run(run, SETTINGS | changed, free=["train_steps"], restart=restart)


def test_the_same_settings_resume_and_a_free_one_may_change(tmp_path):
    _open(tmp_path)
    _open(tmp_path)
    _open(tmp_path, train_steps=20)
    assert json.loads((tmp_path / "config.json").read_text())["train_steps"] == 20


def test_a_run_without_a_checkpoint_may_change(tmp_path):
    _open(tmp_path)
    _open(tmp_path, model="resnet18")
    assert json.loads((tmp_path / "config.json").read_text())["model"] == "resnet18"


def test_other_settings_are_refused_field_by_field(tmp_path):
    _open(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(InputError) as caught:
        _open(tmp_path, model="resnet18", lr_drops=(3, 6))
    assert "--model=resnet50 (now resnet18)" in str(caught.value)
    assert "--lr_drops" in str(caught.value)
    assert (tmp_path / "config.json").read_text() == before


def test_restart_deletes_the_run_and_nothing_else(tmp_path):
    _open(tmp_path)
    for name in ("log.jsonl", "checkpoint", "ckpt-7.index", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "ckpt-9_temp").mkdir()
    (tmp_path / "ckpt-9_temp/part").write_text("x")
    _open(tmp_path, restart=True, model="resnet18")
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "notes.txt"}


@pytest.mark.parametrize("damage", ["{", ""])
def test_a_damaged_config_is_one_sentence(tmp_path, damage):
    (tmp_path / "config.json").write_text(damage)
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(InputError, match="--restart"):
        _open(tmp_path)


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        _open(tmp_path / "run")
