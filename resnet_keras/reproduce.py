"""--mode=reproduce: the commands behind a table or figure, one after the other, restartable.

Each step is a command of main's own, run as a process: what it does can be done by hand.
"""

import dataclasses
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pipelines
from resnet_keras import command_line
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.models import complexity
from resnet_keras.reporting.experiments import (
    EXPERIMENTS,
    STARTS_FROM,
    Experiment,
    Row,
    configuration,
    needed_runs,
    result_name,
)
from resnet_keras.reporting.tables import table
from resnet_keras.training.runs import CONFIG, EVALUATION, LOG, RESPONSES

DONE, OTHER = 0, 1
CONFIGS = Path(__file__).parent.parent / "configs"
REPORTS = "reports"  # folder within --run_dir
BACKWARD = 2  # gradients of inputs and of weights cost as much as the forward pass each
ASPECT = 4 / 3  # of a photograph, where whole images are tested
# NVIDIA/DeepLearningExamples, ResNet-50 v1.5 in TensorFlow, 8 V100 of a DGX-1, float32 with XLA:
# 3,170 images/s; 4.09e9 multiply-adds forward.
LARGE = 128  # pixels
GPUS, GPU_RATE = "8 V100 GPUs", 3_170 * (1 + BACKWARD) * 4.09e9


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
    steps = plan(config.experiment, config)
    for run in _runs(experiment) if not config.dry_run else ():
        # All of them before any is run: what is wrong with the last must not cost the others.
        command_line.parse(_train_arguments(run, config))
    first = command_line.read(_train_arguments(_runs(experiment)[0], config))
    large = first.make_recipe().image_size >= LARGE
    print(f"{experiment.title}\n\n{_estimate(steps, _rate(root), large=large)}")
    print()
    for step in steps:
        command = ["-m", "resnet_keras.main", *step.arguments]
        print(f"{'done: ' if step.done else ''}python {shlex.join(command)}", flush=True)
        if config.dry_run or step.done:
            continue
        code = _run([sys.executable, *command])
        if code:
            print(
                f"resnet_keras: {step.what} ended with exit code {code}; the same command goes on "
                "from there.",
                file=sys.stderr,
            )
            return code if code > 0 else OTHER
    return DONE


def plan(name: str, config: Config) -> list[Step]:
    """Return the steps of an experiment: trainings, each before what starts from it, tests, report.

    Args:
        name: key of EXPERIMENTS.
        config: ``run_dir``, the folder of the runs, ``data_dir`` and ``train_flags`` are used.

    Raises:
        InputError: where ``train_flags`` are none.
    """
    experiment, root = EXPERIMENTS[name], Path(config.run_dir)
    trainings = {run: command_line.read(_train_arguments(run, config)) for run in _runs(experiment)}
    steps = [_training(run, train, config) for run, train in trainings.items()]
    for row in experiment.rows:
        steps.append(_test(name, row, trainings, config))
    if "responses" in experiment.figures:
        for row in experiment.rows:
            steps.append(_responses(row.runs[0], trainings, config))
    results = [root / result_name(name, row) for row in experiment.rows if len(row.runs) > 1]
    places = ",".join(map(str, [*(root / run for run in trainings), *results]))
    folder = root / REPORTS / name
    report = ("--mode=report", f"--runs={places}", f"--output_dir={folder}")
    return [*steps, Step("report", report, None, None, False)]


def _runs(experiment: Experiment) -> list[str]:
    """Return the runs of an experiment in an order in which each can start."""
    return needed_runs(experiment.rows)


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


def _place(config: Config) -> list[str]:
    return [f"--data_dir={config.data_dir}"] if config.data_dir else []


def _training(run: str, train: Config, config: Config) -> Step:
    images = train.train_steps * train.batch_size
    last = _last_record(Path(train.run_dir, LOG))
    return Step(
        f"train {run}",
        _train_arguments(run, config),
        images,
        training_cost(train),
        # The last record is the evaluation after the last step.
        done=last.get("kind") in ("test", "validation") and last["step"] >= train.train_steps,
    )


def _test(name: str, row: Row, trainings: dict[str, Config], config: Config) -> Step:
    root, members = Path(config.run_dir), [trainings[run] for run in row.runs]
    views = ",".join(row.views)
    if len(members) == 1:
        split = "validation" if members[0].validation_images else "test"
        folder = root / row.runs[0] / EVALUATION / f"{split}_{'+'.join(row.views)}"
        where = [f"--run_dir={root / row.runs[0]}"]
    else:
        folder = root / result_name(name, row)
        runs = ",".join(str(root / run) for run in row.runs)
        where = [f"--ensemble={runs}", f"--output_dir={folder}"]
    images = _test_images(members[0])  # of an ensemble, the same for all
    cost = sum(_forward(member) * _crops(member, row.views) for member in members)
    return Step(
        f"test {', '.join(row.runs)}: {views}",
        ("--mode=evaluate", *where, f"--views={views}", *_place(config)),
        images,
        None if images is None else images * cost,
        done=_tested(folder / "metrics.json", [member.train_steps for member in members]),
    )


