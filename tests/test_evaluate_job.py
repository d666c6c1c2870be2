"""Evaluation and layer responses from the command line."""

import csv
import functools
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from processes import TINY, done, done_here

from resnet_keras import evaluate_job, jobs
from resnet_keras.errors import InputError
from resnet_keras.main import main

SHORT = [*TINY, "--train_steps=12", "--steps_per_call=3", "--log_every=5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Give a directory with a residual and a plain run, and an export of the first."""
    folder = tmp_path_factory.mktemp("runs")
    done_here([*SHORT, "--run_dir=a", "--export_dir=xa"], folder)
    other = ["--run_dir=b", "--export=false", "--model=cifar_plain8", "--seed=3"]
    done_here([*SHORT, *other], folder)
    return folder


@pytest.fixture(scope="module")
def evaluated(place):
    """Return the function from a run and its views to the result's folder, and what is printed.

    Each is made when it is first asked for.
    """

    @functools.cache
    def evaluate(run, views="center"):
        output = done_here(["--mode=evaluate", f"--run_dir={run}", f"--views={views}"], place)
        return place / run / f"evaluation/test_{views}", output

    return evaluate


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Return the function from arguments to exit code, output and complaints, in this process."""

    def ask(*arguments):
        monkeypatch.chdir(place)
        modes = [argument for argument in arguments if argument.startswith("--mode=")]
        code = main([*(modes or ["--mode=evaluate"]), *arguments])
        return code, *capsys.readouterr()

    return ask


@pytest.fixture
def told(run):
    """Return the function from arguments to the output of a command that ends well."""

    def ask(*arguments):
        code, output, complaint = run(*arguments)
        assert (code, complaint) == (0, "")
        return output

    return ask


def _predictions(folder):
    with np.load(folder / "predictions.npz") as found:
        return dict(found)


def _metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_answer_is_the_same_for_all_batches_and_devices(place, told):
    """Table, files and the training's own evaluation agree."""
    (last,) = [
        record
        for record in map(json.loads, (place / "a/log.jsonl").read_text().splitlines())
        if record["kind"] == "test"
    ]
    expected = None
    for size, devices in ((1, 1), (7, 1), (64, 3)):
        out = f"out_{size}_{devices}"
        flags = ["--run_dir=a", f"--evaluation_batch_size={size}", f"--output_dir={out}"]
        if devices > 1:
            flags += ["--mode=evaluate", "--strategy=mirrored"]
            output = done(flags, place, devices=devices)
        else:
            output = told(*flags)
        assert f"({last['wrong']} of 360 images wrong)" in output
        found = _predictions(place / out)
        expected = expected or found
        np.testing.assert_array_equal(found["predicted"], expected["predicted"])
        np.testing.assert_allclose(
            found["probabilities"], expected["probabilities"], rtol=1e-4, atol=1e-6
        )
        metrics = _metrics(place / out)
        assert metrics["wrong"] == last["wrong"] == np.sum(found["predicted"] != found["label"])
        assert metrics["top5_error"] == pytest.approx(last["top5_error"], abs=1e-6)
        assert metrics["loss"] == pytest.approx(last["loss"], rel=1e-4)
    with (place / out / "confusion.csv").open() as file:
        _, *rows = csv.reader(file)
    counts = np.array([row[1:] for row in rows], int)
    np.testing.assert_array_equal(counts.sum(axis=1), np.bincount(found["label"]))
    assert counts.trace() == 360 - last["wrong"]
    assert (place / out / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_ten_crop_goes_into_the_runs_directory(evaluated):
    folder, output = evaluated("a", "ten_crop")
    metrics = _metrics(folder)
    low, high = metrics["top1_interval"]
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in output
    assert low < metrics["top1_error"] < high
    assert [member["model"] for member in metrics["members"]] == ["cifar_resnet8"]
    assert re.search(r"^7 +36 ", output, re.MULTILINE)  # the table of classes


def test_several_views_are_averaged(place, told, evaluated):
    """As VGG's Table 5 does with multi-crop and dense testing."""
    told("--run_dir=a", "--views=center,ten_crop")
    folder = place / "a/evaluation/test_center+ten_crop"
    one, other, both = (
        _predictions(each)["probabilities"]
        for each in (evaluated("a")[0], evaluated("a", "ten_crop")[0], folder)
    )
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)
    assert _metrics(folder)["views"] == "center+ten_crop"


def test_scales_are_averaged(place, told, evaluated):
    """Table 4's test. Digits have no mirror images, so that 32 pixels are those of the center."""
    for scales in ("40", "32,40"):
        told("--run_dir=a", "--views=multi_scale", f"--scales={scales}", f"--output_dir=at{scales}")
    one, other, both = (
        _predictions(each)["probabilities"]
        for each in (evaluated("a")[0], place / "at40", place / "at32,40")
    )
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-5)
    (member,) = _metrics(place / "at32,40")["members"]
    assert member["scales"] == {"multi_scale": [32, 40]}


