"""Killed at any moment and started again, a run ends as an undisturbed one: to the last bit."""

import contextlib
import fcntl
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from PIL import Image
from processes import (
    TINY,
    assert_same_run,
    done,
    done_here,
    last_step,
    records,
    refused_here,
    running,
    saved_step,
)

# Periods without a common measure, so that most kills fall between them.
PERIODS = ["--log_every=3", "--checkpoint_every=7", "--evaluate_every=20", "--steps_per_call=4",
           "--export=false"]  # fmt: skip


def _kill_at(step: int, arguments: list[str], folder: Path, **options) -> None:
    """Start the command and kill every worker some steps after the log has come to ``step``."""
    run = folder / "run"
    with running(arguments, folder, **options) as processes:
        deadline = time.monotonic() + 300
        while last_step(run) < step:
            assert time.monotonic() < deadline
            for process in processes:
                assert process.popen.poll() is None, process.complaints
            time.sleep(0.001)
        for process in processes:
            process.kill()


def _assert_survives(kills: list[int], arguments: list[str], folder: Path, **options) -> None:
    broken = folder / "broken"
    with running(arguments, folder / "whole", **options) as undisturbed:
        for step in kills:
            _kill_at(step, arguments, broken, **options)
        done(arguments, broken, **options)
        for process in undisturbed:
            assert process.wait() == 0, process.complaints
    assert_same_run(folder / "whole/run", broken / "run")


