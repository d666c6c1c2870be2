"""The command line as users run it: train, look at the result, run it again, get it wrong."""

import json
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import processes
import pytest
import tensorflow as tf
from conftest import ROOT
from PIL import Image

import pipelines
from resnet_keras import train_job
from resnet_keras.main import main
from resnet_keras.models import build_model

TINY = [
    "--dataset=digits", "--model=cifar_resnet8", "--batch_size=32", "--train_steps=12",
    "--log_every=5", "--steps_per_call=3", "--lr_schedule=piecewise",
]  # fmt: skip


def _main(*arguments, cwd, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "resnet_keras.main", *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False, **options
    )


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Return the function from arguments to what a command prints that ends well, in this process.

    TensorFlow is loaded here already.
    """
    monkeypatch.chdir(tmp_path)

    def ask(*arguments) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    return ask


def _done(*arguments, cwd) -> str:
    result = _main(*arguments, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_whole_path_and_then_the_same_command_again(tmp_path, told):
    first = _done(*TINY, "--run_dir=run", "--export_dir=out", cwd=tmp_path)
    (error,) = re.findall(r"Test error .* (\d+\.\d\d %)", first)
    assert "out/1" in first
    assert (tmp_path / "out/1/saved_model.pb").is_file()
    log = (tmp_path / "run/log.jsonl").read_text()
    again = told(*TINY, "--run_dir=run", "--export_dir=out")
    assert "finished" in again
    assert (tmp_path / "run/log.jsonl").read_text() == log
    assert re.findall(r"Test error .* (\d+\.\d\d %)", again) == [error]
    assert (tmp_path / "out/2/saved_model.pb").is_file()

    # The run alone names its network and data, and its answer stays the same.
    assert error in told("--mode=evaluate", "--run_dir=run", "--evaluation_batch_size=7")
    assert "out/3" in told("--mode=export", "--run_dir=run", "--export_dir=out")

    for index in range(2):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    table = told("--mode=predict", "--saved_model=out", "--images=*.png")
    assert re.search(r"^0\.png +\d \d+\.\d ", table, re.MULTILINE)
    assert re.search(r"^1\.png +\d \d+\.\d ", table, re.MULTILINE)

    # Another setting is another run.
    other = [*TINY, "--run_dir=run", "--seed=5", "--export_dir=out"]
    assert "--seed=0 (now 5)" in processes.refused_here(other, tmp_path)


def test_summary_compares_networks_as_the_paper_does(told):
    """Sec. 3.3: the 34-layer nets have 3.6 billion multiply-adds, 18 % of VGG-19's 19.6."""
    names = "vgg_e,plain34,resnet34,resnet152"
    table = told("--mode=summary", f"--model={names}")
    rows = {line.split()[0]: line.split() for line in table.splitlines()[2:]}
    assert list(rows) == names.split(",")
    assert [rows[name][1] for name in rows] == ["19", "34", "34", "152"]
    assert rows["plain34"][3:5] == ["3,644,493,824", "18.6"]
    assert table.strip() in (ROOT / "README.md").read_text()


def test_summary_ends_with_the_rows_of_table_1(told):
    printed = told("--mode=summary", "--model=cifar_resnet8")
    assert "conv4_block1_out" in printed
    last = [line.split() for line in printed.strip().splitlines()[-7:]]
    assert [row[0] for row in last] == [
        "-----",
        "conv1",
        "conv2",
        "conv3",
        "conv4",
        "head",
        "total",
    ]
    assert [row[1] for row in last[1:5]] == ["32x32", "32x32", "16x16", "8x8"]


