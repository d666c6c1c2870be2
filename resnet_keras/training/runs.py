"""The run directory: config.json beside log and checkpoints, one configuration for life."""

import contextlib
import datetime
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError
from resnet_keras.records import LOG, TESTED, read_records

CONFIG, FIRST_BATCH = "config.json", "first_batch.png"
TENSORBOARD, BEST, PROFILE = "tensorboard", "best", "profile"  # folders
TRUE_AVERAGE, EVALUATION, RESPONSES = "true_average", "evaluation", "responses"
CHECKPOINT = "checkpoint"  # the state file, which names the newest checkpoint
# All that a run writes: --restart deletes these and nothing else. The state file goes early: a
# run that is half deleted must not resume under another configuration.
FILES = (
    *(BEST, CHECKPOINT, "ckpt-*", LOG, FIRST_BATCH, TENSORBOARD, PROFILE, CONFIG),
    *(TRUE_AVERAGE, EVALUATION, RESPONSES),
    *(f"{name}.new" for name in (LOG, FIRST_BATCH, CONFIG)),
)
# On which a CPU's speed depends most: virtual machines of one processor's name differ in them. On
# ARM, bfloat16 instructions are "bf16".
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")
PACKAGES = ("tensorflow", "keras", "tensorflow-datasets", "numpy", "resnet-keras")


def open_run(
    run: Path,
    flags: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    free: Collection[str],
    restart: bool,
) -> None:
    """Make ``run`` the directory of a run with this configuration, new or resumed.

    ``config.json`` holds ``flags``, ``data`` and ``environments``: the versions that the run was
    made under, from ``since`` on. Other ones than last time are told on stderr.

    Args:
        run: the directory; made where it is missing.
        flags: JSON-able, all that decides what a step computes, and more.
        data: JSON-able, what a step depends on and no flag says: class names, sizes. What a run
            did not record, because it is older, may be anything.
        defaults: of ``flags``. A run that was begun before there was a flag had its default.
        free: the names in ``flags`` and ``data`` that may differ when a run is resumed.
        restart: delete an earlier run's files first.

    Raises:
        InputError: where the directory holds a run of another configuration, naming each field,
            or checkpoints or results without the rest of a run, or cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        if restart:
            for pattern in FILES:
                for file in run.glob(pattern):
                    # A kill while a checkpoint is written leaves a folder of its parts.
                    shutil.rmtree(file) if file.is_dir() else file.unlink()
        environments: list[dict[str, Any]] = []
        if not has_checkpoint(run):
            _refuse_remains(run)
        else:
            saved = read_config(run)
            changes = differences(saved, flags, data, defaults=defaults, free=free)
            if changes:
                raise InputError(
                    f"{run} holds a run with {', '.join(changes)}: give its settings and data to "
                    "resume it (other devices and data workers with --resume=approximate), another "
                    "--run_dir, or --restart to delete it and start anew."
                )
            environments = saved["environments"]
        now = environment()
        news = _news(environments[-1], now) if environments else []
        if news:
            print(
                f"resnet_keras: {run} goes on under other versions: {', '.join(news)}.",
                file=sys.stderr,
            )
        if news or not environments:
            since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            environments = [*environments, {"since": since, **now}]
        config = {"flags": flags, "data": data, "environments": environments}
        replace(run / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(
            f"--run_dir={run} cannot be written ({error.strerror}): name a directory that can."
        ) from None


@contextlib.contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other processes from training in a directory; the system frees it when this one ends.

    Some network file systems have no locks; there, nobody is kept off.

    Raises:
        InputError: where another process trains in it.
    """
    run.mkdir(parents=True, exist_ok=True)
    handle = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--run_dir={run} is being trained by another process: wait for its end, or give "
                "another."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def _refuse_remains(run: Path) -> None:
    """Refuse what is left of a run, which training would erase or take for its own."""
    if (run / CHECKPOINT).is_file():
        raise InputError(
            f"{run} holds checkpoints without the {CONFIG} that says how they were made: restore "
            "that file, give another --run_dir, or --restart to delete them and start anew."
        )
    log = read_records(run / LOG, "restore the file, or give another --run_dir")
    # A checkpoint was written before each of them.
    if any(record["kind"] in TESTED and record["step"] for record in log):
        raise InputError(
            f"{run} holds the results of a run whose checkpoints are gone: give another --run_dir, "
            "or --restart to delete them and start anew."
        )