def test_an_ensemble_averages_the_probabilities_of_runs_and_exports(place, told, evaluated):
    assert "b, step 12" in told("--ensemble=a,b,xa/1")
    found = _predictions(place / "runs/ensemble/evaluation/test_center")
    first, other = (_predictions(evaluated(run)[0])["probabilities"] for run in ("a", "b"))
    np.testing.assert_allclose(found["probabilities"], (2 * first + other) / 3, atol=1e-5)
    assert np.abs(found["probabilities"] - first).max() > 1e-2


def test_true_averages_are_kept_in_the_run_and_exported(place, told, evaluated):
    options = ["--run_dir=b", "--batchnorm_statistics=true_average"]
    told(*options, "--views=dense")
    (kept,) = (place / "b/true_average").glob("*/ckpt-12.data*")
    before = kept.stat().st_mtime_ns
    told(*options)
    assert kept.stat().st_mtime_ns == before, "found again, not computed again"
    averaged = _predictions(place / "b/evaluation/test_center_true_average")["probabilities"]
    # Averages over other images are others, and are not taken for these later.
    told(*options, "--image_size=40", "--output_dir=larger")
    told(*options, "--output_dir=again")
    np.testing.assert_array_equal(_predictions(place / "again")["probabilities"], averaged)
    assert len(list((place / "b/true_average").glob("*/ckpt-12.data*"))) == 2
    moving = _predictions(evaluated("b")[0])["probabilities"]
    assert np.abs(averaged - moving).max() > 0.05
    told("--mode=export", *options, "--export_dir=xt")
    told("--ensemble=xt", "--dataset=digits", "--output_dir=exported")
    exported = _predictions(place / "exported")["probabilities"]
    np.testing.assert_allclose(exported, averaged, atol=1e-4)


def test_true_averages_are_over_batches_of_the_size_that_training_normalised_by(
    place, run, monkeypatch
):
    """As if each of 4 devices had had a quarter of the batches of 32; here is one."""
    shutil.copytree(place / "a", place / "of_four", dirs_exist_ok=True)
    saved = json.loads((place / "of_four/config.json").read_text())
    saved["data"]["replicas"] = 4
    (place / "of_four/config.json").write_text(json.dumps(saved))
    seen = []

    def noting(model, strategy, batches, count):
        seen.append((len(next(iter(batches))["image"]), count))
        raise InputError("seen enough")

    monkeypatch.setattr(jobs, "set_true_averages", noting)
    run("--run_dir=of_four", "--batchnorm_statistics=true_average")
    assert seen == [(8, 180)]  # 1,437 training images


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--mode=responses", "--runs=a"], "--evaluation_batch_size=32 images or crops do not fit"),
        (
            ["--run_dir=a", "--batchnorm_statistics=true_average"],
            "Batches of 32 images, by which a normalised, do not fit",
        ),
    ],
)
def test_a_memory_that_is_too_small_is_one_sentence(arguments, told, run, monkeypatch):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

    monkeypatch.setattr(evaluate_job, "make_measure_responses", lambda *_: exhausted)
    monkeypatch.setattr(jobs, "set_true_averages", exhausted)
    code, _, complaint = run(*arguments)
    assert code == 2
    assert told in complaint
    assert len(complaint.splitlines()) == 1


def test_an_export_alone_is_tested_on_its_own_data(place, told, evaluated):
    """As its run is, and without the data set's name: the newest version, or a named one."""
    expected = _metrics(evaluated("a")[0])
    for name in ("xa", "xa/1"):
        output = told(f"--saved_model={name}")
        assert "Written to  runs/xa_export_1/evaluation/test_center" in output
        found = _metrics(place / "runs/xa_export_1/evaluation/test_center")
        assert (found["images"], found["wrong"]) == (360, expected["wrong"])
        (member,) = found["members"]
        assert (member["place"], member["step"]) == ("xa/1", expected["members"][0]["step"])
    # A folder that holds the texts of a run beside its export, as saved_models/ may.
    (place / "both").mkdir()
    (place / "both/1").symlink_to(place / "xa/1")
    (place / "both/config.json").write_text((place / "a/config.json").read_text())
    for flag in ("--saved_model=both", "--ensemble=both", "--ensemble=both,xa/1"):
        told(flag, "--output_dir=of_both")
        found = _metrics(place / "of_both")
        assert (found["dataset"], found["wrong"]) == ("digits", expected["wrong"])
        assert all(member["exported"] for member in found["members"])


