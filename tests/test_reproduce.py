"""--mode=reproduce: what it would do and cost, and that it does it, goes on, and refuses."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from processes import last_step, running, saved_step

from resnet_keras import reproduce
from resnet_keras.main import main
from resnet_keras.reporting.experiments import EXPERIMENTS, Experiment, Row

TINY = "--train_steps=4 --batch_size=8 --model=cifar_resnet8 --export=false --log_every=2"


@pytest.fixture
def told(monkeypatch, capfd):
    """Return the function from arguments to exit code, output and complaints, in this process."""
    monkeypatch.setattr(reproduce, "_rate", lambda root: (1e9, "assumed"))

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


def test_small_images_cost_as_they_are_small(told, tmp_path):
    """Convolutions of half the side cost a quarter; the 640 products of the classifier stay."""
    small = "--train_flags=--small_image_size=16 --small_image_steps=32000"
    _, output, _ = told("--experiment=table6", "--dry_run", f"--run_dir={tmp_path}", small)
    (line,) = [line for line in output.splitlines() if line.startswith("train cifar_r20 ")]
    quarter = (40_551_040 - 640) // 4 + 640
    assert line.split()[3] == f"{3 * 32_000 * 128 * (40_551_040 + quarter):.1e}"


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


def test_the_exit_code_of_a_step_is_passed_on(told, tmp_path, monkeypatch):
    tiny = Experiment("a tiny one", None, (Row("digits", ("quickstart",)),))
    monkeypatch.setitem(EXPERIMENTS, "table6", tiny)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/quickstart").mkdir(parents=True)
    (tmp_path / "runs/quickstart/checkpoint").write_text("damaged")
    (tmp_path / "runs/quickstart/config.json").write_text("{}")
    code, _, complaint = told("--experiment=table6", f"--train_flags={TINY}")
    assert code == 2
    assert "train quickstart ended with exit code 2" in complaint


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
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
        assert "train lab_vgg16 ended with exit code 75" in told
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


def test_the_speed_of_a_block_is_a_number():
    done = subprocess.run(
        [sys.executable, "-m", "resnet_keras.training.speed"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 1e8 < float(done.stdout) < 1e16