def has_checkpoint(place: str | Path) -> bool:
    """Tell whether a directory is a run's with a checkpoint, and not with its texts alone."""
    return Path(place, CONFIG).is_file() and Path(place, CHECKPOINT).is_file()


def replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all: a kill leaves the one before."""
    written = file.with_name(file.name + ".new")
    written.write_bytes(content)
    written.rename(file)


def cannot_write(path: Path, reason: str | None) -> OSError:
    """Return the error that says in one sentence that the disk is full or gone."""
    return OSError(
        f"{path} cannot be written ({reason}): make room, and the same command resumes from the "
        "last checkpoint."
    )


def environment() -> dict[str, Any]:
    """Return what a result may depend on besides the configuration: commit, versions, machine."""
    commit, dirty = checkout(Path(__file__))
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": cores(),
        "instructions": instructions(),
        "gpus": gpus(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def checkout(file: Path) -> tuple[str | None, bool | None]:
    """Return the git commit of the checkout that holds ``file``, and whether it was changed.

    Returns:
        The commit's hash, and whether any tracked file differs from it; None twice where git does
        not track the file, as in an installed wheel, or is missing.
    """
    git = ["git", "--no-optional-locks", "-C", str(file.parent)]
    status = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        # A wheel may lie within a repository, but of somebody else.
        _run([*git, "ls-files", "--error-unmatch", file.name])
        lines = _run([*git, *status]).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    (commit,) = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    return commit, any(not line.startswith("#") for line in lines)


def _run(command: list[str]) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, timeout=10
    ).stdout


def cpu() -> str:
    """Return the name of this machine's processor."""
    models = (
        line.partition(":")[2].strip()
        for line in _cpuinfo().splitlines()
        if line.startswith("model name")
    )
    return next(models, platform.processor() or platform.machine())


def instructions() -> list[str]:
    """Return which of ``INSTRUCTIONS`` the processor has, as Linux tells; elsewhere none."""
    known = set(_cpuinfo().split())
    return [name for name in INSTRUCTIONS if name in known]


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def cores() -> int:
    """Return the number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the names of the GPUs that TensorFlow sees."""
    import tensorflow as tf  # here, for whoever reads runs does without it

    devices = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, devices)
    return [found.get("device_name", "GPU") for found in details]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_config(run: Path) -> dict[str, Any]:
    """Return what a run's ``config.json`` holds; see ``open_run``.

    Raises:
        InputError: where it is damaged.
    """
    file = run / CONFIG
    try:
        saved = json.loads(file.read_bytes())
        parts = {"flags": dict, "data": dict, "environments": list}
        return {part: kind(saved[part]) for part, kind in parts.items()}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is not a run's readable configuration: give another --run_dir, or --restart."
        ) from None


def differences(
    saved: Mapping[str, Any],
    flags: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any],
    free: Collection[str],
) -> list[str]:
    """Return what forbids to resume a run of ``read_config``, for people; see ``open_run``."""
    known = json.loads(json.dumps(defaults)) | saved["flags"]
    changes = _changes(known, flags, free, "--")
    known = json.loads(json.dumps(data)) | saved["data"]
    return changes + _changes(known, data, free, "")


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str], prefix: str
) -> list[str]:
    plain = json.loads(json.dumps(new))  # tuples become lists, as in the file
    return [
        f"{prefix}{name}={_short(old.get(name))} (now {_short(value)})"
        for name, value in plain.items()
        if name not in free and old.get(name) != value
    ]


def _short(value: Any) -> str:
    return str(value) if len(str(value)) < 80 else f"{str(value)[:77]}..."


def _news(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = _versions(old), _versions(new)
    return [
        f"{name} {before.get(name)} -> {value}"
        for name, value in after.items()
        # Older versions noted less of the machine.
        if name in before and before[name] != value
    ]


def _versions(found: Mapping[str, Any]) -> dict[str, str | None]:
    commit = found["commit"] and found["commit"][:10] + (" (changed)" if found["dirty"] else "")
    machine = {
        name: str(found[name]) for name in ("cores", "instructions", "gpus") if name in found
    }
    rest = {name: found[name] for name in ("python", "platform", "cpu")}
    return {"commit": commit, **found["packages"], **rest, **machine}
