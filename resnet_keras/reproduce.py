"""--mode=reproduce: the commands behind a table or figure, one after the other, restartable.

Each step is a command of main's own, run as a process: what it does can be done by hand.
"""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from resnet_keras import command_line, costs, finished
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.reporting.estimates import hours
from resnet_keras.reporting.experiments import (
    EXPERIMENTS,
    STARTS_FROM,
    Row,
    answering_together,
    configuration,
    needed_runs,
    result_name,
)
from resnet_keras.reporting.tables import table
from resnet_keras.training.runs import EVALUATION, RESPONSES
from resnet_keras.training.signals import forget_closed_terminal, terminating

DONE, OTHER, BAD_INPUT, RESUMABLE = 0, 1, 2, 75
CONFIGS = Path(__file__).parent.parent / "configs"
REPORTS = "reports"  # folder within --run_dir


@dataclasses.dataclass(frozen=True)
class Step:
    """Describe one command.

    what: for people. arguments: after ``python -m resnet_keras.main``. multiply_adds: that it
    costs; None where that depends on the disk. images: that it trains on or tests. done: whether
    its result is there.
    """

    what: str
    arguments: tuple[str, ...]
    images: int | None
    multiply_adds: float | None
    done: bool


def reproduce(config: Config) -> int:
    """Run the steps of an experiment that have not been run, after telling what they cost."""
    experiment, root = EXPERIMENTS[config.experiment], Path(config.run_dir)
    if not CONFIGS.is_dir():
        raise InputError(
            f"{CONFIGS} is missing: reproduce from a checkout, which has the configurations."
        )
    if not config.dry_run:
        _check_alone(os.environ.get("TF_CONFIG"))
    steps, runs = plan(config.experiment, config), needed_runs(experiment.rows)
    for run in runs if not config.dry_run else ():
        # All of them before any is run: what is wrong with the last must not cost the others.
        _config(run, config, command_line.parse)
    first = _config(runs[0], config, command_line.read)
    estimate = _estimate(steps, costs.rate(root, first), large=costs.is_large(first))
    print(f"{experiment.title}\n\n{estimate}")
    print()
    for step in steps:
        command = ["-m", "resnet_keras.main", *step.arguments]
        print(f"{'done: ' if step.done else ''}python {shlex.join(command)}", flush=True)
        if config.dry_run or step.done:
            continue
        code, interrupted = _run([sys.executable, *command])
        if interrupted and code != BAD_INPUT:
            print(
                f"resnet_keras: interrupted in {step.what}; the same command goes on from there.",
                file=sys.stderr,
            )
            return RESUMABLE
        if code:
            goes_on = "; the same command goes on from there" if code == RESUMABLE else ""
            print(
                f"resnet_keras: {step.what} ended with exit code {code}{goes_on}.",
                file=sys.stderr,
            )
            return code if code > 0 else OTHER
    return DONE


def _check_alone(tf_config: str | None) -> None:
    """Refuse to run on each machine of a cluster: all of them would test and report."""
    try:
        cluster = json.loads(tf_config or "{}").get("cluster", {})
        machines = sum(map(len, cluster.values()))
    except (ValueError, TypeError, AttributeError):
        return  # training says what is wrong with it
    if machines > 1:
        raise InputError(
            f"TF_CONFIG names {machines} machines, and --mode=reproduce is for one: run the "
            "training commands that --dry_run tells on all of them, then this one on one of them, "
            "without TF_CONFIG."
        )


def plan(name: str, config: Config) -> list[Step]:
    """Return the steps of an experiment: trainings, each before what starts from it, tests, report.

    Args:
        name: key of EXPERIMENTS.
        config: ``run_dir``, the folder of the runs, ``data_dir`` and ``train_flags`` are used.

    Raises:
        InputError: where ``train_flags`` are none, or a run in ``run_dir`` is of another
            configuration or damaged.
    """
    experiment, root = EXPERIMENTS[name], Path(config.run_dir)
    runs = needed_runs(experiment.rows)
    trainings = {run: _config(run, config, command_line.read) for run in runs}
    # All of them first: what contradicts the flags is told before anything is run.
    ends = {run: finished.trained(train) for run, train in trainings.items()}
    steps = [_training(run, train, ends[run], config) for run, train in trainings.items()]
    for row in experiment.rows:
        for together in answering_together(row):
            steps.append(_test(name, row, together, trainings, ends, config))
    if "responses" in experiment.figures:
        for row in experiment.rows:
            for (run,) in answering_together(row):
                steps.append(_responses(run, trainings[run], ends[run], config))
    results = [root / result_name(name, row) for row in experiment.rows if len(row.runs) > 1]
    places = ",".join(map(str, [*(root / run for run in trainings), *results]))
    folder = root / REPORTS / name
    report = ("--mode=report", f"--runs={places}", f"--output_dir={folder}")
    return [*steps, Step("report", report, None, None, False)]