def _responses(run: str, trainings: dict[str, Config], config: Config) -> Step:
    train = trainings[run]
    images = _test_images(train)
    return Step(
        f"responses of {run}",
        ("--mode=responses", f"--run_dir={Path(config.run_dir, run)}", *_place(config)),
        images,
        None if images is None else images * _forward(train),
        done=Path(config.run_dir, run, RESPONSES, "responses.csv").is_file(),
    )


def training_cost(config: Config) -> int:
    """Return the multiply-adds of a whole training."""
    small = min(config.small_image_steps, config.train_steps)
    forward = (config.train_steps - small) * _forward(config)
    if small:
        forward += small * _forward(config, config.small_image_size)
    return (1 + BACKWARD) * forward * config.batch_size


def _forward(config: Config, image_size: int = 0) -> int:
    """Return the multiply-adds of one image, of the run's own size or another."""
    rows = complexity.stages(
        config.model,
        classes=len(config.classes) or pipelines.describe(config.dataset).classes,
        input_size=image_size or config.image_size or None,
        **config.architecture_arguments(),
    )
    return complexity.total(rows).multiply_adds


def _test_images(config: Config) -> int | None:
    """Return the number of images reported on; None where the disk decides."""
    data = pipelines.describe(config.dataset)
    if config.validation_images or data.test_images is None or data.classes is None:
        return config.validation_images or None
    return data.test_images * (len(config.classes) or data.classes) // data.classes


def _crops(config: Config, views: Sequence[str]) -> float:
    """Return how many images of the network's size a test image costs."""
    recipe = config.make_recipe()
    total = 0.0
    for view in views:
        scales = config.evaluation_scales(view, recipe)
        # A whole image and its mirror image at each scale.
        whole = sum(2 * ASPECT * (side / recipe.image_size) ** 2 for side in scales)
        total += {"center": 1, "ten_crop": 10, "multi_crop": 50 * len(scales)}.get(view, whole)
    return total


def _tested(file: Path, steps: list[int]) -> bool:
    """Tell whether a result is of networks that were trained to the end."""
    if not file.is_file():
        return False
    members = json.loads(file.read_bytes())["members"]
    return [member.get("step") for member in members] == steps


def _last_record(log: Path) -> dict[str, Any]:
    lines = log.read_bytes().split(b"\n")[:-1] if log.is_file() else []
    return json.loads(lines[-1]) if lines else {}


def _rate(root: Path) -> tuple[float, str]:
    """Return multiply-adds a second, as measured by the runs in ``root`` or else now, and how."""
    rates = list(_measured(root))
    if rates:
        return statistics.median(rates), f"measured by the runs in {root}"
    done = subprocess.run(
        [sys.executable, "-m", "resnet_keras.training.speed"],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout), "measured just now on one block"


def _measured(root: Path) -> Iterator[float]:
    for file in sorted(root.glob(f"*/{LOG}")):
        try:
            flags = json.loads((file.parent / CONFIG).read_bytes())["flags"]
            run = dataclasses.replace(
                Config(), **{name: flags[name] for name in ("model", "shortcut", "dataset")}
            )
            cost = (1 + BACKWARD) * _forward(run)
            records = map(json.loads, file.read_bytes().split(b"\n")[:-1])
            small = flags.get("small_image_steps", 0)  # which do not cost the same
            speeds = [record["images_per_second"] for record in records
                      if "images_per_second" in record and record["step"] > small]  # fmt: skip
        except (OSError, ValueError, KeyError):
            continue  # what is no run's directory measures nothing
        if speeds:
            yield cost * statistics.median(speeds)


def _estimate(steps: list[Step], measured: tuple[float, str], *, large: bool) -> str:
    """Return the table of steps and what is to do; on GPUs for images that keep them busy."""
    rate, how = measured
    todo, cells = 0.0, []
    for step in steps:
        cost = step.multiply_adds
        if cost is None:
            cells.append([step.what, "", "", "", "", "to do"])
            continue
        images = step.images or 0
        cells.append(
            [
                step.what,
                f"{images:,}",
                f"{cost:.1e}",
                f"{images * rate / cost:,.1f}",
                _hours(cost / rate),
                "done" if step.done else "to do",
            ]
        )
        todo += 0 if step.done else cost
    header = ["step", "images", "multiply-adds", "images/s", "hours here", ""]
    told = (
        f"To do: {todo:.1e} multiply-adds: {_hours(todo / rate)} hours here at {rate:.1e} a second "
        f"({how})"
    )
    if large:
        told += f",\nabout {_hours(todo / GPU_RATE)} hours on {GPUS} in float32"
    return f"{table(header, cells)}\n\n{told}."


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _run(command: list[str]) -> int:
    """Run a command in a process group of its own, so that a signal reaches it once, from here."""
    child = subprocess.Popen(command, process_group=0)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # SIGTERM, too
            child.send_signal(signal.SIGINT)
