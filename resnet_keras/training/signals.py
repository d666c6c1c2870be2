"""Ctrl-C, SIGTERM and a closed terminal: requests to stop after the step at hand."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType


def terminating() -> tuple[signal.Signals, ...]:
    """Return the signals that are to work as Ctrl-C: SIGTERM, and SIGHUP where nohup is not."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return (signal.SIGTERM,) if ignored else (signal.SIGTERM, signal.SIGHUP)


def forget_closed_terminal() -> None:
    """Send what would go to a terminal that is closed nowhere: it must not end what is to save."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            os.write(stream.fileno(), b"")  # an error where the terminal is gone
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


class Stopped(Exception):
    """A signal ended the run after a whole step; its checkpoint is written."""


class StopRequest:
    """Note signals that ask to stop, so that the step at hand can end; a second interrupts."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, *terminating())
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        forget_closed_terminal()
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    @property
    def told(self) -> str:
        """Say what asked to stop; among several workers it may have been another one."""
        return f"by {self.signal.name}" if self.signal else "as another worker was"


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let the signals that ask to stop end the process at once.

    For waits within native code that holds Python's lock: no handler would run before its end.
    TensorFlow catches SIGTERM itself while it waits for other workers, so there only Ctrl-C helps.
    """
    previous = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, *terminating())
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
