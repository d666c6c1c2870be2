"""The run's log: one JSON object a line, and a progress bar for whoever watches."""

import json
import sys
from pathlib import Path
from typing import Any

import tqdm


class Log:
    """Append records to ``log.jsonl`` and show them; continue where a checkpoint stands.

    Every record has ``kind`` and ``step``. The records of steps after ``step`` are dropped when
    the log is opened, so that a resumed run writes nothing twice.

    Args:
        path: the file; its folder exists.
        step: steps that the restored checkpoint has made; 0 starts the log anew.
        total_steps: steps of the whole run, for the progress bar.
    """

    def __init__(self, path: Path, *, step: int, total_steps: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step] if step else []
        rewritten = path.with_suffix(".new")  # renamed, so that a kill leaves the old log
        rewritten.write_text("".join(line + "\n" for line in kept))
        rewritten.rename(path)
        self._file = path.open("a", encoding="utf-8")
        # Silent where nobody watches: a terminal gets the bar, a file or pipe gets lines.
        self._bar = tqdm.tqdm(
            total=total_steps, initial=step, unit="step", disable=not sys.stderr.isatty()
        )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append one record and print it."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        tqdm.tqdm.write(sentence(kind, step, values), file=sys.stderr)

    def progress(self, step: int, **values: str) -> None:
        """Move the bar to ``step``."""
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Finish bar and file."""
        self._bar.close()
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Return the complete lines; a kill may have left half of the last one."""
    if not path.is_file():
        return []
    whole, newline, _ = path.read_text().rpartition("\n")
    return whole.split("\n") if newline else []


def sentence(kind: str, step: int, values: dict[str, Any]) -> str:
    """Return a record as one line for people."""
    shown = "  ".join(f"{name} {_figure(name, value)}" for name, value in values.items())
    return f"step {step:>7,}  {kind:<10}  {shown}"


def _figure(name: str, value: Any) -> str:
    if name.endswith("error"):
        return f"{100 * value:.2f} %"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
