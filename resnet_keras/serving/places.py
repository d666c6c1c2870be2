"""Where exports lie: look-ups on the disk, without TensorFlow, so that they come first."""

import glob
import json
import tempfile
from pathlib import Path
from typing import Any

from resnet_keras.errors import InputError

MANIFEST = "manifest.json"


def check_writable(directory: Path, flag: str) -> None:
    """Refuse a directory of a flag that cannot be written, before any work is done.

    Raises:
        InputError: one sentence with the system's reason.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(
            f"--{flag}={directory} cannot be written ({error.strerror}): name a directory that can."
        ) from None


def check_file(file: Path, flag: str) -> None:
    """Refuse a file of a flag that cannot be written, before any work is done.

    Raises:
        InputError: one sentence with the system's reason.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        with file.open("a"):
            pass
        if is_new:
            file.unlink()
    except OSError as error:
        raise InputError(
            f"--{flag}={file} cannot be written ({error.strerror}): name a file that can."
        ) from None


def versions(directory: Path) -> list[int]:
    """Return the version numbers under ``directory``, rising."""
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal())


def find_version(saved_model: str) -> Path:
    """Return the folder of a SavedModel: the one named, or its newest version.

    Raises:
        InputError: where there is none.
    """
    folder = Path(saved_model)
    if folder.is_dir() and not (folder / "saved_model.pb").is_file():
        numbers = versions(folder)
        folder = folder / str(numbers[-1]) if numbers else folder
    if not (folder / "saved_model.pb").is_file():
        raise InputError(
            f"--saved_model={saved_model} holds no SavedModel: name a folder with saved_model.pb "
            "or with numbered versions of one."
        )
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what an export's manifest tells; {} where there is none that can be read."""
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def read_labels(folder: Path) -> list[str] | None:
    """Return an export's classes in label order, or None where its manifest does not tell them."""
    labels = read_manifest(folder).get("labels")
    return list(map(str, labels)) if isinstance(labels, list) else None


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the flags that an export's run was trained with; {} where no manifest tells them."""
    settings = read_manifest(folder).get("config")
    return settings if isinstance(settings, dict) else {}


def is_saved_model(place: str) -> bool:
    """Tell whether a directory is a SavedModel, or one of numbered versions of it."""
    try:
        return Path(place).is_dir() and find_version(place).is_dir()
    except InputError:
        return False


def check_weights(file: str) -> None:
    """Refuse an --init_weights that is not there; "" is none.

    Raises:
        InputError: where it is neither a file, nor a directory, nor a checkpoint's prefix.
    """
    if file and not any(Path(file + end).exists() for end in ("", ".index")):
        raise InputError(
            f"--init_weights={file} is not there: name a file of weights, or a run's directory."
        )


def find_images(pattern: str) -> list[Path]:
    """Return the files of a glob pattern (``**`` for folders below), sorted.

    Raises:
        InputError: where there is none.
    """
    files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    files = [file for file in files if file.is_file()]
    if not files:
        raise InputError(f"--images={pattern} matches no file: give image files, e.g. '*.jpg'.")
    return files
