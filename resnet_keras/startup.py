"""The start of a process: since when it runs, and TensorFlow without its chatter."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

# Of time.perf_counter. Python itself is up by then, TensorFlow is not imported yet.
BEGAN = time.perf_counter()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TensorFlow's start-up chatter from the terminal; what precedes an error is shown.

    Its first lines come before it reads TF_CPP_MIN_LOG_LEVEL, hence the detour of stderr itself.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except BaseException:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
