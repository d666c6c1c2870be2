"""Preparing data, data workers and unreadable images, from the command line."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from processes import done_here, last_step, refused_here, run_here, running
from test_job import _done, _main

import pipelines
from pipelines.errors import DataError
from resnet_keras import train_job
from resnet_keras.main import main

SMALL = ["--model=cifar_resnet8", "--batch_size=8", "--train_steps=6", "--log_every=3",
         "--steps_per_call=3", "--image_size=32", "--export=false"]  # fmt: skip


@pytest.fixture
def pictures(tmp_path):
    """Give a folder of two classes, 12 and 4 JPEGs each, that a network can tell apart."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for name, level in (("dark", 60), ("light", 190)):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(random.normal(level, 30, (48, 60, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    return tmp_path / "pictures"


def _log(folder) -> list[dict]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_unreadable_image_is_named_and_costs_its_weight_only(
    tmp_path, pictures, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (pictures / "train/dark/3.jpg").write_bytes(b"not an image")
    (pictures / "val/light/2.jpg").write_bytes(b"")
    flags = [*SMALL, "--run_dir=r", "--evaluate_every=2"]
    assert main(["--dataset=folder", f"--data_dir={pictures}", *flags]) == 0
    told = capsys.readouterr().out
    records = _log(tmp_path / "r")
    named = [record["image"] for record in records if record["kind"] == "unreadable"]
    assert sorted(name.split("pictures/")[1] for name in named) == [
        "train/dark/3.jpg",
        "val/light/2.jpg",
    ]
    assert [r["step"] for r in records if r["kind"] == "train"] == [3, 6]
    assert {r["split"] for r in records if r["kind"] == "unreadable"} == {"train", "test"}
    tests = [record["images"] for record in records if record["kind"] == "test"]
    assert tests == [7, 7, 7], "named at the first one, left out of all"
    assert "of 7 images wrong" in told


@pytest.mark.slow
def test_too_many_unreadable_images_stop_the_run_in_one_sentence(tmp_path, pictures):
    for index in range(11):
        (pictures / f"train/dark/{index}.jpg").write_bytes(b"not an image")
    result = _main(
        "--dataset=folder", f"--data_dir={pictures}", *SMALL, "--train_steps=60", cwd=tmp_path
    )
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert re.search(r"11 of 24 images cannot be read, and 10 are allowed", last)
    assert "Traceback" not in result.stderr


def test_statistics_alone_are_put_beside_the_images(tmp_path):
    """As for ImageNet that is prepared already: the images stay, and their mean is found there."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    for index, image in enumerate(pixels):
        for split in ("train", "val"):
            file = tmp_path / f"data/{split}/{'ab'[index % 2]}/{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            # Those that are tested on are no part of it.
            Image.fromarray(image if split == "train" else 255 - image // 2).save(file)
    before = set((tmp_path / "data").rglob("*"))
    flags = ["--dataset=folder", "--data_dir=data", "--recipe=cifar", "--image_size=32"]
    told = done_here(["--mode=prepare", *flags], tmp_path)
    assert told == "Written  data/statistics.npz\n"
    assert {*(tmp_path / "data").rglob("*")} - before == {tmp_path / "data/statistics.npz"}
    found = pipelines.open_source("folder", data_dir=tmp_path / "data").statistics
    np.testing.assert_allclose(found.pixel_mean, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.channel_mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.channel_std, pixels.std(axis=(0, 1, 2)), rtol=1e-5)
    # They are for a folder: the digits have none.
    assert "digits has no folder" in refused_here(["--mode=prepare", "--dataset=digits"], tmp_path)


@pytest.mark.slow
def test_a_prepared_data_set_trains_under_its_name(tmp_path, pictures):
    (pictures / "train/light/5.jpg").write_bytes(b"")
    told = _main("--mode=prepare", "--dataset=folder", f"--data_dir={pictures}",
                 "--output_dir=data", "--output_name=shades", *SMALL, cwd=tmp_path)  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "without 1 unreadable" in told.stdout
    assert "train/light/5.jpg" in told.stderr
    done = _done("--dataset=shades", "--data_dir=data", *SMALL, cwd=tmp_path)
    assert "23 images" in done
    assert "of 8 images wrong" in done
    again = _main("--mode=prepare", "--dataset=folder", f"--data_dir={pictures}",
                  "--output_dir=data", "--output_name=shades", *SMALL, cwd=tmp_path)  # fmt: skip
    assert again.returncode == 2
    assert "there already" in again.stderr.strip().splitlines()[-1]


def test_a_damaged_record_is_told_with_its_reason(tmp_path, pictures):
    """TensorFlow tells it below the frames of the compiled step."""
    flags = ["--dataset=folder", f"--data_dir={pictures}", *SMALL]
    done_here(["--mode=prepare", "--output_dir=data", "--output_name=shades", *flags], tmp_path)
    (file,) = (tmp_path / "data/shades/1.0.0").glob("*train*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    code, _, told = run_here(["--dataset=shades", "--data_dir=data", *SMALL], tmp_path)
    assert code == 1
    reason = (
        r"\(DataLossError: corrupted record at \d+\): mend that, and the same command resumes\.$"
    )
    assert re.search(reason, told[-1])


def _serve(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "resnet_keras.main", "--mode=data_worker", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@contextlib.contextmanager
def _data_service() -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Start a dispatcher and a worker; give the service's address, and both. End them."""
    servers = [_serve()]
    try:
        (service,) = re.findall(r"--data_service=(\S+?),", servers[0].stdout.readline())
        servers.append(_serve(f"--data_service={service}"))
        assert service in servers[1].stdout.readline()
        yield service, servers
    finally:
        for server in servers:
            server.terminate()
            server.communicate(timeout=60)


@pytest.mark.slow
def test_data_workers_feed_a_run_and_its_resumption_is_approximate(tmp_path, pictures):
    with _data_service() as (service, servers):
        flags = ["--dataset=folder", f"--data_dir={pictures}", *SMALL, f"--data_service={service}"]
        _done(*flags, cwd=tmp_path)
        exact = _main(*flags, "--train_steps=9", cwd=tmp_path)
        assert exact.returncode == 2
        assert "--resume=approximate" in exact.stderr
        _done(*flags, "--train_steps=9", "--resume=approximate", cwd=tmp_path)
    assert [server.returncode for server in servers] == [0, 0]


@pytest.mark.slow
def test_a_run_whose_dispatcher_dies_ends_in_one_sentence(tmp_path, pictures):
    """Inside TensorFlow, its step would wait on, and hear no signal."""
    with _data_service() as (service, servers):
        flags = ["--dataset=folder", f"--data_dir={pictures}", *SMALL, f"--data_service={service}"]
        with running([*flags, "--run_dir=run", "--train_steps=500000"], tmp_path) as (process,):
            while last_step(tmp_path / "run") < 9:
                assert process.popen.poll() is None, process.complaints
                time.sleep(0.1)
            for server in servers:
                server.kill()
            assert process.wait(120) == 75
            (told,) = process.complaints
    assert f"No dispatcher answers at {service} " in told
    assert "same command with --resume=approximate resumes from the last checkpoint." in told


def test_workers_share_the_images_whatever_each_calls_the_place_of_the_run(tmp_path, monkeypatch):
    """What a data service gives is shared by those that name the same job, as no other start."""
    jobs, begun = [], [17.5]

    def noting(*arguments, job, **settings):
        jobs.append(job)
        raise DataError("seen enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_job.service, "check", lambda *arguments: None)
    monkeypatch.setattr(train_job.service, "service_batches", noting)
    # Both are told the time at which the chief began, and see that there is no checkpoint.
    monkeypatch.setattr(train_job, "every_workers", lambda strategy, own: begun if own else [0.0])
    run = ["--dataset=digits", *SMALL, "--data_service=grpc://localhost:9"]
    assert [main([*run, f"--run_dir={place}"]) for place in ("here", "there")] == [2, 2]
    begun[0] = 17.75  # the run is started again
    assert main([*run, "--run_dir=here"]) == 2
    assert jobs[0] == jobs[1] != jobs[2]
    assert len(jobs) == 3


def test_a_dispatcher_that_is_not_there_is_one_sentence(tmp_path, pictures):
    run = ["--dataset=folder", f"--data_dir={pictures}", *SMALL]
    told = refused_here([*run, "--data_service=grpc://localhost:9"], tmp_path)
    assert "--mode=data_worker" in told
