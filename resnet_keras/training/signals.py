"""Ctrl-C and SIGTERM: requests to stop after the step at hand."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(Exception):
    """A signal ended the run after a whole step; its checkpoint is written."""


class StopRequest:
    """Note SIGINT and SIGTERM, so that the step at hand can end; a second one interrupts."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def told(self) -> str:
        """Say what asked to stop; among several workers it may have been another one."""
        return f"by {self.signal.name}" if self.signal else "as another worker was"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process at once.

    For waits within native code that holds Python's lock: no handler would run before its end.
    TensorFlow catches SIGTERM itself while it waits for other workers, so there only Ctrl-C helps.
    """
    previous = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
