"""The export that the repository holds is whole, and answers as the results say."""

import hashlib
import json

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import pipelines
from resnet_keras import main

EXPORT = ROOT / "saved_models/cifar_r20"
VERSION, EVALUATION = EXPORT / "1", EXPORT / "evaluation/test_center"
# https://www.cs.toronto.edu/~kriz/cifar.html, in the order of the labels.
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture
def data(shared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared / "data/tfds"))


def _results():
    """Return what the README's row rests on."""
    return json.loads((EVALUATION / "metrics.json").read_text())


def _counts(folder):
    return np.loadtxt(folder / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 11))


def test_it_is_the_network_of_the_results_and_every_file_is_there():
    manifest = json.loads((VERSION / "manifest.json").read_text())
    (member,) = _results()["members"]
    assert (manifest["step"], member["step"]) == (64_000, 64_000)
    assert manifest["labels"] == CLASSES
    # Table 6 says 0.27M: 268,346 of convolutions and classifier, and two for each of 688 channels.
    assert manifest["parameters"]["trainable"] == 269_722
    files = [path for path in VERSION.rglob("*") if path.is_file()]
    names = {path.relative_to(VERSION).as_posix() for path in files}
    assert names == {*manifest["sha256"], "manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((VERSION / name).read_bytes()).hexdigest() == digest, name
    assert sum(path.stat().st_size for path in files) < 4e6


def test_it_makes_the_errors_of_the_results_and_names_what_is_on_pictures(
    data, shared, tmp_path, capsys
):
    assert (
        main.main(["--mode=evaluate", f"--saved_model={EXPORT}", f"--output_dir={tmp_path}"]) == 0
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for what in ("images", "wrong", "wrong_top5"):
        assert metrics[what] == _results()[what]
    answers = np.load(tmp_path / "predictions.npz")
    np.testing.assert_array_equal(_counts(tmp_path), _counts(EVALUATION))

    images = pipelines.open_source("cifar10", data_dir=shared / "data/tfds").splits["test"].images
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(50):
        Image.fromarray(images[index]).save(folder / f"{index:02}.png")
    output = tmp_path / "answers.jsonl"
    flags = [f"--saved_model={EXPORT}", f"--images={folder}/*.png", f"--output={output}"]
    assert main.main(["--mode=predict", *flags]) == 0
    named = [json.loads(line)["classes"][0] for line in output.read_text().splitlines()]
    assert named == [CLASSES[label] for label in answers["predicted"][:50]]
