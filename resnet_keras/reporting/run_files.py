"""Read what runs leave, and refuse what contradicts itself.

Standard library only. A run's directory holds ``config.json``, ``log.jsonl``, and what was
evaluated; the result of an ensemble has ``metrics.json`` and no configuration. The same layout
stands in ``runs/`` and, without checkpoints, in ``saved_models/``.
"""

from __future__ import annotations

import collections
import csv
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.records import LOG, TESTED, read_records

CONFIG, METRICS, GRID = "config.json", "metrics.json", "grid.png"
# What a result rests on: these make a run's fingerprint. Pictures and predictions follow from
# them or from checkpoints.
TEXTS = (
    CONFIG, LOG, METRICS, "confusion.csv", "per_class.csv", "evaluation/*/metrics.json",
    "evaluation/*/confusion.csv", "evaluation/*/per_class.csv", "responses/responses.csv",
)  # fmt: skip
RESPONSES = ["run", "step", "layer", "name", "std", "sorted_std"]  # columns
ROUNDING = 1e-9  # between a share and the quotient of its counts


@dataclass(frozen=True)
class Evaluation:
    """Hold one evaluation: ``metrics.json``, and the confusion matrix where it was kept."""

    file: Path
    metrics: dict[str, Any]
    classes: tuple[str, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Responses:
    """Hold the standard deviations of a network's layers, after so many steps."""

    step: int
    stds: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """Hold what a run's directory says.

    flags, data, environments: of ``config.json``. records: of ``log.jsonl``, in its order.
    evaluations: by folder, "test_ten_crop". responses: by the name of the run that they are of.
    usual: recipe and image size that it is tested with unless others are asked for; {} where they
    are not known.
    """

    place: Path
    flags: dict[str, Any]
    data: dict[str, Any]
    environments: list[dict[str, Any]]
    records: list[dict[str, Any]]
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    responses: dict[str, Responses] = field(default_factory=dict)
    usual: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name, by which a run belongs to a configuration."""
        return self.place.name

    @property
    def step(self) -> int:
        """The step that the log has come to; 0 without any."""
        return max((record["step"] for record in self.records), default=0)

    def of_kind(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the records of these kinds."""
        return [record for record in self.records if record["kind"] in kinds]


def hardware(run: Run) -> str:
    """Return the machines that a run was made on, one after the other."""
    devices = run.data.get("replicas", 1)
    machines = [
        f"{machine(made_on)}, {devices} device{'s' * (devices != 1)}"
        for made_on in run.environments
    ]
    return "; ".join(dict.fromkeys(machines)) or "unknown"


def machine(environment: Mapping[str, Any]) -> str:
    """Return the processor of an environment, and its GPUs where it has any."""
    cores = f" with {environment['cores']} cores" if "cores" in environment else ""
    gpus = collections.Counter(environment.get("gpus", ()))
    told = [f"{count} x {name}" for name, count in gpus.items()]
    return " and ".join([*told, f"{environment.get('cpu') or 'unknown'}{cores}"])


def is_run(place: Path) -> bool:
    """Tell whether a directory is a run's."""
    return (place / CONFIG).is_file()


def is_result(place: Path) -> bool:
    """Tell whether a directory is an ensemble's result."""
    return (place / METRICS).is_file() and not is_run(place)


def read_run(place: Path) -> Run:
    """Read a run's directory.

    Raises:
        InputError: naming file and line or field, where something is damaged or two numbers of
            one file contradict each other.
    """
    config = _json(place / CONFIG)
    for part, kind in (("flags", dict), ("data", dict), ("environments", list)):
        if not isinstance(config.get(part), kind):
            raise InputError(f"{place / CONFIG} has no readable {part!r}: restore it, or leave "
                             "that run out.")  # fmt: skip
    evaluations = {
        file.parent.name: read_evaluation(file)
        for file in sorted((place / "evaluation").glob(f"*/{METRICS}"))
    }
    return Run(
        place, config["flags"], config["data"], config["environments"], _records(place / LOG),
        evaluations, _responses(place / "responses" / "responses.csv"),
    )  # fmt: skip


def read_evaluation(file: Path) -> Evaluation:
    """Read ``metrics.json`` and the confusion matrix beside it; raises InputError as read_run."""
    metrics = _json(file)
    if not metrics.get("members"):
        raise InputError(f"{file} has no 'members': restore it, or evaluate again.")
    _check_shares(metrics, str(file))
    table = file.with_name("confusion.csv")
    if not table.is_file():
        return Evaluation(file, metrics)
    classes, counts = _confusion(table)
    wrong = sum(map(sum, counts)) - sum(row[label] for label, row in enumerate(counts))
    for name, value in (("images", sum(map(sum, counts))), ("wrong", wrong)):
        if metrics[name] != value:
            raise InputError(
                f"{file} has {name!r}: {metrics[name]}, and {table.name} beside it counts {value}: "
                "restore both, or evaluate again."
            )
    return Evaluation(file, metrics, classes, counts)


def fingerprint(place: Path) -> str:
    """Return the SHA-256 over the text files that a run's results rest on, names and contents."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in TEXTS for file in place.glob(pattern)}):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(place).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        where = f"line {error.lineno} of " if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{where}{file} is no JSON: restore the file, or leave that directory "
                         "out.") from None  # fmt: skip
    if not isinstance(content, dict):
        raise InputError(f"{file} holds no JSON object: restore the file.")
    return content


def _records(file: Path) -> list[dict[str, Any]]:
    """Return a log's records, checked; a run that goes on may be writing the last one."""
    records = read_records(file, "restore the file, or leave that run out")
    last = dict.fromkeys(("train", *TESTED), -1)
    for number, record in enumerate(records, 1):
        where = f"Line {number} of {file}"
        kind, step = record["kind"], record["step"]
        if step <= last.get(kind, step - 1):
            raise InputError(f"{where} has 'step': {step}, which does not rise: restore the file.")
        if kind in last:
            last[kind] = step
        if kind in TESTED:
            _check_shares(record, where)
        if kind == "train" and not _is_number(record.get("error")):
            raise InputError(f"{where} lacks a number 'error': restore the file.")
    return records


def _check_shares(found: dict[str, Any], where: str) -> None:
    """Refuse a share that its counts do not give."""
    for wrong, share in (("wrong", "top1_error"), ("wrong_top5", "top5_error")):
        required = wrong == "wrong"
        if not required and wrong not in found:
            continue
        numbers = [found.get(name) for name in (wrong, "images", share)]
        if not all(map(_is_number, numbers)) or not numbers[1]:
            raise InputError(f"{where} lacks a number of {wrong!r}, 'images', {share!r}: restore "
                             "the file.")  # fmt: skip
        if abs(numbers[0] / numbers[1] - numbers[2]) > ROUNDING:
            raise InputError(
                f"{where} has {share!r}: {numbers[2]}, but {numbers[0]} wrong of {numbers[1]} "
                f"images are {numbers[0] / numbers[1]:.6g}: restore the file."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _confusion(file: Path) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    rows = _table(file)[1:]
    try:
        classes = tuple(row[0] for row in rows)
        counts = tuple(tuple(map(int, row[1:])) for row in rows)
        if not rows or any(len(row) != len(rows) for row in counts):
            raise ValueError
    except (ValueError, IndexError):
        raise InputError(f"{file} is no square table of counts: restore it.") from None
    return classes, counts


def _responses(file: Path) -> dict[str, Responses]:
    if not file.is_file():
        return {}
    header, *rows = _table(file) or [[]]
    if header != RESPONSES:
        raise InputError(
            f"{file} has the columns {','.join(header)!r}, not {','.join(RESPONSES)!r}: measure "
            "again by --mode=responses."
        )
    found: dict[str, Responses] = {}
    for number, row in enumerate(rows, 2):
        try:
            run, step, layer, _, std, _ = row
            before = found.get(Path(run).name, Responses(int(step), ()))
            # Two networks of one name would be taken for a deeper one.
            next_of_it = (int(step), int(layer)) == (before.step, len(before.stds) + 1)
            if not next_of_it or not math.isfinite(float(std)):
                raise ValueError
            found[Path(run).name] = Responses(before.step, (*before.stds, float(std)))
        except ValueError:
            raise InputError(
                f"Line {number} of {file} is no response of the next layer of a run: restore the "
                "file, or measure again by --mode=responses."
            ) from None
    return found


def _table(file: Path) -> list[list[str]]:
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            return list(csv.reader(stream))
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{file} is no table of text: restore it.") from None


def responses_of(runs: Iterable[Run]) -> dict[str, Responses]:
    """Return the layer responses of all runs, by name; a run's own file goes before others'."""
    found: dict[str, Responses] = {}
    own: dict[str, Responses] = {}
    for run in runs:
        found |= run.responses
        own |= {name: those for name, those in run.responses.items() if name == run.name}
    return dict(sorted((found | own).items()))
