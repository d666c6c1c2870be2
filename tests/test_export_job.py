"""--mode=export as users run it, and what its manifest knows of the run."""

import json

import numpy as np
import tensorflow as tf
from processes import TIMES, TINY, done_here, records, refused_here

from resnet_keras.models import complexity


def test_an_export_of_a_run(tmp_path):
    """Trained in bfloat16, exported folded in float32, then unfolded in bfloat16."""
    done_here([*TINY, "--train_steps=12", "--precision=bfloat16"], tmp_path)
    options = ["--fold=false", "--export_precision=bfloat16"]
    told = done_here(["--mode=export", "--run_dir=run", "--export_dir=out", *options], tmp_path)
    assert "out/2" in told
    first, second = (json.loads((tmp_path / f"out/{n}/manifest.json").read_text()) for n in (1, 2))

    (tested,) = [record for record in records(tmp_path / "run") if record["kind"] == "test"]
    assert first["metrics"]["elapsed"] > first["metrics"]["seconds"] > 0
    metrics = {name: value for name, value in first["metrics"].items() if name not in TIMES}
    assert metrics == {"split": "test", **{k: v for k, v in tested.items() if k != "kind"}}
    assert (first["step"], first["checkpoint"]) == (12, "latest")
    assert first["architecture"]["name"] == "cifar_resnet8"
    assert (first["architecture"]["shortcut"], first["architecture"]["classes"]) == ("A", 10)
    counts = complexity.total(complexity.stages("cifar_resnet8"))
    assert first["parameters"] == {
        "trainable": counts.parameters,
        "batchnorm_statistics": counts.batchnorm_statistics,
    }
    assert first["labels"] == [str(digit) for digit in range(10)]
    settings = first["config"]
    assert (settings["batch_size"], settings["precision"]) == (32, "bfloat16")
    assert first["packages"]["tensorflow"] == tf.__version__
    assert str(tmp_path) not in json.dumps(first)
    assert first["preprocessing"]["pixel_mean"] == "pixel_mean.npy"
    assert np.load(tmp_path / "out/1/pixel_mean.npy").shape == (32, 32, 3)
    assert [(m["folded"], m["precision"]) for m in (first, second)] == [
        (True, "float32"),
        (False, "bfloat16"),
    ]
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)), tf.float32)
    answers = []
    for version in (1, 2):
        loaded = tf.saved_model.load(str(tmp_path / f"out/{version}"))
        answers.append(loaded.signatures["predict_tensor"](images=images)["probabilities"])
    np.testing.assert_allclose(answers[0], answers[1], atol=0.1)
    assert np.abs(answers[0] - answers[1]).max() > 0  # they are two computations

    line = len(records(tmp_path / "run")) + 1
    with (tmp_path / "run/log.jsonl").open("a") as log:
        log.write("{\n")
    told = refused_here(["--mode=export", "--run_dir=run", "--export_dir=out"], tmp_path)
    assert f"Line {line} of run/log.jsonl is no record" in told
    assert not (tmp_path / "out/3").exists()