def _train_arguments(run: str, config: Config) -> tuple[str, ...]:
    name, seed = configuration(run)
    file = CONFIGS / f"{name}.flags"
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    arguments = [f"--flagfile={file}", *_place(config), *shlex.split(config.train_flags)]
    if seed is not None:
        arguments.append(f"--seed={seed}")
    if name in STARTS_FROM:
        arguments.append(f"--init_from={Path(config.run_dir, STARTS_FROM[name])}")
    return (*arguments, f"--run_dir={Path(config.run_dir, run)}")


def _config(run: str, config: Config, read: Callable[[Sequence[str]], Config]) -> Config:
    """Return the Config of a training, by one of the readers of ``command_line``."""
    try:
        return read(_train_arguments(run, config))
    except InputError as error:
        raise InputError(f"{run}: {error}") from None


def _place(config: Config) -> list[str]:
    return [f"--data_dir={config.data_dir}"] if config.data_dir else []


def _training(run: str, train: Config, end: int | None, config: Config) -> Step:
    return Step(
        f"train {run}",
        _train_arguments(run, config),
        train.train_steps * train.batch_size,
        costs.training_cost(train),
        done=end is not None,
    )


def _test(
    name: str,
    row: Row,
    runs: Sequence[str],
    trainings: dict[str, Config],
    ends: dict[str, int | None],
    config: Config,
) -> Step:
    root, members = Path(config.run_dir), [trainings[run] for run in runs]
    views = ",".join(row.views)
    if len(members) == 1:
        place = f"{finished.split(members[0])}_{'+'.join(row.views)}"
        folder = root / runs[0] / EVALUATION / place
        where = [f"--run_dir={root / runs[0]}"]
    else:
        folder = root / result_name(name, row)
        ensemble = ",".join(str(root / run) for run in runs)
        where = [f"--ensemble={ensemble}", f"--output_dir={folder}"]
    images = costs.test_images(members[0])  # of an ensemble, the same for all
    cost = sum(costs.forward_cost(member) * costs.crops(member, row.views) for member in members)
    return Step(
        f"test {', '.join(runs)}: {views}",
        ("--mode=evaluate", *where, f"--views={views}", *_place(config)),
        images,
        None if images is None else images * cost,
        done=finished.tested(folder, "+".join(row.views), members, [ends[run] for run in runs]),
    )


def _responses(run: str, train: Config, end: int | None, config: Config) -> Step:
    images = costs.test_images(train)
    return Step(
        f"responses of {run}",
        ("--mode=responses", f"--run_dir={Path(config.run_dir, run)}", *_place(config)),
        images,
        None if images is None else images * costs.forward_cost(train),
        done=finished.responded(Path(train.run_dir, RESPONSES, "responses.csv"), run, end),
    )


def _estimate(steps: list[Step], measured: tuple[float | None, str], *, large: bool) -> str:
    """Return the table of steps and what is to do, here and on GPUs."""
    rate, how = measured
    todo, cells = 0.0, []
    for step in steps:
        cost, state = step.multiply_adds, "done" if step.done else "to do"
        if cost is None:
            cells.append([step.what, "", "", "", "", state])
            continue
        images = step.images or 0
        speed = [f"{images * rate / cost:,.1f}", hours(cost / rate)] if rate else ["", ""]
        cells.append([step.what, f"{images:,}", f"{cost:.1e}", *speed, state])
        todo += 0 if step.done else cost
    header = ["step", "images", "multiply-adds", "images/s", "hours here", ""]
    told = f"To do: {todo:.1e} multiply-adds"
    if rate:
        told += f": {hours(todo / rate)} hours here at {rate:.1e} a second ({how})"
    else:
        told += f"; how many a second here is not known ({how})"
    gpus, gpu_rate = costs.GPUS[large]
    told += f",\nabout {hours(todo / gpu_rate)} hours on {gpus} in float32"
    return f"{table(header, cells)}\n\n{told}."


def _run(command: list[str]) -> tuple[int, bool]:
    """Run a command; return its exit code, and whether a signal asked to stop meanwhile.

    It has a process group of its own, so that a signal reaches it once, from here.
    """
    child: subprocess.Popen | None = None
    interrupted = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        forget_closed_terminal()
        if child:
            child.send_signal(signal.SIGINT)

    stopping = (signal.SIGINT, *terminating())
    previous = {number: signal.signal(number, pass_on) for number in stopping}
    try:
        child = subprocess.Popen(command, process_group=0)
        if interrupted:  # while it was being started
            child.send_signal(signal.SIGINT)
        return child.wait(), interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
