"""Training as a user runs it: `main` as a process of its own, and what its log says."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from turns import ROOT, pinned, surroundings

SHARED = ROOT.parent / "shared" / "data"


class Finished(NamedTuple):
    """What a run left.

    records: of its log. exit_seconds: from its last word to its end.
    """

    records: list[dict[str, Any]]
    exit_seconds: float

    def _windows(self) -> list[dict[str, Any]]:
        # The first window holds the tracing of the step.
        return [record for record in self.records if record["kind"] == "train"][1:]

    @property
    def images_per_second(self) -> float:
        """Over all windows of the log but the first; they have the same number of images."""
        windows = self._windows()
        return len(windows) / sum(1 / window["images_per_second"] for window in windows)

    @property
    def input_wait(self) -> float:
        """Share of the time spent waiting for input, over the same windows."""
        waits = [window["input_wait"] for window in self._windows()]
        return sum(waits) / len(waits)


class Running:
    """A started ``main`` in a temporary directory.

    Args:
        flags: its command line.
        cores: that it may use; None for all.
        environment: variables to add.
        folder: an existing one to run in, e.g. for several workers; None makes one and deletes
            it at the end.
    """

    def __init__(
        self,
        flags: Sequence[str],
        *,
        cores: Sequence[int] | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory()
        self.folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self._chatter = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, "-m", "resnet_keras.main", *flags]
        command += ["--run_dir=run", "--export_dir=export"]
        self._told = " ".join(command)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            pinned(command, cores),
            cwd=self.folder,
            env={**surroundings(cores), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self._chatter,
            text=True,
        )

    def records(self) -> list[dict[str, Any]]:
        """Return the log's complete records so far."""
        log = self.folder / "run" / "log.jsonl"
        text = log.read_text() if log.exists() else ""
        return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]

    def finish(self) -> Finished:
        """Wait for the end; raise RuntimeError if it is a bad one."""
        assert self.process.stdout is not None
        last_word = time.perf_counter()
        for _ in self.process.stdout:
            last_word = time.perf_counter()
        code = self.process.wait()
        exit_seconds = time.perf_counter() - last_word
        self._chatter.seek(0)
        told, records = self._chatter.read()[-3000:], self.records()
        self._close()
        if code:
            raise RuntimeError(f"{self._told} ended with {code}:\n{told}")
        return Finished(records, exit_seconds)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.communicate()
        self._close()

    def _close(self) -> None:
        self._chatter.close()
        if self._temporary:
            self._temporary.cleanup()


def run(flags: Sequence[str], **options: Any) -> Finished:
    """Run ``main`` to its end; arguments as of ``Running``."""
    running = Running(flags, **options)
    try:
        return running.finish()
    except BaseException:
        running.kill()
        raise


def cifar_flags(*, steps: int, log_every: int, precision: str = "float32") -> list[str]:
    """Return the flags of ResNet-20 on CIFAR-10, as published, for a few steps."""
    return [
        f"--flagfile={ROOT / 'configs' / 'cifar_r20.flags'}",
        f"--data_dir={SHARED / 'tfds'}",
        f"--precision={precision}",
        "--evaluate_every=0",
        f"--train_steps={steps}",
        f"--log_every={log_every}",
    ]


def resnet50_flags(folder: Path, *, steps: int, log_every: int, batch_size: int = 32) -> list[str]:
    """Return the flags of ResNet-50 on a folder of photographs, by ImageNet's recipe."""
    return [
        "--model=resnet50",
        "--dataset=folder",
        f"--data_dir={folder}",
        f"--batch_size={batch_size}",
        "--learning_rate=0.01",
        "--evaluation_batch_size=10",
        f"--train_steps={steps}",
        f"--log_every={log_every}",
    ]


def photographs(folder: Path, images: int) -> Path:
    """Fill a folder with links to photographs of ten classes, repeated up to ``images``.

    One image a class is held out: the evaluation at the end is not what is measured.
    """
    original = SHARED / "imagenette_mini"
    classes = sorted(path.name for path in (original / "train").iterdir())
    for name in classes:
        for split, count in (("train", images // len(classes)), ("val", 1)):
            files = sorted((original / split / name).iterdir())
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                link = folder / split / name / f"{number:05}.JPEG"
                os.symlink(files[number % len(files)], link)
    return folder
