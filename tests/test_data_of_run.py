"""A run is read with the images that it was trained on: the same classes, the same mean."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from processes import TINY, running

import pipelines
from resnet_keras.main import main

FOLDER = ["--dataset=folder", "--data_dir=data", "--model=cifar_resnet8", "--image_size=32",
          "--batch_size=8", "--train_steps=2", "--run_dir=run", "--export_dir=out"]  # fmt: skip


def _write_images(folder):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name, level in (("cat", 60), ("dog", 190)):
            (folder / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = random.normal(level, 30, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")


def _write_statistics(folder):
    known = pipelines.open_source("folder", data_dir=folder).statistics
    mean = np.full((32, 32, 3), 125, np.float32)
    pipelines.statistics.save(dataclasses.replace(known, pixel_mean=mean), folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Give a directory with images and a run on them, without statistics beside the images."""
    folder = tmp_path_factory.mktemp("trained")
    _write_images(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*FOLDER, "--export=false"]) == 0
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


READ = {
    "evaluate": ["--mode=evaluate", "--run_dir=run"],
    "ensemble": ["--mode=evaluate", "--ensemble=run"],
    "responses": ["--mode=responses", "--runs=run"],
    "export": ["--mode=export", "--run_dir=run", "--export_dir=out"],
    "resume": [*FOLDER, "--train_steps=4", "--export=false"],
}


@pytest.mark.parametrize("command", READ.values(), ids=READ)
def test_another_mean_than_the_runs_is_refused(place, capsys, command):
    _write_statistics(place / "data")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    # The published mean of ImageNet, which is taken where none was computed.
    assert "channel mean 123.7 116.8 103.9, " in line
    assert "pixel mean 125.0 125.0 125.0, " in line
    assert not list((place / "out").glob("*"))
    assert not list((place / "run").glob("*/*/metrics.json"))


@pytest.mark.parametrize("command", READ.values(), ids=READ)
def test_other_classes_than_the_runs_are_refused(place, capsys, command):
    """Sorted, a dog that is called ape comes first: the two labels are swapped."""
    for split in ("train", "val"):
        (place / "data" / split / "dog").rename(place / "data" / split / "ape")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'ape'" in line or "other images or classes" in line
    assert not list((place / "out").glob("*"))


# Those that read a run for its answers ask alike whether the images are its own: one is enough.
@pytest.mark.parametrize("name", ["evaluate", "resume"])
def test_a_run_that_did_not_record_its_mean_is_read(place, name):
    config = json.loads((place / "run/config.json").read_text())
    del config["data"]["image_statistics"]
    (place / "run/config.json").write_text(json.dumps(config))
    assert main(READ[name]) == 0


def test_a_mean_of_the_flags_is_the_same_whatever_lies_beside_the_images(place):
    _write_statistics(place / "data")
    own = ["--channel_mean=0.5,0.5,0.5", "--recipe=inception", "--run_dir=own"]
    assert main([*FOLDER, *own, "--export=false"]) == 0
    (place / "data/statistics.npz").unlink()
    assert main(["--mode=evaluate", "--run_dir=own"]) == 0


def test_a_run_on_some_images_of_some_classes_is_tested_with_their_mean_and_names(
    tmp_path, monkeypatch
):
    """As its export is, which brings mean and names along. scikit-learn has 179 sevens and 183
    threes, of which a fifth are the test set."""
    monkeypatch.chdir(tmp_path)
    flags = ["--train_steps=40", "--learning_rate=0.02", "--lr_schedule=piecewise"]
    assert main([*TINY, *flags, "--classes=7,3", "--validation_images=189"]) == 0
    told = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert (told["class_names"], told["training_images"]) == (["7", "3"], 100)
    assert json.loads((tmp_path / "out/1/manifest.json").read_text())["labels"] == ["7", "3"]
    found = {}
    for name in ("run_dir=run", "saved_model=out"):
        flags = [f"--{name}", "--validation_images=0", "--output_dir=tested"]
        assert main(["--mode=evaluate", *flags]) == 0
        assert json.loads((tmp_path / "tested/metrics.json").read_text())["split"] == "test"
        with np.load(tmp_path / "tested/predictions.npz") as answers:
            found[name] = answers["probabilities"]
            assert np.bincount(answers["label"]).tolist() == [36, 37]
            assert np.mean(answers["predicted"] == answers["label"]) > 0.8
    assert found["run_dir=run"].shape == (73, 2)
    np.testing.assert_allclose(found["run_dir=run"], found["saved_model=out"], atol=1e-4)
    # So is it in an ensemble, and so are its responses.
    test_set = ["--validation_images=0", "--output_dir=together"]
    assert main(["--mode=evaluate", "--ensemble=run,run", *test_set]) == 0
    with np.load(tmp_path / "together/predictions.npz") as answers:
        np.testing.assert_allclose(answers["probabilities"], found["run_dir=run"], atol=1e-6)
    stds = []
    for flags in ([], ["--validation_images=0"]):
        assert main(["--mode=responses", "--runs=run", "--output_dir=layers", *flags]) == 0
        stds.append((tmp_path / "layers/responses.csv").read_text())
    assert stds[0] != stds[1], "of held-out images, of the test set"


def test_an_export_is_tested_with_its_own_filter(place):
    """Exported without a low-pass filter, as its server answers then."""
    commands = {
        "run": ["--mode=evaluate", "--run_dir=run", "--antialias=false"],
        "filtered": ["--mode=evaluate", "--run_dir=run"],
        "export": ["--mode=evaluate", "--saved_model=out", "--data_dir=data"],
        "member": ["--mode=evaluate", "--ensemble=out", *FOLDER[:4]],
    }
    assert main([*READ["export"], "--antialias=false"]) == 0
    found = {}
    for name, command in commands.items():
        assert main([*command, f"--output_dir={name}"]) == 0
        with np.load(place / name / "predictions.npz") as answers:
            found[name] = np.log(answers["probabilities"].min(axis=1))  # the net is sure of itself
    np.testing.assert_allclose(found["export"], found["run"], atol=2e-3)
    np.testing.assert_allclose(found["member"], found["run"], atol=2e-3)
    assert np.abs(found["filtered"] - found["run"]).max() > 2e-2


@pytest.mark.slow
def test_workers_with_different_means_are_refused(tmp_path):
    for worker in range(2):
        _write_images(tmp_path / f"data{worker}")
    _write_statistics(tmp_path / "data1")
    with running([*FOLDER, "--data_dir=data{worker}"], tmp_path, workers=2) as processes:
        for process in processes:
            assert process.wait() == 2
            (line,) = process.complaints
            assert "The workers differ in image statistics: " in line
    assert not (tmp_path / "run/config.json").exists()
