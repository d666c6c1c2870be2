"""--mode=reproduce: what it would do and cost, and that it does it, goes on, and refuses."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT
from processes import last_step, running, saved_step

from resnet_keras import command_line, costs, reproduce
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.main import main
from resnet_keras.reporting.experiments import EXPERIMENTS, Experiment, Row
from resnet_keras.training import runs, speed

TINY = "--train_steps=4 --batch_size=8 --model=cifar_resnet8 --export=false --log_every=2"


@pytest.fixture
def told(monkeypatch, capfd):
    """Return the function from arguments to exit code, output and complaints, in this process."""
    monkeypatch.setattr(costs, "rate", lambda root, config: (1e9, "assumed"))

    def ask(*arguments):
        code = main(["--mode=reproduce", *arguments])
        return code, *capfd.readouterr()

    return ask


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_planned_without_its_data(name, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, complaint = told(f"--experiment={name}", "--dry_run")
    assert (code, complaint) == (0, "")
    commands = [line for line in output.splitlines() if line.startswith("python -m")]
    assert "--mode=report" in commands[-1]
    started = [
        re.search(r"--run_dir=(\S+)", command)[1] for command in commands if "configs" in command
    ]
    for command in commands:
        needed = re.search(r"--init_from=(\S+)", command)
        if needed:  # is trained before
            own = re.search(r"--run_dir=(\S+)", command)[1]
            assert started.index(needed[1]) < started.index(own)
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"


def test_the_estimate_is_arithmetic(told, tmp_path):
    """ResNet-20 has 40.55 million multiply-adds; 64,000 steps of 128 images, three passes each."""
    code, output, _ = told("--experiment=table6", "--dry_run", f"--run_dir={tmp_path}")
    assert code == 0
    (line,) = [line for line in output.splitlines() if line.startswith("train cifar_r20 ")]
    images = 64_000 * 128
    cost = 3 * 40_551_040 * images
    assert line.split()[2:6] == [f"{images:,}", f"{cost:.1e}", "8.2", f"{cost / 1e9 / 3600:,.0f}"]
    (line,) = [line for line in output.splitlines() if line.startswith("test cifar_r20:")]
    assert line.split()[3:5] == ["10,000", f"{40_551_040 * 10_000:.1e}"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        # 5.0e18 multiply-adds at 3,170 images/s of ResNet-50, 3 x 4.09e9 each: 36 hours.
        ("table2", "about 36 hours on 8 V100 GPUs in float32."),
        # 3.0e14 at 50,000 images of ResNet-110 in 165 s, 3 x 2.53e8 each: 0.36 hours.
        ("lab_vgg16", "about 0.36 hours on one GTX 1080 Ti in float32."),
    ],
)
def test_hours_on_gpus_are_at_a_published_speed(name, sentence, told, tmp_path):
    _, output, _ = told(f"--experiment={name}", "--dry_run", f"--run_dir={tmp_path}")
    assert sentence in output


def test_small_images_cost_as_they_are_small(told, tmp_path):
    """Convolutions of half the side cost a quarter; the 640 products of the classifier stay."""
    small = "--train_flags=--small_image_size=16 --small_image_steps=32000"
    _, output, _ = told("--experiment=fig1_fig6", "--dry_run", f"--run_dir={tmp_path}", small)
    (line,) = [line for line in output.splitlines() if line.startswith("train cifar_r20 ")]
    quarter = (40_551_040 - 640) // 4 + 640
    assert line.split()[3] == f"{3 * 32_000 * 128 * (40_551_040 + quarter):.1e}"


def test_seeds_are_trained_and_tested_one_by_one(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, output, _ = told("--experiment=cifar_r20_fast", "--dry_run")
    commands = [line for line in output.splitlines() if line.startswith("python -m")]
    trained, tested = (
        [re.search(r"--run_dir=(\S+)", line)[1] for line in commands if mark in line]
        for mark in ("--flagfile", "--mode=evaluate")
    )
    runs = ["runs/cifar_r20_fast", "runs/cifar_r20_fast_seed1", "runs/cifar_r20_fast_seed2"]
    assert (trained, tested) == (runs, runs)
    assert [re.findall(r"--seed=(\d)", line) for line in commands[:3]] == [[], ["1"], ["2"]]
    assert f"--runs={','.join(runs)} " in commands[-1]
    assert "--ensemble" not in output


def test_ten_crops_cost_ten_and_150_crops_cost_150(told, tmp_path):
    _, output, _ = told("--experiment=table2", "--dry_run", f"--run_dir={tmp_path}")
    (line,) = [line for line in output.splitlines() if line.startswith("test r18: ten_crop")]
    assert float(line.split()[4]) == pytest.approx(10 * 1.8e9 * 50_000, rel=0.05)  # Table 1
    _, output, _ = told("--experiment=vgg_table5", "--dry_run", f"--run_dir={tmp_path}")
    (line,) = [line for line in output.splitlines() if "vgg_d_jitter: multi_crop " in line]
    assert float(line.split()[4]) == pytest.approx(150 * 15.5e9 * 50_000, rel=0.05)


def test_it_runs_goes_on_and_reports(told, tmp_path, monkeypatch):
    tiny = Experiment("a tiny one", None, (Row("digits", ("quickstart",)),), ("curves",))
    monkeypatch.setitem(EXPERIMENTS, "table6", tiny)
    monkeypatch.chdir(tmp_path)
    code, output, _ = told("--experiment=table6", f"--train_flags={TINY}")
    assert code == 0
    metrics = json.loads(
        (tmp_path / "runs/quickstart/evaluation/test_center/metrics.json").read_text()
    )
    assert metrics["members"][0]["step"] == 4
    assert (tmp_path / "runs/reports/table6/report.html").is_file()
    assert not (tmp_path / "saved_models").exists(), "--export=false"
    log = (tmp_path / "runs/quickstart/log.jsonl").read_text()
    code, output, _ = told("--experiment=table6", f"--train_flags={TINY}", "--dry_run")
    assert [line.startswith("done: ") for line in output.splitlines() if "python -m" in line] == [
        True, True, False,
    ]  # fmt: skip
    assert (tmp_path / "runs/quickstart/log.jsonl").read_text() == log
    # A longer training is not done yet.
    longer = TINY.replace("train_steps=4", "train_steps=6")
    _, output, _ = told("--experiment=table6", f"--train_flags={longer}", "--dry_run")
    assert "done: " not in output


@pytest.mark.parametrize("code", [2, 75])
def test_the_exit_code_of_a_step_is_passed_on(code, tiny, told, monkeypatch):
    """And the same command is said to go on only where it does."""
    flags = f"{TINY} --export"
    (tiny / "saved_models").write_text("a file, in which the training cannot export")
    if code == 75:
        stopped = [sys.executable, "-c", "raise SystemExit(75)"]
        run = reproduce._run
        monkeypatch.setattr(reproduce, "_run", lambda command: run(stopped))
    found, _, complaint = told("--experiment=table6", f"--train_flags={flags}")
    assert found == code
    told_end = "; the same command goes on from there.\n" if code == 75 else ".\n"
    assert complaint.endswith(f"train quickstart ended with exit code {code}{told_end}")
    assert ("--export_dir=saved_models/quickstart cannot be written" in complaint) == (code == 2)


def _write_run(arguments, **changes):
    """Write what a training leaves: of the plan's own flags, tested after its last step."""
    train = command_line.read(arguments)
    run = Path(train.run_dir)
    run.mkdir(parents=True)
    flags = dataclasses.asdict(train) | changes
    environment = {"cpu": runs.cpu()}
    saved = {"flags": flags, "data": {"training_images": 1_437}, "environments": [environment]}
    (run / "config.json").write_text(json.dumps(saved))
    (run / "checkpoint").touch()
    steps = flags["train_steps"]
    records = [
        {"kind": "train", "step": steps, "images_per_second": 1_000.0},
        {"kind": "test", "step": steps, "images": 360, "wrong": 36, "top1_error": 0.1},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return run


def _write_test(folder, **changes):
    member = {
        "place": "runs/quickstart", "model": "cifar_resnet8", "step": 4, "checkpoint": "latest",
        "batchnorm_statistics": "moving_average", "precision": "float32", "recipe": "digits",
        "image_size": 32, "scales": {"center": [32]},
    }  # fmt: skip
    metrics = {"dataset": "digits", "split": "test", "views": "center", "members": [member]}
    for name, value in changes.items():
        (member if name in member else metrics)[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Make table6 an experiment of one small run; work in an empty folder."""
    tiny = Experiment("a tiny one", None, (Row("digits", ("quickstart",)),))
    monkeypatch.setitem(EXPERIMENTS, "table6", tiny)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _planned(flags=TINY):
    """Return the steps of the tiny experiment."""
    arguments = ["--mode=reproduce", "--experiment=table6", f"--train_flags={flags}"]
    return reproduce.plan("table6", command_line.parse(arguments))


def _done(flags=TINY):
    return [step.done for step in _planned(flags)][:2]


def test_what_is_done_is_told_by_what_lies_there(tiny):
    run = _write_run(_planned()[0].arguments)
    place = run / "evaluation/test_center"
    assert _done() == [True, False]
    _write_test(place)
    assert _done() == [True, True]
    # Fewer steps than the run has made are done, and so is their test; more are not.
    assert _done(f"{TINY} --train_steps=3") == [True, True]
    assert _done(f"{TINY} --train_steps=5") == [False, False]
    for change in (
        {"step": 3}, {"dataset": "cifar10"}, {"split": "validation"}, {"views": "ten_crop"},
        {"place": "runs/other"}, {"checkpoint": "best"}, {"model": "cifar_resnet20"},
        {"image_size": 16}, {"members": []},
    ):  # fmt: skip
        _write_test(place, **change)
        assert _done() == [True, False], change
    log = run / "log.jsonl"
    whole = log.read_text()
    # A plateau may be told after the last test; a longer training begun is not tested yet.
    log.write_text(whole + '{"kind": "plateau", "step": 4}\n{"kind": "half')
    assert _done()[0]
    log.write_text(whole + '{"kind": "train", "step": 5}\n')
    assert not _done()[0]
    log.write_text(whole.splitlines()[0] + "\n")
    assert not _done()[0]


def test_a_run_of_another_configuration_is_refused_at_once(tiny, told, monkeypatch):
    """The second run contradicts: nothing of the first is run before that is told."""
    two = Experiment("two", None, (Row("a", ("quickstart",)), Row("b", ("quickstart_seed1",))))
    monkeypatch.setitem(EXPERIMENTS, "table6", two)
    run = _write_run(_planned()[1].arguments, learning_rate=0.3)
    for also in ((), ("--dry_run",)):
        code, output, complaint = told("--experiment=table6", f"--train_flags={TINY}", *also)
        assert (code, output, complaint.count("\n")) == (2, "", 1)
        assert "runs/quickstart_seed1 holds a run with --learning_rate=0.3 (now 0.05)" in complaint
    # Without a checkpoint, it would be made anew.
    (run / "checkpoint").unlink()
    assert not _planned()[1].done


def test_what_a_training_makes_definite_is_no_other_configuration(tiny):
    """1,437 images in batches of 8 are 180 steps an epoch; how the first weights' run is spelled
    is all one, for a run has its own."""
    flags = f"{TINY} --lr_schedule=plateau --lr_drops= --precision=auto"
    _write_run(
        _planned(flags)[0].arguments,
        evaluate_every=180, precision="bfloat16", init_from="/data/runs/a", log_every=7,
    )  # fmt: skip
    assert _done(flags)[0]
    with pytest.raises(InputError, match=r"--precision=bfloat16 \(now float32\)"):
        _planned(flags.replace("=auto", "=float32"))
    with pytest.raises(InputError, match=r"--evaluate_every=180 \(now 100\)"):
        _planned(f"{flags} --evaluate_every=100")


def test_a_training_is_not_done_before_its_export(tiny):
    flags = f"{TINY} --export"
    _write_run(_planned(flags)[0].arguments)
    version = tiny / "saved_models/quickstart/1"
    assert not _done(flags)[0]
    version.mkdir(parents=True)
    assert not _done(flags)[0]
    tested = {"split": "test", "step": 4, "images": 360, "wrong": 36, "top1_error": 0.1}
    # Not an export of an older step, nor of another run that came to this one.
    for metrics, done in ((tested | {"step": 3}, False), (tested | {"wrong": 35}, False),
                          (None, False), (tested, True)):  # fmt: skip
        (version / "manifest.json").write_text(json.dumps({"step": 4, "metrics": metrics}))
        assert _done(flags)[0] is done


def test_responses_are_of_the_last_step(tiny, monkeypatch):
    rows = (Row("digits", ("quickstart",)),)
    monkeypatch.setitem(EXPERIMENTS, "table6", Experiment("one", None, rows, ("responses",)))
    file = _write_run(_planned()[0].arguments) / "responses/responses.csv"
    file.parent.mkdir()
    for content, done in (
        ("", False),
        ("run,layer,name,std,sorted_std\nruns/quickstart,1,a,1,1\n", False),
        ("run,step,layer,name,std,sorted_std\nruns/quickstart,3,1,a,1,1\n", False),
        ("run,step,layer,name,std,sorted_std\nruns/other,4,1,a,1,1\n", False),
        ("run,step,layer,name,std,sorted_std\nruns/quickstart,4,1,a,1,1\n", True),
    ):
        file.write_text(content)
        assert _planned()[2].done is done


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("log.jsonl", "{}\n", "Line 1 of runs/quickstart/log.jsonl is no record"),
        ("config.json", "{}", "runs/quickstart/config.json is not a run's readable"),
        ("config.json", '{"flags": 3, "data": 3, "environments": 3}', "not a run's readable"),
        ("evaluation/test_center/metrics.json", "[", "metrics.json is no readable result"),
        ("evaluation/test_center/metrics.json", '{"members": [3]}', "is no readable result"),
    ],
)
def test_damaged_files_are_told_in_one_sentence(name, content, sentence, tiny, told):
    run = _write_run(_planned()[0].arguments)
    _write_test(run / "evaluation/test_center")
    (run / name).write_text(content)
    code, output, complaint = told("--experiment=table6", f"--train_flags={TINY}", "--dry_run")
    assert (code, output, complaint.count("\n")) == (2, "", 1)
    assert sentence in complaint


def test_the_speed_is_of_such_runs_on_this_machine(tiny):
    """ResNet-8 has 12,239,488 multiply-adds at 32 pixels, a quarter of its convolutions' at 16."""
    arguments = _planned()[0].arguments
    speed = 1_000 * 3
    run = _write_run(arguments)
    small = Config(dataset="cifar10", model="cifar_resnet20")
    large = Config(dataset="cifar10", model="cifar_resnet20", image_size=224)
    assert list(costs._measured(Path("runs"), small)) == [speed * 12_239_488]
    assert list(costs._measured(Path("runs"), large)) == []
    whichever = dataclasses.replace(small, precision="auto")
    assert list(costs._measured(Path("runs"), whichever)) == [speed * 12_239_488]
    saved = json.loads((run / "config.json").read_text())

    def rewrite(flags, **others):
        content = {**saved, "flags": saved["flags"] | flags, **others}
        (run / "config.json").write_text(json.dumps(content))
        return list(costs._measured(Path("runs"), small))

    assert rewrite({"image_size": 16}) == [speed * ((12_239_488 - 640) // 4 + 640)]
    assert rewrite({"classes": ["0", "1", "2"]}) == [speed * (12_239_488 - 7 * 64)]
    assert rewrite({"small_image_size": 16, "small_image_steps": 4}) == []
    assert rewrite({"recompute": True}) == []
    assert rewrite({"precision": "bfloat16"}) == []
    assert rewrite({"model": "none"}) == []
    assert rewrite({"batch_size": "many"}) == []
    assert rewrite({"lr_drops": None}) == []
    assert rewrite({}, environments=[{"cpu": "another"}]) == []
    here = {"cpu": runs.cpu(), "cores": runs.cores()}
    assert rewrite({}, environments=[here]) == [speed * 12_239_488]
    assert rewrite({}, environments=[here | {"cores": runs.cores() + 1}]) == []
    # Machines of one processor's name, of which one lacks instructions.
    assert rewrite({}, environments=[here | {"instructions": ["avx2", "amx_bf16"]}]) == []
    assert rewrite({}, environments=[here | {"instructions": runs.instructions()}]) != []
    assert rewrite({}, environments=[]) == []


def test_a_block_is_measured_in_the_asked_precision(tmp_path, monkeypatch):
    commands, policies = [], []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "7.5")

    with monkeypatch.context() as patched:
        patched.setattr(costs.subprocess, "run", run)
        asked = Config(dataset="cifar10", model="cifar_resnet20", precision="bfloat16")
        assert costs.rate(tmp_path, asked) == (7.5, "measured just now on one block")
    assert commands[0][-1] == "bfloat16"

    def block(inputs, *arguments, **options):
        policies.append(keras.config.dtype_policy().name)
        return keras.layers.Conv2D(4, 1)(inputs)

    before = keras.config.dtype_policy()
    monkeypatch.setattr(speed, "basic_block", block)
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    try:
        assert speed.measure(commands[0][-1]) > 0
    finally:
        keras.config.set_dtype_policy(before)
    assert policies == ["mixed_bfloat16"]


def test_a_speed_that_cannot_be_measured_costs_only_the_hours(tiny, capfd, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    code = main(["--mode=reproduce", "--experiment=table6", f"--train_flags={TINY}", "--dry_run"])
    output = capfd.readouterr().out
    assert code == 0
    assert "how many a second here is not known (measuring it ended with exit code 1)" in output
    assert "hours here at" not in output


def test_what_is_done_is_shown_so_whatever_it_costs(tiny, told):
    """Of a folder, nobody knows the number of test images before it is read."""
    flags = f"{TINY} --dataset=folder --recipe=digits"
    _write_run(_planned(flags)[0].arguments)
    _write_test(tiny / "runs/quickstart/evaluation/test_center", dataset="folder")
    _, output, _ = told("--experiment=table6", f"--train_flags={flags}", "--dry_run")
    (line,) = [line for line in output.splitlines() if line.startswith("test quickstart")]
    assert line.split() == ["test", "quickstart:", "center", "done"]


def test_recomputation_costs_one_more_pass(told, tmp_path):
    _, output, _ = told("--experiment=table6", "--dry_run", f"--run_dir={tmp_path}",
                        "--train_flags=--recompute --train_steps=1000")  # fmt: skip
    (line,) = [line for line in output.splitlines() if line.startswith("train cifar_r20 ")]
    assert line.split()[3] == f"{4 * 40_551_040 * 128_000:.1e}"


def test_it_runs_on_one_machine(tiny, told, monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    arguments = ["--experiment=table6", f"--train_flags={TINY}"]
    code, output, complaint = told(*arguments)
    assert (code, output, complaint.count("\n")) == (2, "", 1)
    assert "TF_CONFIG names 2 machines, and --mode=reproduce is for one" in complaint
    assert told(*arguments, "--dry_run")[0] == 0
    assert not list(tiny.iterdir())


CHILD = """
import signal, sys, time
def end(*_):
    raise SystemExit({code})
signal.signal(signal.SIGINT, end)
open("started", "w").close()
time.sleep(60)
"""


@pytest.fixture
def watched():
    """Run as from a terminal; nohup, under which tests may run, has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(("code", "returned"), [(0, 75), (1, 75), (75, 75), (2, 2)])
def test_an_interrupted_command_runs_no_further_step(name, code, returned, tiny, told, monkeypatch):
    """Whatever the step at hand makes of the signal; the next one would print its command."""
    child = [sys.executable, "-c", CHILD.format(code=code)]
    run = reproduce._run
    monkeypatch.setattr(reproduce, "_run", lambda command: run(child))

    def interrupt():
        while not (tiny / "started").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), getattr(signal, name))

    thread = threading.Thread(target=interrupt)
    thread.start()
    found, output, complaint = told("--experiment=table6", f"--train_flags={TINY}")
    thread.join()
    assert found == returned
    assert output.count("python -m") == 1
    assert ("interrupted in train quickstart" in complaint) == (code != 2)


@pytest.mark.slow
@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_reaches_the_training_once_and_it_resumes(tmp_path, name):
    flags = "--dataset=digits --classes= --recipe=digits --model=cifar_resnet8 --train_steps={}"
    arguments = ["--mode=reproduce", "--experiment=lab_vgg16"]
    run = tmp_path / "runs/lab_vgg16"
    long = f"--train_flags={flags.format(50_000)} --export=false"
    with running([*arguments, long], tmp_path) as (process,):
        while last_step(run) < 59:  # the first line of the log
            assert process.popen.poll() is None, process.complaints
            time.sleep(0.01)
        process.popen.send_signal(getattr(signal, name))
        assert process.wait() == 75
        stopped, told = process.complaints
        assert re.search(rf"Stopped by SIGINT after step {saved_step(run)}\b", stopped)
        assert "interrupted in train lab_vgg16; the same command goes on" in told
    short = f"--train_flags={flags.format(saved_step(run) + 2)} --export=false"
    with running([*arguments, short], tmp_path) as (process,):
        assert process.wait() == 0, process.complaints
        assert (
            f"Resuming cifar_resnet8 on digits (1,437 images): steps {saved_step(run) - 2:,} "
            in (process.output)
        )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--mode=reproduce needs --experiment: one of table2, table3"),
        (["--experiment=table9"], "--experiment=table9 is not one of: table2, table3"),
        (
            ["--experiment=table6", "--batch_size=8"],
            "--batch_size=8 has no place in --mode=reproduce: put it into --train_flags",
        ),
        (["--experiment=table6", "--train_flags=--lerning_rate=1"], "--lerning_rate is no flag."),
        (["--experiment=table6", "--train_flags='"], "--train_flags=': no closing quotation"),
        (["--experiment=table2", "--data_dir=nowhere"], "imagenet2012"),
        (["--experiment=table6", "--train_flags=--model=foo", "--dry_run"], "foo"),
        (
            [
                "--experiment=fig4",
                "--train_flags=--small_image_size=224 --small_image_steps=10",
                "--dry_run",
            ],
            "plain18: --small_image_size=224: give at least",
        ),
        (
            ["--experiment=table6", "--train_flags=--small_image_size=16 --small_image_steps=9"],
            "cifar_r1202: --small_image_size=16 has no place beside --recompute",
        ),
        *(
            (
                ["--experiment=table6", f"--train_flags=--train_steps=9 {flag}"],
                f"--train_flags: {flag.partition(' ')[0]} has no place there",
            )
            for flag in (
                *("--restart", "--norestart", "--run_dir=a", "--export_dir=a", "--seed=3"),
                *("--views=dense", "--checkpoint=best", "--output_dir=a"),
                *("-seed 3", "--mode=train", "--init_from=a", "--init_weights=a"),
            )
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    arguments, sentence, told, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, _, complaint = told(*arguments)
    assert code == 2
    assert complaint.count("\n") == 1
    assert sentence in complaint
    assert not list(tmp_path.iterdir())


def test_the_speed_of_a_block_is_near_that_of_a_matrix_product(monkeypatch):
    """Both keep all cores busy with multiply-adds; batch norm and memory cost the block some."""
    from resnet_keras.training import speed

    matrix = np.ones((2048, 2048), np.float32)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    monkeypatch.setattr(speed, "SECONDS", 0.2)
    assert 0.05 < speed.measure("float32") * min(seconds) / 2048**3 < 4
    # Two 3x3 convolutions of 128 channels at 28x28 pixels are 231,211,008 an image (Table 1).
    assert speed.MULTIPLY_ADDS == 3 * 64 * 231_211_008


@pytest.mark.slow
def test_the_speed_of_a_block_is_all_that_its_process_prints():
    done = subprocess.run(
        [sys.executable, "-m", "resnet_keras.training.speed", "float32"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 1e9 < float(done.stdout) < 1e15
