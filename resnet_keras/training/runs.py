"""The run directory: config.json beside log and checkpoints, one configuration for life."""

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError

CONFIG, LOG = "config.json", "log.jsonl"
# All that a run writes: --restart deletes these and nothing else.
FILES = (CONFIG, LOG, "checkpoint", "ckpt-*")


def open_run(
    run: Path, settings: Mapping[str, Any], *, free: Collection[str], restart: bool
) -> None:
    """Make ``run`` the directory of a run with these settings, new or resumed.

    Args:
        run: the directory; made where it is missing.
        settings: JSON-able, all that decides what a step computes, and more.
        free: the names in ``settings`` that may differ when a run is resumed.
        restart: delete an earlier run's files first.

    Raises:
        InputError: where the directory holds a run of other settings, naming each, or cannot be
            written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        if restart:
            for pattern in FILES:
                for file in run.glob(pattern):
                    # A kill while a checkpoint is written leaves a folder of its parts.
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
        saved = run / CONFIG
        # Without a checkpoint there is nothing that other settings could spoil.
        if saved.is_file() and (run / "checkpoint").is_file():
            _refuse_changes(run, json.loads(saved.read_text()), settings, free)
        written = run / (CONFIG + ".new")
        written.write_text(json.dumps(settings, indent=1) + "\n")
        written.rename(saved)
    except json.JSONDecodeError:
        raise InputError(
            f"{run / CONFIG} is not readable JSON: give another --run_dir, or --restart."
        ) from None
    except OSError as error:
        raise InputError(
            f"--run_dir={run} cannot be written ({error.strerror}): name a directory that can."
        ) from None


def _refuse_changes(
    run: Path, old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str]
) -> None:
    plain = json.loads(json.dumps(new))  # tuples become lists, as in the file
    changed = [name for name in plain if name not in free and old.get(name) != plain[name]]
    if changed:
        told = ", ".join(
            f"--{name}={_short(old.get(name))} (now {_short(plain[name])})" for name in changed
        )
        raise InputError(
            f"{run} holds a run with {told}: give its settings to resume it, another --run_dir, "
            "or --restart to delete it and start anew."
        )


def _short(value: Any) -> str:
    return str(value) if len(str(value)) < 80 else f"{str(value)[:77]}..."
