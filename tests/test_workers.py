"""Several workers as real processes on loopback, each with its TF_CONFIG."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from processes import (
    TINY,
    assert_same_run,
    done,
    last_step,
    records,
    running,
    saved_step,
)

from resnet_keras.errors import InputError
from resnet_keras.training.strategy import read_cluster

STEPS = [*TINY, "--log_every=5", "--steps_per_call=4"]


def _ends(arguments, folder, workers: int = 2, **options) -> list[tuple[int, list[str]]]:
    """Run a cluster to its end, good or bad: each worker's exit code and complaints."""
    with running(arguments, folder, workers=workers, **options) as processes:
        return [(process.wait(), process.complaints) for process in processes]


def _counted(told: str) -> str:
    """Return what a command prints of an evaluation; the top-1 error comes first."""
    return re.findall(r"\(([\d,]+ of [\d,]+) images wrong\)", told)[0]


def test_two_workers_train_evaluate_and_export_as_one(tmp_path):
    told = done([*STEPS, "--train_steps=24", "--evaluation_batch_size=50"], tmp_path, workers=2)
    assert "on 2 CPUs" in told
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1"]
    log = records(tmp_path / "run")
    assert [r["step"] for r in log] == [5, 10, 15, 20, 24, 24]
    assert log[-1]["images"] == 360  # each once: 50 do not divide 360
    # The chief's statistics alone would answer otherwise.
    alone = ["--mode=evaluate", "--run_dir=run", "--strategy=multi_worker"]
    assert _counted(done(alone, tmp_path)) == _counted(told)


def _variables(tmp_path, norm: str, workers: int) -> list[dict[str, np.ndarray]]:
    files = [str(tmp_path / f"{workers}_{worker}.npz") for worker in range(workers)]
    program = ["-P", str(ROOT / "tests/one_worker.py"), norm]
    name = str(tmp_path / f"{workers}_{{worker}}.npz")
    for code, complaints in _ends([name], tmp_path, workers, program=program):
        assert code == 0, complaints
    return [dict(np.load(file)) for file in files]


@pytest.mark.slow
def test_two_workers_equal_one_device(tmp_path):
    """The same 20 batches of digits, in halves."""
    (one,) = _variables(tmp_path, "plain", 1)
    first, second = _variables(tmp_path, "plain", 2)
    assert one["losses"][-1] < 0.95 * one["losses"][0]
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=1e-5)
    del one["losses"]  # sums over a batch
    for name, value in one.items():
        np.testing.assert_allclose(first[name], value, rtol=0, atol=1e-5, err_msg=name)
        assert first[name].tobytes() == second[name].tobytes(), name


@pytest.mark.slow
def test_two_workers_with_batch_norm_equal_each_other(tmp_path):
    first, second = _variables(tmp_path, "norm", 2)
    different = {n for n, value in first.items() if value.tobytes() != second[n].tobytes()}
    assert different == {n for n in first if n.startswith("before_") and "/moving_" in n}
    assert len(different) == 6


