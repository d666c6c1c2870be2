"""Read a run's log: one JSON object a line, each with a kind and a step. Standard library only."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError

LOG = "log.jsonl"
TESTED = ("test", "validation")  # kinds of records that evaluations leave, by their split


def whole_lines(log: Path) -> list[bytes]:
    """Return a log's complete lines, none where there is no log.

    A kill may have left half of the last line, and a training may be writing it.
    """
    return log.read_bytes().split(b"\n")[:-1] if log.is_file() else []


def parse_records(lines: Sequence[bytes], log: Path, remedy: str) -> list[dict[str, Any]]:
    """Return the records of a log's lines: dicts with "kind", str, and "step", int, among others.

    Args:
        lines: from the first one on.
        log: the file that they are of, for the error.
        remedy: what to do about a damaged line, as the end of a sentence.

    Raises:
        InputError: naming the line that is no record.
    """
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            whole = isinstance(record["kind"], str) and type(record["step"]) is int
        except (ValueError, LookupError, TypeError):
            whole = False
        if not whole:
            raise InputError(
                f"Line {number} of {log} is no record with a 'kind' and a whole 'step': {remedy}."
            )
        records.append(record)
    return records


def read_records(log: Path, remedy: str) -> list[dict[str, Any]]:
    """Return the records of a log's complete lines; errors as of ``parse_records``."""
    return parse_records(whole_lines(log), log, remedy)


def tested(records: Iterable[Mapping[str, Any]], step: int) -> bool:
    """Tell whether the network was evaluated after ``step`` steps."""
    return any(record["kind"] in TESTED and record["step"] == step for record in records)
