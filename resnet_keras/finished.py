"""What of an experiment is done, by what lies in the folders of its runs.

Without TensorFlow, so that it is told at once.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_keras.config import Config, resumable
from resnet_keras.errors import InputError
from resnet_keras.records import LOG, TESTED, read_records
from resnet_keras.records import tested as tested_at
from resnet_keras.serving import places
from resnet_keras.training.runs import CHECKPOINT, CONFIG, differences, read_config


def trained(train: Config) -> int | None:
    """Return the step at which a training ended as ``train`` asks; None where it has not.

    It has where the run is of the same configuration, was tested after its last step, made at
    least as many steps as asked, and was exported where that is asked.

    Raises:
        InputError: where the folder holds a run of another configuration, which training would
            refuse to resume, or a file in it is damaged.
    """
    run = Path(train.run_dir)
    if not (run / CONFIG).is_file():
        return None
    changes = _changes(train, read_config(run))
    if changes and (run / CHECKPOINT).is_file():
        raise InputError(
            f"{run} holds a run with {', '.join(changes)}: give its settings in --train_flags, or "
            "another --run_dir, or delete that run."
        )
    records = read_records(run / LOG, "restore the file, or delete that run")
    last = max((record["step"] for record in records), default=0)
    if changes or not tested_at(records, last) or last < train.train_steps:
        return None
    return last if not train.export or _exported(Path(train.export_dir), records, last) else None


def tested(
    folder: Path, views: str, members: Sequence[Config], steps: Sequence[int | None]
) -> bool:
    """Tell whether a folder holds the test that is asked for.

    Args:
        folder: of ``metrics.json``.
        views: as that names them.
        members: the trainings whose networks are tested, in order.
        steps: of ``trained`` for each.

    Raises:
        InputError: where the file is damaged.
    """
    file = folder / "metrics.json"
    if not file.is_file():
        return False
    expected = [
        _member(train, step, views.split("+"))
        for train, step in zip(members, steps, strict=True)
    ]  # fmt: skip
    try:
        metrics = json.loads(file.read_bytes())
        found = [{**member, "place": Path(member["place"]).name} for member in metrics["members"]]
        about = [metrics[name] for name in ("dataset", "split", "views")]
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is no readable result: restore it, or delete it to test again."
        ) from None
    return (
        None not in steps
        and about == [members[0].dataset, split(members[0]), views]
        and len(found) == len(expected)
        and all(one.items() <= other.items() for one, other in zip(expected, found, strict=True))
    )


def responded(file: Path, run: str, step: int | None) -> bool:
    """Tell whether a file holds the layer responses of a run at a step."""
    if step is None or not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = [(row.get("run"), row.get("step")) for row in csv.DictReader(stream)]
    return bool(rows) and all(
        Path(name or "").name == run and made == str(step) for name, made in rows
    )


def split(train: Config) -> str:
    """Return the split that a run is tested on."""
    return "validation" if train.validation_images else "test"


def _member(train: Config, step: int | None, views: Sequence[str]) -> dict[str, Any]:
    """Return what a result says of a network that was tested as an experiment asks."""
    recipe = train.make_recipe()
    return {
        "place": Path(train.run_dir).name,
        "model": train.model,
        "step": step,
        "checkpoint": "latest",
        "batchnorm_statistics": "moving_average",
        "recipe": recipe.name,
        "image_size": recipe.image_size,
        "scales": {view: list(train.evaluation_scales(view, recipe)) for view in views},
    }


def _changes(train: Config, saved: dict[str, Any]) -> list[str]:
    """Return how a run differs from a training, as that would find when it is to resume it."""
    definite: dict[str, Any] = {}
    images = saved["data"].get("training_images")
    # What training makes definite, and writes so.
    if train.lr_schedule == "plateau" and not train.evaluate_every and images:
        definite["evaluate_every"] = math.ceil(images / train.batch_size)
    free = resumable(train) | ({"precision"} if train.precision == "auto" else set())
    flags, defaults = dataclasses.asdict(train), dataclasses.asdict(Config())
    # The data are for training to compare, which opens them.
    return differences(saved, flags | definite, {}, defaults=defaults, free=free)


def _exported(folder: Path, records: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Tell whether a version of an export is of a run's step, by how that was tested.

    Of two runs that came to the same step, the seconds of their tests differ at least.
    """
    tests = [
        {"split" if name == "kind" else name: value for name, value in record.items()}
        for record in records
        if record["kind"] in TESTED and record["step"] == step
    ]
    versions = places.versions(folder) if folder.is_dir() else ()
    return any(
        places.read_manifest(folder / str(version)).get("metrics") in tests for version in versions
    )