@pytest.mark.parametrize(
    "tf_config",
    [
        "{workers",
        '["localhost:1"]',
        '{"cluster": {"worker": ["a:1", "b:1"]}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"chief": ["a:1"], "worker": ["b:1"]}, "task": {"type": "chief", "index": 0}}',
    ],
)
def test_a_bad_cluster_is_one_sentence(tf_config):
    with pytest.raises(InputError, match=r'^TF_CONFIG=.*: give \{"cluster": .*\}\.$'):
        read_cluster(tf_config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch_size=33"], "--batch_size=33 does not divide among 2 devices: give 32 or 34."),
        (["--strategy=mirrored"], "--strategy=mirrored trains on one machine"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_every_worker(tmp_path, arguments, told):
    for code, complaints in _ends([*STEPS, *arguments], tmp_path):
        assert code == 2
        assert len(complaints) == 1
        assert told in complaints[0]
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.slow
def test_workers_with_different_flags_are_refused(tmp_path):
    for code, complaints in _ends([*STEPS, "--train_steps=3{worker}"], tmp_path):
        assert code == 2
        assert len(complaints) == 1
        assert "--train_steps" in complaints[0]
    assert not (tmp_path / "run/config.json").exists()


# The command on a machine whose processor has bfloat16, or has not.
ON_PROCESSOR = """
import sys
from resnet_keras.main import console
from resnet_keras.startup import quiet
with quiet():
    from resnet_keras.training import strategy
worker = sys.argv.pop()
strategy.instructions = lambda: ["avx512_bf16"] if worker == "1" else []
console()
"""


# The command on a machine where the file of weights is another one.
ON_OTHER_FILE = """
import sys
from resnet_keras.main import console
from resnet_keras.startup import quiet
with quiet():
    from resnet_keras import jobs
load, worker = jobs.import_weights, sys.argv.pop()
def load_others(config, source, model):
    told = load(config, source, model)
    model.variables[0].assign(model.variables[0] * 1.01)
    return told
if worker == "1":
    jobs.import_weights = load_others
console()
"""


@pytest.mark.slow
def test_workers_that_start_from_different_weights_are_refused(tmp_path):
    done([*TINY, "--train_steps=2", "--run_dir=start", "--export=false"], tmp_path)
    flags = [*STEPS, "--train_steps=8", "--init_weights=start", "{worker}"]
    for code, complaints in _ends(flags, tmp_path, program=["-c", ON_OTHER_FILE]):
        assert code == 2
        assert "the weights that they start from" in complaints[0]
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.slow
def test_workers_that_would_choose_different_precisions_are_refused(tmp_path):
    flags = [*STEPS, "--train_steps=8", "--precision=auto", "{worker}"]
    for code, complaints in _ends(flags, tmp_path, program=["-c", ON_PROCESSOR]):
        assert code == 2
        assert "differ in what --precision=auto is (name one instead)" in complaints[0]
    assert not (tmp_path / "run/config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_to_one_worker_stops_both_at_the_same_step(tmp_path, stopped):
    arguments = [*STEPS, "--train_steps=20000"]
    run = tmp_path / "run"
    with running(arguments, tmp_path, workers=2) as processes:
        while last_step(run) < 17:
            assert processes[0].popen.poll() is None, processes[0].complaints
            time.sleep(0.01)
        processes[stopped].popen.send_signal(signal.SIGTERM)
        codes = [process.wait() for process in processes]
        told = [process.complaints for process in processes]
    assert codes == [75, 75]
    step = f"after step {saved_step(run):,} of 20,000. The same command resumes."
    assert told[stopped] == [f"Stopped by SIGTERM {step}"]
    assert told[1 - stopped] == [f"Stopped as another worker was {step}"]
    resumed = done([*STEPS, f"--train_steps={saved_step(run) + 3}"], tmp_path, workers=2)
    assert (
        f"Resuming cifar_resnet8 on digits (1,437 images): steps {last_step(run) - 3:,}" in resumed
    )


@pytest.mark.slow
def test_workers_stop_together_where_the_chief_is_profiled(tmp_path):
    """From step 3 on, with calls of 4 steps and no line that would end them all at once."""
    arguments = [*STEPS, "--train_steps=20000", "--log_every=20000", "--profile_steps=3,3"]
    with running(arguments, tmp_path, workers=2) as processes:
        deadline = time.monotonic() + 200
        while not list((tmp_path / "run/profile").glob("**/*.xplane.pb")):
            assert time.monotonic() < deadline, "the workers wait for each other"
            time.sleep(0.01)
        processes[0].popen.send_signal(signal.SIGTERM)
        assert [process.wait(100) for process in processes] == [75, 75]
    assert len(list((tmp_path / "run/profile").glob("**/*.xplane.pb"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_the_loss_of_a_worker_ends_the_other(tmp_path, lost, how):
    """A frozen one stands for a machine without power or network: nobody closes its sockets."""
    arguments = [*STEPS, "--train_steps=150", "--checkpoint_every=10"]
    broken = tmp_path / "broken"
    with running(arguments, broken, workers=2) as processes:
        while last_step(broken / "run") < 50:
            assert processes[0].popen.poll() is None, processes[0].complaints
            time.sleep(0.001)
        number = signal.SIGKILL if how == "killed" else signal.SIGSTOP
        processes[lost].popen.send_signal(number)
        survivor = processes[1 - lost]
        assert survivor.wait(90) == 75, survivor.complaints
        assert len(survivor.complaints) == 1
        assert "the same command on all of them resumes" in survivor.complaints[0]
    done(arguments, broken, workers=2)
    done(arguments, tmp_path / "whole", workers=2)
    assert_same_run(tmp_path / "whole/run", broken / "run")


def _held(stale: socket.socket) -> str:
    """Return the TF_CONFIG of a worker whose address a socket has."""
    stale.bind(("127.0.0.1", 0))
    stale.listen()
    addresses = ["{}:{}".format(*stale.getsockname()), "127.0.0.1:1"]
    return json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}})


def test_an_address_that_is_in_use_is_one_sentence(tmp_path):
    with socket.socket() as stale, running(STEPS, tmp_path, tf_config=_held(stale)) as (worker,):
        assert worker.wait() == 2
        (told,) = worker.complaints
        address = "{}:{}".format(*stale.getsockname())
        assert f"TF_CONFIG's {address} cannot be served (UnknownError: Could not start" in told


@pytest.mark.slow
def test_a_run_that_is_trained_already_ends_every_worker(tmp_path):
    (tmp_path / "run").mkdir()
    place = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)  # as the process that trains there has it
    with running(STEPS, tmp_path, workers=2) as processes:
        assert processes[0].wait() == 2
        assert "is being trained by another process" in processes[0].complaints[0]
        assert processes[1].wait(90) == 75
        assert "Another worker is gone" in processes[1].complaints[0]
    os.close(place)


@pytest.mark.slow
@pytest.mark.parametrize("worker", [0, 1])
def test_ctrl_c_ends_the_wait_for_the_others(tmp_path, worker):
    with running(STEPS, tmp_path, workers=2) as processes:
        processes[1 - worker].kill()
        waiting = processes[worker]
        while "waiting for the others" not in waiting.output:
            assert waiting.popen.poll() is None, waiting.complaints
            time.sleep(0.1)
        time.sleep(5)  # from Python's into TensorFlow's code, which sees to SIGTERM itself
        waiting.popen.send_signal(signal.SIGINT)
        assert waiting.wait(20) == -signal.SIGINT
        assert waiting.complaints == []


def _folder_data(folder: Path, bad: int) -> None:
    """Write 64 small images of two classes, of which ``bad`` are no images."""
    rng = np.random.default_rng(1)
    for index in range(64):
        for split in ("train", "val"):
            file = folder / split / "ab"[index % 2] / f"{index}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(file)
    for index in range(bad):
        (folder / "train/a" / f"{2 * index}.jpg").write_bytes(b"no image")


FOLDER = ["--dataset=folder", "--data_dir=data", "--model=cifar_resnet8", "--image_size=32",
          "--batch_size=8", "--run_dir=run", "--export_dir=out"]  # fmt: skip


@pytest.mark.slow
def test_unreadable_images_are_named_by_whoever_meets_them(tmp_path):
    _folder_data(tmp_path / "data", bad=4)
    arguments = [*FOLDER, "--train_steps=8"]  # one epoch
    with running(arguments, tmp_path, workers=2) as processes:
        for process in processes:
            assert process.wait() == 0, process.complaints
        told = " ".join(line for process in processes for line in process.complaints)
    told += json.dumps(records(tmp_path / "run"))
    assert set(re.findall(r"/(\d+)\.jpg", told)) == {"0", "2", "4", "6"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "calls",
    [["--train_steps=400", "--steps_per_call=1"], ["--train_steps=8", "--steps_per_call=8"]],
    ids=["early", "in the last call"],
)
def test_too_many_unreadable_images_stop_every_worker(tmp_path, calls):
    """Ten are always allowed; each worker meets about half of the 28 in its share."""
    _folder_data(tmp_path / "data", bad=28)
    ends = _ends([*FOLDER, *calls], tmp_path)
    assert sorted(code for code, _ in ends) in ([2, 2], [2, 75])
    assert any("images cannot be read" in line for _, lines in ends for line in lines)
    assert saved_step(tmp_path / "run") > 0
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def _section() -> str:
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## Several machines$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return section


@pytest.mark.parametrize(
    ("codes", "comes_back"),
    [("75 75 75", True), ("0 75 75", True), ("2 75 75", False), ("0 0 0", False)],
)
def test_the_slurm_script_names_every_worker_and_comes_back(tmp_path, codes, comes_back):
    """Slurm's tools and python are played by scripts: as after SIGTERM, after a refusal, done."""
    (script,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", _section(), re.DOTALL)
    tools = {
        "scontrol": 'if [ "$*" = "show hostnames n[07-08],m1" ]; then printf "n07\\nn08\\nm1\\n"; '
        'else echo "$*" >> asked; fi',
        "srun": "shift; highest=0; for SLURM_PROCID in 0 1 2; do export SLURM_PROCID; "
        '"$@"; code=$?; [ $code -le $highest ] || highest=$code; done; exit $highest',
        "python": f'echo "$TF_CONFIG" >> workers; codes=({codes}); exit ${{codes[$SLURM_PROCID]}}',
    }
    for name, content in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{content}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "n[07-08],m1", "SLURM_JOB_ID": "123456"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = os.environ | slurm | {"PATH": path}
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, check=True)
    found = [read_cluster(line) for line in (tmp_path / "workers").read_text().splitlines()]
    assert [cluster.worker for cluster in found] == [0, 1, 2]
    assert {cluster.workers for cluster in found} == {("n07:23456", "n08:23456", "m1:23456")}
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == "requeue 123456\n" * comes_back


def test_the_examples_by_hand_and_on_kubernetes_are_clusters():
    (by_hand,) = re.findall(r"^TF_CONFIG='(.*)' \\$", _section(), re.MULTILINE)
    assert read_cluster(by_hand).workers == ("HOST0:2222", "HOST1:2222")
    (on_pods,) = re.findall(r'^ +export TF_CONFIG="(.*)";$', _section().partition("```yaml")[2],
                            re.MULTILINE)  # fmt: skip
    told = on_pods.replace('\\"', '"').replace("$JOB_COMPLETION_INDEX", "1")
    assert read_cluster(told) == (1, ("resnet-0.resnet:2222", "resnet-1.resnet:2222"))
