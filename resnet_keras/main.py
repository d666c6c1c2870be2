"""``python -m resnet_keras.main``: flags -> Config -> the one function of its --mode."""

import io
import os
import signal
import sys
from collections.abc import Sequence

import pipelines
from resnet_keras.command_line import parse
from resnet_keras.config import manual
from resnet_keras.errors import InputError
from resnet_keras.reproduce import reproduce
from resnet_keras.startup import quiet
from resnet_keras.training.signals import terminating
from resnet_keras.validation import check_places
from resnet_keras.version import __version__

DONE, OTHER, BAD_INPUT, RESUMABLE = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: run the command again


def main(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    if {"--help", "--helpshort", "--helpfull", "-h"} & set(arguments):
        print(manual(), end="")
        return DONE
    if "--version" in arguments:
        print(f"resnet_keras {__version__}")
        return DONE
    try:
        config = parse(arguments)
        check_places(config)
    except InputError as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return BAD_INPUT
    try:
        if config.mode == "reproduce":  # its steps are processes, and load what they need
            return reproduce(config)
        if config.mode == "report":
            from resnet_keras import report_job

            return report_job.make(config)
        # On CPUs without AVX-512, TensorFlow leaves its faster convolutions off unless asked.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        with quiet():
            from resnet_keras import evaluate_job, jobs, predict_job, train_job

        return {
            "train": train_job.train,
            "evaluate": evaluate_job.evaluate,
            "responses": evaluate_job.responses,
            "export": jobs.export,
            "predict": predict_job.predict,
            "summary": jobs.summary,
            "prepare": jobs.prepare,
            "data_worker": jobs.data_worker,
        }[config.mode](config)
    except (InputError, pipelines.DataError) as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return OTHER
    except KeyboardInterrupt:
        print("resnet_keras: interrupted.", file=sys.stderr)
        return RESUMABLE if config.mode in ("train", "reproduce") else OTHER


def console() -> None:
    """Run as the console command ``resnet-keras``."""
    # They are Ctrl-C: what is half-written is cleared away, and the exit code says resumable.
    for number in terminating():
        signal.signal(number, signal.default_int_handler)
    # A file's name may hold bytes that are no text: they are shown as escapes.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    console()