def test_responses_of_two_runs(place, told):
    assert "7 layers" in told("--mode=responses", "--runs=a,b")
    with (place / "a/responses/responses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["a"] * 7 + ["b"] * 7
    for run in ("a", "b"):
        own = [row for row in rows if row["run"] == run]
        assert [row["layer"] for row in own] == list("1234567")
        assert {row["step"] for row in own} == {"12"}
        stds = [float(row["std"]) for row in own]
        assert [float(row["sorted_std"]) for row in own] == sorted(stds, reverse=True)
        assert min(stds) > 0
    assert (place / "a/responses/responses.png").read_bytes().startswith(b"\x89PNG")
    usual = (place / "a/responses/responses.csv").read_bytes()
    told("--mode=responses", "--runs=a", "--batchnorm_statistics=true_average")
    assert (place / "a/responses/responses.csv").read_bytes() == usual, "Fig. 7 is of these"
    assert (place / "a/responses/true_average/responses.csv").read_bytes() != usual


def test_responses_of_runs_on_different_data_are_each_on_its_own(place, told):
    """As if b had been trained on a folder of pictures; a flag tells where all data lie."""
    (place / "c").mkdir()
    for file in (place / "b").glob("*ckpt*"):
        shutil.copy(file, place / "c")
    shutil.copy(place / "b/checkpoint", place / "c")
    saved = json.loads((place / "b/config.json").read_text())
    saved["flags"] |= {"dataset": "folder", "data_dir": "pictures", "image_size": 32}
    del saved["data"]["image_statistics"]  # of the digits
    (place / "c/config.json").write_text(json.dumps(saved))
    for digit in range(10):
        for split in ("train", "val"):
            file = place / f"pictures/{split}/{digit}/one.png"
            file.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32), (25 * digit, 99, 0)).save(file)
    assert "c, step 12: 7 layers" in told("--mode=responses", "--runs=a,c")
    (place / "pictures").rename(place / "moved")
    assert "c, step 12" in told("--mode=responses", "--runs=a,c", "--data_dir=moved")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--run_dir=a", "--views=multi_scale"], "--scales"),
        (["--run_dir=a", "--views=multi_crop"], "as large as its images"),
        (["--run_dir=a", "--scales=32"], "--views=multi_scale"),
        (["--run_dir=a", "--scales=1,x", "--views=multi_scale"], "whole pixels"),
        (["--run_dir=a", "--scales=0", "--views=multi_scale"], "at least 1 pixels"),
        (["--run_dir=a", "--views=all"], "ten_crop"),
        (["--run_dir=a", "--validation_images=9"], "a was trained on, which held out 0: leave it"),
        (["--ensemble=a,b", "--validation_images=9"], "a is a run on other images"),
        (["--ensemble=a,nowhere"], "nowhere"),
        (["--ensemble=a,renamed"], "renamed is a run on other images or classes"),
        (["--ensemble=xa", "--dataset=digits", "--classes=1,2"], "xa knows other classes"),
        (["--ensemble=a,xa", "--views=dense"], "xa takes one"),
        (["--ensemble=a,xa", "--views=ten_crop"], "which xa does by itself"),
        (["--run_dir=a", "--output_dir=a/config.json/deeper"], "--output_dir"),
        (["--mode=responses", "--runs=a,nowhere"], "nowhere holds no run"),
        (["--saved_model=nowhere"], "--saved_model=nowhere holds no SavedModel"),
        (["--saved_model=xa", "--run_dir=a"], "--saved_model=xa has no place beside --run_dir=a"),
        (["--saved_model=xa", "--ensemble=a,b"], "has no place beside --ensemble=a,b"),
        (["--saved_model=xa", "--checkpoint=best"], "has no place beside --checkpoint=best"),
        (["--saved_model=xa", "--mode=export"], "has no place beside --mode=export"),
        (["--saved_model=xa", "--views=dense"], "takes one"),
        (["--saved_model=xa", "--classes=1,2"], "holds an export with --classes= (now 1,2): leave"),
        (["--saved_model=xa", "--model=cifar_plain8"], "--model=cifar_resnet8 (now cifar_plain8)"),
        (["--saved_model=xa", "--image_size=48"], "--image_size=0 (now 48): leave that flag out"),
        (["--saved_model=xa", "--antialias=false"], "--antialias=auto (now false): leave that"),
        (["--saved_model=strange", "--dataset=digits", "--classes=1,2"], "knows other classes"),
        (["--saved_model=strange", "--dataset=digits"], "knows other classes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_makes_no_sense_is_one_sentence(place, run, arguments, told):
    # An export whose manifest tells nothing that can be used: what the flags say counts.
    shutil.copytree(place / "xa", place / "strange", dirs_exist_ok=True)
    manifest = {"config": {"classes": None, "image_size": "large", "dataset": 3},
                "labels": [str(digit) for digit in reversed(range(10))]}  # fmt: skip
    (place / "strange/1/manifest.json").write_text(json.dumps(manifest))
    (place / "renamed").mkdir(exist_ok=True)
    config = json.loads((place / "a/config.json").read_text())
    config["data"]["class_names"][0] = "zero"
    (place / "renamed/config.json").write_text(json.dumps(config))
    (place / "renamed/checkpoint").touch()
    code, _, complaint = run(*arguments)
    assert code == 2
    assert told in complaint
    assert len(complaint.strip().splitlines()) == 1
