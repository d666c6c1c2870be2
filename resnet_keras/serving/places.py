"""Where exports lie: look-ups on the disk, without TensorFlow, so that they come first."""

import glob
import tempfile
from pathlib import Path

from resnet_keras.errors import InputError


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
