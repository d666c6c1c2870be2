"""Runs written as files, whose reports can be reckoned by hand."""

import json
from pathlib import Path

FLAGS = {
    "model": "cifar_resnet20",
    "dataset": "cifar10",
    "train_steps": 64_000,
    "batch_size": 128,
    "lr_schedule": "piecewise",
    "lr_drops": [32_000, 48_000],
    "seed": 0,
}
DATA = {"class_names": ["cat", "dog"], "training_images": 50_000, "replicas": 1}
ENVIRONMENT = {
    "since": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "python": "3.11.7",
    "platform": "Linux",
    "cpu": "a CPU",
    "packages": {"tensorflow": "2.21.0"},
}


def train(step: int, error: float = 0.2, **more) -> dict:
    return {"kind": "train", "step": step, "loss": 2 * error, "error": error, **more}


def evaluated(step: int, wrong: int, images: int = 10_000, **more) -> dict:
    found = {"images": images, "wrong": wrong, "loss": 0.5, "top1_error": wrong / images}
    return {"kind": "test", "step": step, **found, **more}


def write_run(place: Path, records: list[dict], data: dict | None = None, **flags) -> Path:
    """Write a run's directory; flags and data differ from a finished cifar_r20's as asked."""
    place.mkdir(parents=True, exist_ok=True)
    config = {
        "flags": FLAGS | flags,
        "data": DATA | (data or {}),
        "environments": [ENVIRONMENT],
    }
    (place / "config.json").write_text(json.dumps(config))
    (place / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return place


def write_evaluation(
    folder: Path, members: list[dict], wrong: int, images: int = 10, **more
) -> Path:
    """Write an evaluation of images of two classes with its confusions; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {
        "split": "test", "views": "center", "members": members, "images": images, "wrong": wrong,
        "top1_error": wrong / images, **more,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(metrics))
    cats = images - 4
    table = f"true \\ predicted,cat,dog\ncat,{cats - wrong},{wrong}\ndog,0,4\n"
    (folder / "confusion.csv").write_text(table)
    return folder / "metrics.json"
