"""The run's log: one JSON object a line; lines and a progress bar for whoever watches."""

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import tqdm

from resnet_keras.records import LOG, parse_records, tested, whole_lines
from resnet_keras.startup import BEGAN
from resnet_keras.training.runs import cannot_write, replace
from resnet_keras.training.tensorboard import Events

REMEDY = "mend it, or give another --run_dir"
HIDDEN = ("saving", "peak_memory", "elapsed")  # seconds and bytes, which a report tells
# How people read a value; others are shown as "name value".
SHOWN = {
    "loss": "loss {:.4g}",
    "error": "error {:.2%}",
    "top1_error": "error {:.2%}",
    "top5_error": "top-5 {:.2%}",
    "learning_rate": "lr {:.4g}",
    "images_per_second": "{:,.0f} images/s",
    "input_wait": "input wait {:.1%}",
    "images": "{:,} images",
    "wrong": "{:,} wrong",
    "seconds": "{:.1f} s",
    "image": "{}",
    "split": "in {}",
    "drops": "drop {}",
    "init_from": "from {}",
    "init_step": "step {:,}",
    "copied": "{:,} layers copied",
    "added": "{:,} added",
    "relative_difference": "logits differ by {:.1e}",
    "init_error": "(there {:.2%})",
    "batch_error": "with batch statistics {:.2%}",
    "init_batch_error": "(there {:.2%})",
}


class Log:
    """Append records to ``log.jsonl``, show them, and go on where a checkpoint stands.

    Every record has ``kind``, ``step`` and ``elapsed``: the seconds of this process and of those
    before it, as far as their records are kept. The log is the single source: TensorBoard's events
    are made from it.

    Args:
        run: the run's directory, which exists; None for a log that writes and shows nothing.
        records: lines that the log had when the restored checkpoint was written; all after them
            are dropped, so that a resumed run writes nothing twice. 0 starts the log anew.
        step: steps that the restored checkpoint has made.
        total_steps: steps of the whole run.
        images_per_step: the global batch size; with the images/s it gives the time that is left.
        tensorboard: whether to write TensorBoard's events too.

    Attributes:
        records: lines of the log now.
        kept: the records that were there when it was opened.

    Raises:
        InputError: where a line of the log is damaged.
        OSError: where it cannot be written.
    """

    def __init__(
        self,
        run: Path | None,
        *,
        records: int,
        step: int,
        total_steps: int,
        images_per_step: int,
        tensorboard: bool,
    ) -> None:
        self.records = records
        self.kept: list[dict[str, Any]] = []
        self._before = 0.0
        self._file = self._events = None
        if run:
            self._path = run / LOG
            try:
                kept = whole_lines(self._path)
                whole = step >= total_steps and tested(
                    parse_records(kept, self._path, REMEDY)[records:], step
                )
                if not whole:
                    kept = kept[:records]
                self.kept = parse_records(kept, self._path, REMEDY)
                replace(self._path, b"".join(line + b"\n" for line in kept))
            except OSError as error:
                raise cannot_write(self._path, error.strerror) from None
            self.records = len(kept)
            if self.kept:
                self._before = float(self.kept[-1].get("elapsed", 0.0))
            self._events = Events(run, self.kept) if tensorboard else None
            if not whole:
                self._file = self._path.open("a", encoding="utf-8")
        # Silent where nobody watches: a terminal gets the bar, a file or pipe gets lines.
        self._bar = _Bar(
            total=total_steps,
            initial=step,
            disable=not (run and sys.stderr.isatty()),
            bar_format="{n:,}/{total:,} |{bar}| {remaining} left{postfix}",
            dynamic_ncols=True,
            mininterval=0.5,  # seconds: slow enough to be read
            miniters=1,
        )
        self._bar.images_per_step = images_per_step

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record and show it; numbers that are not finite are null.

        Raises:
            OSError: where the disk is full or gone, in one sentence.
        """
        self.records += 1
        if not self._file:
            return
        elapsed = round(self._before + time.perf_counter() - BEGAN, 3)
        plain = {name: _json(value) for name, value in values.items()}
        record = {"kind": kind, "step": step, **plain, "elapsed": elapsed}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error.strerror) from None
        tqdm.tqdm.write(sentence(kind, step, values), file=sys.stderr)
        if self._events:
            self._events.write(record)

    def progress(self, step: int, loss: float, error: float, images_per_second: float) -> None:
        """Move the bar to ``step``.

        Args:
            step: steps made.
            loss: of the steps since the last record.
            error: of the same, share of wrong answers.
            images_per_second: of the same; 0 where it is not known yet.
        """
        self._bar.images_per_second = images_per_second
        self._bar.set_postfix_str(
            f"{images_per_second:,.0f} images/s, loss {loss:.3f}, error {100 * error:.1f} %",
            refresh=False,
        )
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Finish bar and files."""
        self._bar.close()
        if self._events:
            self._events.close()
        if self._file:
            # All was flushed line by line; a line that could not be has been told of.
            with contextlib.suppress(OSError):
                self._file.close()


class _Bar(tqdm.tqdm):
    """Reckon the time left from the images/s shown.

    tqdm's own clock knows neither tracing nor evaluations, and would jump at each.
    """

    images_per_step = 1
    images_per_second = 0.0

    @property
    def format_dict(self) -> dict[str, Any]:
        rate = self.images_per_second / self.images_per_step
        return super().format_dict | {"rate": rate}  # 0 shows "?"; None would be tqdm's own guess


def _json(value: Any) -> Any:
    """Return a value as JSON has it: null for what is infinite or no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sentence(kind: str, step: int, values: dict[str, Any]) -> str:
    """Return a record as one line for people."""
    shown = "  ".join(_figure(name, value) for name, value in values.items() if name not in HIDDEN)
    return f"step {step:>7,}  {kind:<10}  {shown}"


def _figure(name: str, value: Any) -> str:
    if name in SHOWN:
        return SHOWN[name].format(value).replace("%", " %")
    if isinstance(value, float):
        return f"{name} {value:,.4g}"
    return f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