def test_a_network_too_deep_to_be_built_is_one_sentence(tmp_path):
    told = processes.refused_here(["--mode=summary", "--model=cifar_resnet2000"], tmp_path)
    assert "cifar_resnet2000 is about 6,993 layers deep" in told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "The same command resumes."),
        pytest.param(
            ["--restart"], "The same command without --restart resumes.", marks=pytest.mark.slow
        ),
    ],
    ids=["anew", "restarted"],
)
def test_a_signal_saves_and_the_same_command_resumes(tmp_path, more, told):
    command = [
        sys.executable,
        "-m",
        "resnet_keras.main",
        *TINY,
        "--train_steps=2000",
        "--export=false",
        *more,
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "runs/cifar_resnet8_digits/log.jsonl"
    deadline = time.time() + 300
    while not (log.is_file() and log.read_text()) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    (step,) = map(int, re.findall(r"Stopped by SIGTERM after step (\d+)", errors))
    assert errors.splitlines()[-1].endswith(told)
    assert 5 <= step < 2000
    resumed = _done(*TINY, f"--train_steps={step + 6}", "--export=false", cwd=tmp_path)
    assert f"steps {step:,} to {step + 6:,}" in resumed
    steps = [int(s) for s in re.findall(r'"step": (\d+)', log.read_text())]
    assert steps == sorted(steps)
    assert steps[-1] == step + 6


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_spares_what_is_there(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    _done(*TINY, cwd=tmp_path)
    run = tmp_path / "runs/cifar_resnet8_digits"
    before = {file.name: file.read_bytes() for file in run.glob("ckpt-*")}

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    result = _main(*TINY, "--train_steps=20", cwd=tmp_path, preexec_fn=small_files)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "{{" not in result.stderr
    assert "The checkpoint of step 20 cannot be written" in result.stderr.splitlines()[-1]
    assert {name: (run / name).read_bytes() for name in before} == before
    again = _done(*TINY, "--train_steps=20", cwd=tmp_path)
    assert "steps 12 to 20" in again


def test_an_evaluation_that_does_not_fit_the_memory_costs_no_step(tmp_path, monkeypatch, capsys):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_job, "make_evaluate", lambda model, strategy: exhausted)
    assert main([*TINY, "--run_dir=run", "--train_steps=2", "--evaluation_batch_size=90"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "--evaluation_batch_size=90 images or crops do not fit" in told
    assert processes.saved_step(tmp_path / "run") == 2


def test_two_processes_never_train_in_one_directory(tmp_path):
    command = [*TINY, "--train_steps=2000", "--export=false", "--run_dir=run"]
    command.append("--checkpoint_every=5")
    with processes.running(command, tmp_path) as (first,):
        first.catch((tmp_path / "run/checkpoint").is_file)
        told = processes.refused_here(command, tmp_path)
        assert "--run_dir=run is being trained by another process" in told
        # That the system takes the lock back from a process that is killed, test_resume.py shows.
        first.kill()


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_a_stretch_is_profiled(tmp_path, told):
    """A gentle start, then a rate that spoils it; and recomputation, and a batch in parts."""
    spoilt = ["--warmup_until_error=0.6", "--warmup_learning_rate=0.03", "--learning_rate=5"]
    options = ["--recompute", "--accumulation_steps=2", "--profile_steps=4,5"]
    options += ["--run_dir=run", "--export=false"]
    _done(*TINY, "--train_steps=120", "--evaluate_every=25", *spoilt, *options, cwd=tmp_path)
    lines = (tmp_path / "run/log.jsonl").read_text().splitlines()
    tested = [r for r in map(json.loads, lines) if r["kind"] == "test"]
    assert [r["step"] for r in tested] == [25, 50, 75, 100, 120]
    best = min(tested, key=lambda record: record["wrong"])  # the first of equals
    assert tested[-1]["wrong"] > 1.5 * best["wrong"]
    printed = told("--mode=evaluate", "--run_dir=run", "--checkpoint=best")
    assert f"step {best['step']:,}\n" in printed
    assert f"({best['wrong']} of 360 images wrong)" in printed
    assert len(list((tmp_path / "run/profile").glob("**/*.xplane.pb"))) == 1


def test_the_first_steps_on_small_images_end_within_a_call_and_a_resume(tmp_path, told):
    """Calls of 4 steps are cut at step 5, and so are a resumed run's, which begin at step 3."""
    small = ["--small_image_size=16", "--small_image_steps=5"]

    def weights(run, *arguments) -> dict[str, np.ndarray]:
        flags = ["--log_every=100", "--train_steps=9", "--export=false", f"--run_dir={run}"]
        told(*TINY, *flags, *arguments)
        return processes.tensors(tmp_path / run)

    whole = weights("whole", *small, "--steps_per_call=4")
    weights("parts", *small, "--steps_per_call=4", "--train_steps=3")
    parts = weights("parts", *small, "--steps_per_call=4")
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name
    never = weights("never")
    always = weights("always", *small[:1], "--small_image_steps=9")
    for other in (never, always):
        assert any((value != other[name]).any() for name, value in whole.items() if "conv" in name)


def test_smoothed_labels_change_the_step_and_not_the_loss_that_is_told(tmp_path, told):
    found = []
    for smoothing in (0.0, 0.5):
        told(*TINY, "--train_steps=1", f"--label_smoothing={smoothing}", "--export=false",
             "--restart", "--run_dir=run")  # fmt: skip
        losses = [r["loss"] for r in processes.records(tmp_path / "run") if r["kind"] == "train"]
        bias = "model/predictions.Sbias/.ATTRIBUTES/VARIABLE_VALUE"
        found.append((losses, processes.tensors(tmp_path / "run")[bias]))
    (plain, moved), (smoothed, moved_less) = found
    assert plain == smoothed
    assert np.abs(moved_less - moved).max() > 1e-4


def test_alternating_flips_of_the_flag_reach_the_images(tmp_path, told):
    def weights(*arguments) -> dict[str, np.ndarray]:
        told(*TINY, "--recipe=cifar", "--train_steps=2", "--export=false", "--restart",
             "--run_dir=run", *arguments)  # fmt: skip
        return processes.tensors(tmp_path / "run")

    usual, alternating = weights(), weights("--alternate_flips")
    assert any((value != alternating[name]).any() for name, value in usual.items())


def test_muon_has_its_own_rate_and_goes_on_after_a_resume(tmp_path, told):
    """At a rate of 0 it sets each inner kernel to norm sqrt(filters), and nothing else."""
    built = build_model("cifar_resnet8")
    np.savez(tmp_path / "start.npz", **{v.path: v.numpy() for v in built.variables})

    def weights(run, *arguments) -> dict[str, np.ndarray]:
        flags = ["--optimizer=muon", "--init_weights=start.npz", "--export=false"]
        told(*TINY, *flags, f"--run_dir={run}", *arguments)
        return processes.tensors(tmp_path / run)

    whole = weights("whole", "--train_steps=3")
    weights("parts", "--train_steps=2")
    parts = weights("parts", "--train_steps=3")
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name

    still = weights("still", "--train_steps=3", "--muon_learning_rate=0")
    compared = 0
    for variable in built.trainable_variables[1:]:
        if len(variable.shape) != 4:
            continue
        start = variable.numpy()
        path = variable.path.replace("/", ".S")
        found = still[f"model/{path}/.ATTRIBUTES/VARIABLE_VALUE"]
        wanted = start * variable.shape[-1] ** 0.5 / np.linalg.norm(start)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        compared += 1
    assert compared == 6


def test_rate_momentum_and_decay_of_the_flags_reach_every_weight(tmp_path, told):
    """In NumPy, on a network that is dead: behind a last offset of -1000, every ReLU gives 0.

    So that no weight but the classifier's bias has a gradient, and the rule of Sec. 3.4 is
    v = momentum v + rate decay w, w = w - v.
    """
    model = build_model("cifar_resnet8")
    model.get_layer("conv4_block1_2_bn").beta.assign(tf.fill([64], -1000.0))
    start = {variable.path: variable.numpy() for variable in model.variables}
    np.savez(tmp_path / "dead.npz", **start)
    flags = ["--learning_rate=0.125", "--momentum=0.5", "--weight_decay=0.25", "--decay=all"]
    told(*TINY, *flags, "--init_weights=dead.npz", "--train_steps=2", "--export=false",
         "--run_dir=run", "--tensorboard=false")  # fmt: skip
    saved = processes.tensors(tmp_path / "run")
    compared = 0
    for path, weights in start.items():
        layer, part = path.split("/")
        if "moving" in part or path == "predictions/bias":
            continue
        velocity = 0.0
        for _ in range(2):
            velocity = 0.5 * velocity + 0.125 * 0.25 * weights
            weights = weights - velocity
        found = saved[f"model/{layer}.S{part}/.ATTRIBUTES/VARIABLE_VALUE"]
        np.testing.assert_allclose(found, weights, rtol=1e-6, err_msg=path)
        compared += 1
    assert compared == 7 + 2 * 7 + 1  # kernels, scales and offsets, the classifier's kernel


def test_recomputation_and_parts_of_a_batch_update_the_statistics_once_a_step(tmp_path, told):
    """Each part has statistics of its own, and the moving averages follow their mean: in NumPy,
    for the first layer, whose weights stand still."""
    told(*TINY, "--recompute", "--accumulation_steps=4", "--learning_rate=0", "--train_steps=2",
         "--export=false", "--run_dir=run", "--tensorboard=false")  # fmt: skip
    saved = processes.tensors(tmp_path / "run")
    kernel, found_mean, found_variance = (
        saved[f"model/conv1_{name}/.ATTRIBUTES/VARIABLE_VALUE"]
        for name in ("conv.Skernel", "bn.Smoving_mean", "bn.Smoving_variance")
    )
    digits, recipe = pipelines.open_source("digits"), pipelines.recipe("digits")
    mean, variance = np.zeros(16), np.ones(16)
    for batch in pipelines.train_batches(digits, recipe, batch_size=32, seed=0).take(2):
        maps = tf.nn.conv2d(batch["image"], kernel, 1, "SAME").numpy().reshape(4, -1, 16)
        mean = 0.9 * mean + 0.1 * maps.mean(axis=(0, 1))
        variance = 0.9 * variance + 0.1 * maps.var(axis=1, ddof=1).mean(axis=0)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found_variance, variance, rtol=1e-4)


def test_drops_at_plateaus_are_counted_in_whole_numbers_by_a_resumed_run_too(tmp_path, told):
    """No error falls by all images, so that each evaluation but the first is one too many."""
    plateaus = ["--lr_schedule=plateau", "--plateau_patience=1", "--plateau_threshold=1"]
    for steps in (3, 4):
        told(*TINY, *plateaus, "--evaluate_every=1", f"--train_steps={steps}", "--export=false",
             "--run_dir=run")  # fmt: skip
    log = (tmp_path / "run/log.jsonl").read_text()
    assert re.findall(r'"drops": ([\d.]+)', log) == ["1", "2", "3"]


@pytest.mark.slow
def test_another_number_of_devices_needs_approximate(tmp_path):
    """Each device has batch-norm statistics of its own, so that steps would differ."""
    processes.done([*TINY, "--strategy=mirrored", "--run_dir=run"], tmp_path, devices=2)
    one = [*TINY, "--train_steps=15", "--run_dir=run"]
    refused = _main(*one, cwd=tmp_path)
    assert refused.returncode == 2
    assert "replicas=2 (now 1)" in refused.stderr
    assert "steps 12 to 15" in _done(*one, "--resume=approximate", cwd=tmp_path)


@pytest.mark.slow
def test_mixed_precision_and_several_devices_run_the_whole_path(tmp_path):
    flags = ["--precision=bfloat16", "--strategy=mirrored"]
    told = processes.done([*TINY, *flags], tmp_path, devices=2)
    assert "on 2 CPUs" in told
    assert "Test error" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--export_dir=file/deeper"], "file/deeper"),
        (["--run_dir=file"], "--run_dir=file"),
        (["--dataset=folder", "--data_dir=nowhere"], "nowhere"),
        (["--dataset=folder", "--data_dir=one"], "one"),
        (["--dataset=folder", "--data_dir=empty"], "images"),
        (["--dataset=folder", "--data_dir=untested"], "val"),
        (["--dataset=imagenet2012", "--data_dir=nowhere"], "ILSVRC2012_img_train.tar"),
        (["--mode=data_worker", "--data_service=grpc://localhost:9"], "No dispatcher"),
        (["--mode=predict", "--saved_model=empty", "--images=*"], "saved_model.pb"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_places_and_data_tell_costs_one_sentence_and_exit_code_2(tmp_path, arguments, told):
    for folder in ("one/train/a", "one/val/a", "empty/train/a", "empty/train/b", "empty/val/a",
                   "untested/train/a", "untested/train/b"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("one/train/a", "one/val/a", "untested/train/a", "untested/train/b"):
        Image.new("RGB", (32, 32)).save(tmp_path / folder / "image.png")
    (tmp_path / "file").write_text("")
    assert told in processes.refused_here([*TINY, *arguments], tmp_path)
    assert not list(tmp_path.glob("**/ckpt-*"))


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--classes=1,cat", "cat"),
        ("--validation_images=99999", "99999"),
        ("--model=cifar_resnet2000", "too deep"),
        ("--recipe=cifar --image_size=16 --alternate_flips", "with 16 pixels a side: leave it"),
    ],
)
def test_what_only_the_data_or_the_network_tell_costs_one_sentence(
    tmp_path, monkeypatch, capsys, argument, sentence
):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, *argument.split()]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in told
    assert not list(tmp_path.glob("**/ckpt-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--data_dir={shared}/data/tfds"],
     ["--dataset=folder", "--data_dir={shared}/data/imagenette_mini"]],
    ids=["imagenet2012", "folder"],
)  # fmt: skip
def test_resnet152_trains_on_photographs(tmp_path, shared, arguments):
    told = _done(
        f"--flagfile={ROOT}/configs/r152.flags",
        *[argument.format(shared=shared) for argument in arguments],
        "--batch_size=4",
        "--train_steps=2",
        cwd=tmp_path,
    )
    assert "Test error" in told
    assert list(tmp_path.glob("runs/*/ckpt-2.index"))
    assert list(tmp_path.glob("saved_models/*/1/saved_model.pb"))


@pytest.mark.slow
def test_cifar_resnet20_learns_within_500_steps(tmp_path, shared):
    """The schedule ends as the paper's does; at a rate of 0.1 the error jumps by 5 % and more."""
    told = _done(
        f"--flagfile={ROOT}/configs/cifar_r20.flags",
        f"--data_dir={shared}/data/tfds",
        "--train_steps=500",
        "--lr_drops=400,450",
        cwd=tmp_path,
    )
    assert float(re.findall(r"Test error +(\d+\.\d\d) %", told)[0]) < 55


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_quickstart_reaches_its_error_with_every_seed(tmp_path, seed):
    told = _done(f"--flagfile={ROOT}/configs/quickstart.flags", f"--seed={seed}", cwd=tmp_path)
    assert float(re.findall(r"Test error +(\d+\.\d\d) %", told)[0]) <= 1.5