def test_a_killed_run_ends_as_if_nothing_had_been(tmp_path):
    arguments = [*TINY, *PERIODS, "--train_steps=60", "--evaluate_every=0"]
    _assert_survives([random.Random(1).randrange(9, 30)], arguments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--train_steps=300"], {}),
        (["--train_steps=60", "--precision=bfloat16"], {}),
        (["--train_steps=60", "--precision=float16"], {}),
        (["--train_steps=200", "--accumulation_steps=2"], {}),
        (["--train_steps=200", "--strategy=mirrored"], {"devices": 4}),
        (["--train_steps=40", "--strategy=mirrored", "--precision=bfloat16"], {"devices": 2}),
        (["--train_steps=150"], {"workers": 2}),
        (["--train_steps=40", "--precision=bfloat16"], {"workers": 2}),
        (["--train_steps=60", "--precision=float16", "--optimizer=muon"], {}),
        (["--train_steps=40", "--optimizer=muon"], {"workers": 2}),
    ],
    ids=["float32", "bfloat16", "float16", "accumulation", "mirrored", "mirrored-bfloat16",
         "workers", "workers-bfloat16", "float16-muon", "workers-muon"],
)  # fmt: skip
def test_kills_at_random_steps(tmp_path, arguments, options):
    """The first one comes before there is any checkpoint."""
    steps = int(arguments[0].partition("=")[2])
    kills = [3, *sorted(random.Random(steps).sample(range(9, steps - steps // 4), 2))]
    _assert_survives(kills, [*TINY, *PERIODS, *arguments], tmp_path, **options)


@pytest.mark.slow
def test_a_plateau_is_remembered(tmp_path):
    """No evaluation improves by all images, and every second one is one too many."""
    arguments = [*TINY, *PERIODS, "--train_steps=150", "--lr_schedule=plateau",
                 "--plateau_patience=2", "--plateau_threshold=1"]  # fmt: skip
    _assert_survives([33, 70, 115], arguments, tmp_path)
    drops = [r["step"] for r in records(tmp_path / "broken/run") if r["kind"] == "plateau"]
    assert drops == [60, 100, 140]


@pytest.mark.slow
def test_the_warm_up_is_remembered(tmp_path):
    """It ends at a multiple of 50 steps, by the error of the 50 before: kills within and after."""
    arguments = [*TINY, *PERIODS, "--train_steps=150", "--warmup_until_error=0.88",
                 "--warmup_learning_rate=0.003"]  # fmt: skip
    _assert_survives([30, 75, 120], arguments, tmp_path)
    rates = {r["learning_rate"] for r in records(tmp_path / "broken/run") if r["kind"] == "train"}
    assert rates == {0.003, 0.1}


@pytest.mark.slow
def test_kills_while_a_checkpoint_is_written(tmp_path):
    arguments = [*TINY, "--train_steps=40", "--checkpoint_every=1", "--log_every=3"]
    done(arguments, tmp_path / "whole")
    run = tmp_path / "broken/run"

    def half_written() -> list[Path]:
        """TensorFlow writes a checkpoint's parts into a folder and moves them out."""
        return [part for part in run.glob("ckpt-*_temp/*") if part.is_file()]

    stood = []
    for _ in range(3):
        with running(arguments, tmp_path / "broken") as (process,):
            before = set(half_written())
            process.catch(lambda before=before: set(half_written()) - before)
            process.kill()
        stood.append(saved_step(run))
        assert set(half_written()) - before
    assert stood == sorted(stood)
    done(arguments, tmp_path / "broken")
    assert_same_run(tmp_path / "whole/run", run)


def _edit(run: Path, part: str, **changed) -> None:
    config = json.loads((run / "config.json").read_text())
    config[part] |= changed
    (run / "config.json").write_text(json.dumps(config))


def test_what_the_images_came_by_may_not_change_unsaid(tmp_path):
    """What two machines and a data service leave is played by the configuration they write."""
    command, run = [*TINY, "--export=false"], tmp_path / "run"
    done_here([*command, "--train_steps=2"], tmp_path)
    _edit(run, "data", workers=2)
    assert "workers=2 (now 1)" in refused_here([*command, "--train_steps=3"], tmp_path)
    _edit(run, "data", workers=1)
    _edit(run, "flags", data_service="grpc://there:5000")
    told = refused_here([*command, "--train_steps=3"], tmp_path)
    assert "--data_service=grpc://there:5000 (now )" in told
    _edit(run, "data", workers=2)
    done_here([*command, "--train_steps=3", "--resume=approximate"], tmp_path)
    assert saved_step(run) == 3


def test_a_run_that_made_more_steps_keeps_its_configuration(tmp_path):
    command, config = [*TINY, "--export=false"], tmp_path / "run/config.json"
    done_here([*command, "--train_steps=3"], tmp_path)
    before = config.read_bytes()
    told = refused_here([*command, "--train_steps=2"], tmp_path)
    assert "run stands at step 3, and --train_steps=2 are fewer" in told
    assert config.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_during_an_evaluation(tmp_path, workers):
    arguments = [*TINY, *PERIODS, "--train_steps=50", "--evaluation_batch_size=2"]
    done(arguments, tmp_path / "whole", workers=workers)
    run = tmp_path / "broken/run"
    for step in (20, 40):

        def evaluating(step: int = step) -> bool:
            tested = any(r["kind"] == "test" and r["step"] == step for r in records(run))
            return saved_step(run) == step and not tested

        with running(arguments, tmp_path / "broken", workers=workers) as processes:
            processes[0].catch(evaluating)
            for process in processes:
                process.kill()
        assert evaluating()
    done(arguments, tmp_path / "broken", workers=workers)
    assert_same_run(tmp_path / "whole/run", run)


@pytest.mark.slow
def test_a_kill_during_the_export(tmp_path):
    arguments = [*TINY, "--train_steps=5"]
    exports = tmp_path / "out"
    with running(arguments, tmp_path) as (process,):
        process.catch(lambda: list(exports.glob(".writing-*/*")))
        process.kill()
    assert list(exports.glob(".writing-*/*"))
    tested = records(tmp_path / "run")
    Image.new("RGB", (20, 20), (90, 30, 200)).save(tmp_path / "one.png")
    ask = ["--mode=predict", "--saved_model=out", "--images=one.png"]
    with running(ask, tmp_path) as (process,):
        assert process.wait() == 2
        assert len(process.complaints) == 1
    assert "out/1" in done(arguments, tmp_path)
    assert records(tmp_path / "run") == tested
    assert "one.png" in done(ask, tmp_path)
    assert [p.name for p in exports.iterdir() if not p.name.startswith(".")] == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "options", [{}, {"devices": 4}, {"workers": 2}], ids=["alone", "mirrored", "workers"]
)
def test_a_signal_changes_nothing(tmp_path, name, options):
    """But on several devices: their statistics are averaged where the run stops, and so rounded."""
    strategy = ["--strategy=mirrored"] if "devices" in options else []
    arguments = [*TINY, *PERIODS, *strategy, "--train_steps=150"]
    done(arguments, tmp_path / "whole", **options)
    run = tmp_path / "broken/run"
    for step in sorted(random.Random(name).sample(range(9, 100), 2)):
        with running(arguments, tmp_path / "broken", **options) as processes:
            while last_step(run) < step:
                assert processes[0].popen.poll() is None, processes[0].complaints
                time.sleep(0.001)
            processes[0].popen.send_signal(getattr(signal, name))
            for process in processes:
                assert process.wait() == 75
                assert len(process.complaints) == 1
            where = rf"(after|while evaluating) step {saved_step(run)}\b"
            assert re.search(f"Stopped by {name} {where}", processes[0].complaints[0])
    done(arguments, tmp_path / "broken", **options)
    assert_same_run(tmp_path / "whole/run", run, rounded="moving_" if options else "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ([*TINY, "--train_steps=50000", "--export=false", "--log_every=1"], "run"),
        (
            [
                "--mode=reproduce", "--experiment=lab_vgg16",
                "--train_flags=--dataset=digits --classes= --recipe=digits --model=cifar_resnet8 "
                "--export=false --log_every=1 --train_steps=50000",
            ],
            "runs/lab_vgg16",
        ),
    ],
    ids=["train", "reproduce"],
)  # fmt: skip
def test_a_closed_terminal_is_a_request_to_stop(tmp_path, arguments, place):
    """What is still written to it, a line each step, must not end the training before it saves."""
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "resnet_keras.main", *arguments],
        cwd=tmp_path,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdin=inner, stdout=inner, stderr=inner,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # its controlling terminal
    )  # fmt: skip
    os.close(inner)
    os.set_blocking(terminal, False)
    seen = b""
    while last_step(tmp_path / place) < 9:
        with contextlib.suppress(BlockingIOError):
            seen += os.read(terminal, 65_536)
        assert process.poll() is None, seen
        time.sleep(0.01)
    os.close(terminal)
    assert process.wait(120) == 75
    assert saved_step(tmp_path / place) >= 9
