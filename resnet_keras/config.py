"""Flags -> one frozen Config: one field = one flag = one line of help.

Standard library and absl only, so that a wrong flag is answered before TensorFlow is loaded.
"""

import dataclasses
import difflib
import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import pipelines
from resnet_keras.errors import InputError
from resnet_keras.models import complexity
from resnet_keras.models.architectures import (
    INITIALIZERS,
    SHORTCUTS,
    STEM_POOLS,
    STRIDES_ON,
    ResNetSpec,
    architecture,
)
from resnet_keras.serving import places
from resnet_keras.training.runs import CHECKPOINT

MODES = (
    *("train", "evaluate", "responses", "export", "predict", "summary", "prepare", "data_worker"),
)
PRECISIONS = ("float32", "bfloat16", "float16", "auto")
FORMATS = ("jsonl", "ilsvrc")
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
LR_SCHEDULES = ("piecewise", "plateau", "cosine")
VIEWS = ("center", "ten_crop", "dense", "multi_scale", "multi_crop")


def _flag(default: Any, text: str, *, choices: Sequence[str] = (), low: float | None = None) -> Any:
    return dataclasses.field(
        default=default, metadata={"help": text, "choices": tuple(choices), "low": low}
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold every setting of a run; an empty string or 0 means "the usual one" where it says so."""

    mode: str = _flag(
        "train",
        "train (then evaluate and export), evaluate or export a run, measure its layers' responses "
        "(Fig. 7), predict with an export, "
        "print a network's summary, prepare a data set as TFRecord files, or serve as data worker",
        choices=MODES,
    )
    # Network
    model: str = _flag("resnet50", "architecture; --mode=summary takes several, comma-separated")
    shortcut: str = _flag(
        "", "A zero-pads, B projects where shapes change, C projects always; '' is the network's "
        "own", choices=("", *SHORTCUTS),
    )  # fmt: skip
    stride_on: str = _flag(
        "", "convolution of a bottleneck that has the stride: 1x1 (the paper) or 3x3 "
        "(torchvision); '' is the network's own", choices=("", *STRIDES_ON),
    )  # fmt: skip
    stem_pool: str = _flag(
        "", "padding of the first max pooling: ceil (Caffe, the paper's) or symmetric "
        "(torchvision, Keras Applications)", choices=("", *STEM_POOLS),
    )  # fmt: skip
    init: str = _flag(
        "", "initial weights; '' is the network's published choice", choices=("", *INITIALIZERS)
    )
    init_weights: str = _flag(
        "", "file of weights that training starts from, or that is evaluated or exported instead "
        "of a run: PyTorch's (torchvision, timm), Keras Applications', the authors' Caffe release "
        "as .npz, or our own"
    )  # fmt: skip
    # Data
    dataset: str = _flag("imagenet2012", ", ".join(pipelines.DATASETS) + ", or a name of TFDS")
    data_dir: str = _flag("", "where the data set lies; '' is TFDS's own directory")
    classes: tuple[str, ...] = _flag((), "keep these classes only, relabelled in this order")
    validation_images: int = _flag(0, "training images held out and reported on instead", low=0)
    recipe: str = _flag("", "preprocessing and augmentation; '' is the data set's own")
    image_size: int = _flag(0, "pixels a side; 0 is the network's own", low=0)
    channel_mean: tuple[float, ...] = _flag(
        (), "R,G,B in 0..1, subtracted instead of the data set's own mean"
    )
    channel_std: tuple[float, ...] = _flag((), "R,G,B in 0..1, divided by after the mean")
    antialias: str = _flag(
        "auto", "low-pass filter before shrinking; auto is the recipe's: not in training, but in "
        "evaluation and export", choices=("auto", "true", "false"),
    )  # fmt: skip
    max_bad_fraction: float = _flag(
        0.001, "share of unreadable images that is borne, and never fewer than 10 images", low=0
    )
    # Optimisation; defaults from Sec. 3.4
    batch_size: int = _flag(256, "images a step, over all devices", low=1)
    train_steps: int = _flag(600_000, "iterations", low=1)
    learning_rate: float = _flag(0.1, "learning rate at the start", low=0)
    lr_schedule: str = _flag(
        "piecewise", "piecewise divides the rate by 10 at --lr_drops, plateau when the validation "
        "error stops improving, cosine lowers it to 0 at the last step", choices=LR_SCHEDULES,
    )  # fmt: skip
    lr_drops: tuple[int, ...] = _flag((), "iterations at which the learning rate is divided by 10")
    plateau_patience: int = _flag(5, "evaluations without improvement that make a plateau", low=1)
    plateau_threshold: float = _flag(
        0.001, "share of the images by which the error must fall to improve; 0.001 is 0.1 points",
        low=0,
    )  # fmt: skip
    plateau_drops: int = _flag(3, "drops at plateaus, at most", low=0)
    warmup_steps: int = _flag(0, "iterations in which the rate rises linearly from 0", low=0)
    warmup_until_error: float = _flag(
        0.0, "training error below which --warmup_learning_rate gives way to --learning_rate; "
        "0.8 for ResNet-110 (Sec. 4.2), 0 is no such warm-up", low=0,
    )  # fmt: skip
    warmup_learning_rate: float = _flag(0.01, "rate until --warmup_until_error is passed", low=0)
    momentum: float = _flag(0.9, "momentum, Caffe's form: v = m v + lr g", low=0)
    weight_decay: float = _flag(1e-4, "L2 coefficient added to the gradient (coupled)", low=0)
    decay: str = _flag("kernels", "variables that decay", choices=("kernels", "all"))
    precision: str = _flag(
        "float32", "bfloat16 and float16 (with loss scaling) are mixed: variables, statistics, "
        "classifier and loss in float32; auto is bfloat16 where the hardware has it, else float32",
        choices=PRECISIONS,
    )  # fmt: skip
    accumulation_steps: int = _flag(
        1, "parts of a device's batch that go through the network one by one, their gradients "
        "added up: a batch of 256 fits any device", low=1,
    )  # fmt: skip
    recompute: bool = _flag(
        False, "keep few activations and compute the others again in the backward pass: less "
        "memory, about a third more time; residual and plain networks",
    )  # fmt: skip
    seed: int = _flag(0, "seed of weights, order, augmentation and dropout", low=0)
    # Run
    strategy: str = _flag(
        "auto", "devices: auto is multi_worker where TF_CONFIG names several machines, mirrored "
        "on several GPUs, else one device",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
    )  # fmt: skip
    run_dir: str = _flag("", "checkpoints, log and config; '' is runs/MODEL_DATASET")
    restart: bool = _flag(False, "start the run anew, deleting its files")
    resume: str = _flag(
        "exact", "approximate is for --data_service, which keeps neither order nor position",
        choices=("exact", "approximate"),
    )  # fmt: skip
    steps_per_call: int = _flag(10, "steps in one call of the compiled loop", low=1)
    log_every: int = _flag(100, "steps between lines of the log", low=1)
    checkpoint_every: int = _flag(5_000, "steps between checkpoints", low=1)
    keep_checkpoints: int = _flag(3, "checkpoints that stay, beside the best one", low=1)
    evaluate_every: int = _flag(
        0, "steps between evaluations; 0 is at the end only, with plateau after each epoch", low=0
    )
    evaluation_batch_size: int = _flag(0, "images a batch in evaluation; 0 is --batch_size", low=0)
    tensorboard: bool = _flag(True, "write the log for TensorBoard, too")
    profile_steps: tuple[int, ...] = _flag(
        (), "first and last step that TensorFlow's profiler records, e.g. 20,25"
    )
    checkpoint: str = _flag(
        "latest", "with --mode=evaluate or export: the newest checkpoint, or the one with the "
        "lowest error on the images reported on", choices=("latest", "best"),
    )  # fmt: skip
    # Evaluation
    views: str = _flag(
        "center", "with --mode=evaluate, what is averaged: the centre crop; ten crops; dense, the "
        "whole image and its mirror image; multi_scale, dense at --scales; multi_crop, a grid of "
        "50 crops at each of three --scales",
        choices=VIEWS,
    )  # fmt: skip
    scales: tuple[int, ...] = _flag(
        (), "shorter sides of the image for multi_scale and multi_crop; '' is the recipe's own "
        "(224,256,384,480,640; VGG's are S-32,S,S+32 or 256,384,512)"
    )  # fmt: skip
    ensemble: tuple[str, ...] = _flag(
        (), "with --mode=evaluate: run directories and SavedModels whose probabilities are averaged"
    )
    batchnorm_statistics: str = _flag(
        "moving_average", "with --mode=evaluate, responses or export: true_average computes them "
        "over the training images, in batches of --batch_size, as the authors did, and keeps them "
        "in the run", choices=("moving_average", "true_average"),
    )  # fmt: skip
    runs: tuple[str, ...] = _flag(
        (), "with --mode=responses: run directories to compare; '' is --run_dir alone"
    )
    # Data sets and data workers
    output_dir: str = _flag(
        "", "with --mode=prepare: where the data set goes, a --data_dir; with evaluate and "
        "responses: where the result goes, '' is in the run's directory"
    )  # fmt: skip
    output_name: str = _flag("", "with --mode=prepare: its name, from then on a --dataset")
    data_service: str = _flag("", "grpc://HOST:PORT of a dispatcher whose workers read the data")
    port: int = _flag(0, "with --mode=data_worker: port to serve on; 0 is any free one", low=0)
    host: str = _flag("localhost", "with --mode=data_worker: name by which trainers reach it")
    # Result
    export_dir: str = _flag("", "SavedModel versions; '' is saved_models/ and the run's name")
    fold: bool = _flag(True, "multiply batch norm into the convolutions of the export")
    export_precision: str = _flag(
        "", "precision inside the export, float32 outside: bfloat16 for servers whose hardware has "
        "it; '' is float32", choices=("", "float32", "bfloat16"),
    )  # fmt: skip
    saved_model: str = _flag("", "with --mode=predict: the export, with or without its version")
    images: str = _flag("", "with --mode=predict: image files, a glob pattern in quotes")
    output: str = _flag("", "with --mode=predict: file for the answers, in place of the table")
    format: str = _flag(
        "jsonl", "of --output: a JSON object a line, or ilsvrc, the test server's file: five class "
        "numbers a line, by file name", choices=FORMATS,
    )  # fmt: skip
    ilsvrc_ids: str = _flag(
        "", "with --format=ilsvrc: the development kit's meta.mat or map_clsloc.txt, which number "
        "the classes; '' is the list in TensorFlow Datasets",
    )  # fmt: skip
    grid: str = _flag(
        "", "with --mode=predict: file for a grid of up to 64 of the pictures with their classes, "
        "green where it is the name of the picture's folder, else red",
    )  # fmt: skip

    def resolved(self) -> "Config":
        """Return the config with every directory filled in."""
        run_dir = self.run_dir or f"runs/{self.model}_{self.dataset}"
        places = {
            "run_dir": run_dir,
            "export_dir": self.export_dir or f"saved_models/{Path(run_dir).name}",
            **{name: getattr(self, name) for name in _EXPANDED},
        }
        return dataclasses.replace(
            self,
            **{name: os.path.expanduser(place) for name, place in places.items()},
            ensemble=tuple(map(os.path.expanduser, self.ensemble)),
            runs=tuple(map(os.path.expanduser, self.runs)),
            evaluation_batch_size=self.evaluation_batch_size or self.batch_size,
        )

    def architecture_arguments(self) -> dict[str, Any]:
        """Return the network's options as ``build_model`` and ``complexity`` name them."""
        return {
            "shortcut": self.shortcut or None,
            "stride_on": self.stride_on or None,
            "stem_pool": self.stem_pool or None,
        }

    def make_recipe(self) -> pipelines.Recipe:
        """Return the recipe of the flags: the data set's own, changed as asked."""
        data = pipelines.describe(self.dataset)
        # What is prepared is for any network; a run's images are of its network's size.
        own = data.image_size if self.mode == "prepare" else architecture(self.model).image_size
        return pipelines.recipe(
            self.recipe or data.recipe,
            image_size=self.image_size or own,
            antialias=None if self.antialias == "auto" else self.antialias == "true",
            channel_mean=self.channel_mean or None,
            channel_std=self.channel_std or None,
        )

    def evaluation_scales(self, recipe: pipelines.Recipe) -> tuple[int, ...]:
        """Return the shorter sides at which --views sees an image; () where the recipe has none."""
        if self.views == "multi_scale":
            return self.scales or recipe.test_scales
        if self.views == "multi_crop":
            return self.scales or recipe.crop_scales
        return (recipe.test_shorter_side,)


_EXPANDED = tuple("init_weights output_dir saved_model images output ilsvrc_ids grid".split())

# What may differ when a run is resumed: none of these changes what a step computes.
_RESUMABLE = (
    "mode data_dir train_steps strategy run_dir restart steps_per_call log_every checkpoint_every "
    "keep_checkpoints evaluate_every evaluation_batch_size tensorboard profile_steps checkpoint "
    "recompute max_bad_fraction export_dir fold export_precision saved_model images output_dir "
    "output_name data_service resume port host output format ilsvrc_ids grid views scales ensemble "
    "batchnorm_statistics runs"
).split()
# What a command that evaluates several runs asks of all of them.
_ASKED = (
    "mode data_dir strategy evaluation_batch_size checkpoint max_bad_fraction views scales "
    "batchnorm_statistics output_dir"
).split()


def resumable(config: Config) -> set[str]:
    """Return the flags that may differ when the run is resumed."""
    free = set(_RESUMABLE)
    if config.lr_schedule == "plateau":
        free -= {"evaluate_every"}  # the rate follows from the evaluations
    if config.lr_schedule == "cosine":
        free -= {"train_steps"}
    return free


_SECTIONS = {
    "mode": "What to do",
    "model": "Network",
    "dataset": "Data",
    "batch_size": "Optimisation",
    "strategy": "Run",
    "views": "Evaluation",
    "output_dir": "Data sets and data workers",
    "export_dir": "Result",
}
_USAGE = """\
resnet_keras: Deep Residual Learning for Image Recognition, reproduced.

  python -m resnet_keras.main --flagfile=configs/quickstart.flags
  python -m resnet_keras.main --flagfile=configs/r152.flags --data_dir=DIR
  python -m resnet_keras.main --mode=summary --model=vgg_e,plain34,resnet34,resnet152
"""
_FOOTER = """
  --flagfile=FILE    read flags from a file; those after it on the line win
  --version          print the version
  --help             print this

Exit codes: 0 done, 2 bad input, 75 stopped by a signal and resumable (same command), 1 other.
"""


def manual() -> str:
    """Return the help text: every flag with its default, by section."""
    lines = [_USAGE]
    for field in dataclasses.fields(Config):
        if field.name in _SECTIONS:
            lines.append(f"\n{_SECTIONS[field.name]}\n")
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        lines.append(
            f"  --{field.name}" + ("\n" if shown == "" or shown is False else f"={shown}\n")
        )
        text = field.metadata["help"]
        allowed = [choice for choice in field.metadata["choices"] if choice]
        if allowed:
            text += " (" + " | ".join(allowed) + ")"
        lines.append(textwrap.indent(textwrap.fill(text, 84), " " * 8) + "\n")
    return "".join(lines) + _FOOTER


def parse(arguments: Sequence[str]) -> Config:
    """Return the Config of a command line (without the program's name).

    With ``--mode=evaluate``, ``responses`` or ``export``, flags that are not given come from the
    run's own ``config.json``, so that ``--run_dir`` alone names a run; of several runs, from the
    first one's. ``--init_weights`` needs no run.

    Raises:
        InputError: for an unknown flag, a bad value, a positional argument or an impossible
            combination.
    """
    arguments = _expand_flagfiles(arguments, Path(), ())
    config = _read(arguments, {})
    if config.mode in ("evaluate", "responses", "export"):
        _check_weights_alone(config)
        run = "" if config.init_weights else _first_run(config.resolved())
        if run:
            config = _read(arguments, _settings_of_run(run, arguments))
    config = config.resolved()
    _validate(config)
    return config


def _check_weights_alone(config: Config) -> None:
    """Refuse --init_weights beside what names other weights, or needs a run's."""
    other = {
        "run_dir": config.run_dir,
        "ensemble": _listed(config.ensemble),
        "runs": _listed(config.runs),
        "mode": config.mode if config.mode == "responses" else "",
        "checkpoint": config.checkpoint if config.checkpoint != "latest" else "",
        "batchnorm_statistics": config.batchnorm_statistics.removeprefix("moving_average"),
    }
    for name, value in other.items():
        if config.init_weights and value:
            raise InputError(
                f"--init_weights={config.init_weights} has no place beside --{name}={value}, "
                "which is for runs: give one of the two."
            )


def of_run(config: Config, run_dir: str) -> tuple[Config, list[str]]:
    """Return the Config of another run as ``config`` asks to evaluate it, and its class names.

    Raises:
        InputError: where the directory holds no run, or it cannot be evaluated so.
    """
    saved = _saved(run_dir)
    asked = {name: getattr(config, name) for name in _ASKED}
    member = dataclasses.replace(_read([], saved["flags"]), run_dir=run_dir, **asked)
    _validate(member)
    return member, saved["data"].get("class_names", [])


def is_run(place: str) -> bool:
    """Tell whether a directory is a run's."""
    return Path(place, "config.json").is_file()


def _first_run(config: Config) -> str:
    """Return the run whose settings a command takes over; "" for an ensemble without one."""
    if config.mode == "evaluate" and config.ensemble:
        return next(filter(is_run, config.ensemble), "")
    if config.mode == "responses" and config.runs:
        return config.runs[0]
    return config.run_dir


def _saved(run_dir: str) -> dict[str, Any]:
    file = Path(run_dir, "config.json")
    try:
        saved = json.loads(file.read_text())
        # The weights that it began with are not its own.
        flags_of_run = dict(saved["flags"]) | {"init_weights": ""}
        return {"flags": flags_of_run, "data": saved.get("data", {})}
    except OSError:
        raise InputError(
            f"{run_dir} holds no run: name a run's directory, or train one with --mode=train."
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise InputError(f"{file} is no run's config: name another --run_dir.") from None


def _settings_of_run(run_dir: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a run's config.json; those given may not contradict its network."""
    saved = _saved(run_dir)["flags"]
    asked = _read(arguments, saved)
    for name in ("model", "shortcut", "stride_on", "stem_pool", "classes"):
        old, new = saved[name], getattr(asked, name)
        if new != (tuple(old) if isinstance(old, list) else old):
            raise InputError(
                f"{run_dir} holds a run with --{name}={old} (now {new}): leave that flag out."
            )
    return saved


def _expand_flagfiles(arguments: Sequence[str], folder: Path, within: tuple[Path, ...]) -> list:
    """Put the lines of each --flagfile in its place; a nested one is relative to its file."""
    expanded: list[str] = []
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, separator, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or name != "flagfile":
            expanded.append(argument)
            continue
        if not separator:
            if not pending:
                raise InputError("--flagfile needs a file: write --flagfile=configs/NAME.flags.")
            value = pending.pop(0)
        path = folder / os.path.expanduser(value)
        if path in within:
            raise InputError(f"--flagfile={value} includes itself: remove that line from {path}.")
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise InputError(f"--flagfile={value} cannot be read ({path}): {reason}.") from None
        for number, line in enumerate(lines, 1):
            flag = line.strip()
            if not flag or flag.startswith("#"):
                continue
            if not flag.startswith("-") or " #" in flag:
                raise InputError(
                    f"Line {number} of {path} is {flag!r}: write one --flag=value a line, and "
                    "comments on lines of their own."
                )
            expanded += _expand_flagfiles([flag], path.parent, (*within, path))
    return expanded


def _read(arguments: Sequence[str], defaults: dict[str, Any]) -> Config:
    """Parse with absl, on flags of our own: those that libraries define are none of ours."""
    values = flags.FlagValues()
    define: dict[type, Any] = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
        tuple: flags.DEFINE_list,
    }
    for field in dataclasses.fields(Config):
        default = defaults.get(field.name, field.default)
        if isinstance(field.default, tuple):
            default = [str(item) for item in default]
        define[type(field.default)](field.name, default, field.metadata["help"], flag_values=values)
    try:
        rest = values(["resnet-keras", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [field.name for field in dataclasses.fields(Config)]
        near = difflib.get_close_matches(error.flagname, names, n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        raise InputError(
            f"--{error.flagname} is no flag.{hint} See --helpshort for all flags."
        ) from None
    except flags.Error as error:
        raise InputError(f"{str(error).rstrip('.')}. See --helpshort for all flags.") from None
    if rest:
        raise InputError(f"Unexpected argument {rest[0]!r}: every setting is a --flag=value.")
    given: dict[str, Any] = {
        field.name: values[field.name].value for field in dataclasses.fields(Config)
    }
    for name in ("classes", "ensemble", "runs"):
        given[name] = tuple(entry.strip() for entry in given[name])
    for name, number, example in (
        ("lr_drops", int, "whole iterations, e.g. 32000,48000"),
        ("scales", int, "whole pixels, e.g. 224,256,384"),
        ("profile_steps", int, "the first and the last step, e.g. 20,25"),
        ("channel_mean", float, "three numbers, e.g. 0.485,0.456,0.406"),
        ("channel_std", float, "three numbers, e.g. 0.229,0.224,0.225"),
    ):
        try:
            given[name] = tuple(number(item) for item in given[name])
        except ValueError:
            raise InputError(f"--{name}={','.join(given[name])}: give {example}.") from None
    for field in dataclasses.fields(Config):
        _validate_value(field, given[field.name])
    return Config(**given)


def _validate_value(field: dataclasses.Field, value: Any) -> None:
    choices, low = field.metadata["choices"], field.metadata["low"]
    if choices and value not in choices:
        allowed = ", ".join(choice for choice in choices if choice)
        raise InputError(f"--{field.name}={value} is not one of: {allowed}.")
    if low is not None and not low <= value < float("inf"):
        raise InputError(f"--{field.name}={value} is out of range: give {low} or more.")


def _validate(config: Config) -> None:
    """Refuse what cannot work, before anything is loaded."""
    names = config.model.replace(" ", "").split(",") if config.mode == "summary" else [config.model]
    for name in names:
        try:
            complexity.stages(
                name, input_size=config.image_size or None, **config.architecture_arguments()
            )
        except ValueError as error:
            raise InputError(str(error)) from None
    if list(config.lr_drops) != sorted(set(config.lr_drops)) or min(config.lr_drops, default=1) < 1:
        raise InputError(
            f"--lr_drops={_listed(config.lr_drops)}: give rising iterations from 1 on."
        )
    if config.lr_drops and config.lr_schedule != "piecewise":
        raise InputError(
            f"--lr_drops={_listed(config.lr_drops)} has no place in --lr_schedule="
            f"{config.lr_schedule}: leave it out, or give --lr_schedule=piecewise."
        )
    if config.warmup_steps and config.warmup_until_error:
        raise InputError(
            f"--warmup_steps={config.warmup_steps} and --warmup_until_error="
            f"{config.warmup_until_error} are two warm-ups: give one."
        )
    if config.profile_steps and not (
        len(config.profile_steps) == 2 and 0 < config.profile_steps[0] <= config.profile_steps[1]
    ):
        raise InputError(
            f"--profile_steps={_listed(config.profile_steps)}: give the first and the last step, "
            "e.g. 20,25."
        )
    if config.momentum >= 1:
        raise InputError(f"--momentum={config.momentum} is out of range: give 0 <= momentum < 1.")
    needs = {"predict": ("saved_model", "images"), "prepare": ("output_dir", "output_name")}
    missing = [name for name in needs.get(config.mode, ()) if not getattr(config, name)]
    # Without either, prepare computes the statistics of a data set that is prepared already.
    if missing and (config.mode == "predict" or len(missing) == 1):
        raise InputError(f"--mode={config.mode} needs --{missing[0]}: {_help(missing[0])}.")
    if config.format == "ilsvrc" and not config.output:
        raise InputError("--format=ilsvrc needs --output: name the file that it goes to.")
    if config.grid and Path(config.grid).suffix.lower() not in PICTURE_SUFFIXES:
        raise InputError(
            f"--grid={config.grid}: give a name that ends in {', '.join(PICTURE_SUFFIXES)}."
        )
    for name, high in (("seed", 2**31 - 1), ("port", 65_535), ("warmup_until_error", 1)):
        if getattr(config, name) > high:
            raise InputError(f"--{name}={getattr(config, name)}: give {high} or less.")
    if config.data_service and not config.data_service.startswith("grpc://"):
        raise InputError(f"--data_service={config.data_service}: give grpc://HOST:PORT.")
    if config.mode in ("train", "evaluate", "responses", "export", "prepare"):
        try:
            recipe = config.make_recipe()
            pipelines.check(config.dataset, config.data_dir or None)
        except pipelines.DataError as error:
            raise InputError(str(error)) from None
        except OSError as error:
            raise InputError(
                f"--data_dir={config.data_dir} cannot be read: {error.strerror} ({error.filename})."
            ) from None
        if config.mode == "evaluate":
            _validate_views(config, recipe)


def _validate_views(config: Config, recipe: pipelines.Recipe) -> None:
    """Refuse views that a recipe or a network cannot give."""
    views, scales = config.views, config.evaluation_scales(recipe)
    if config.scales and views not in ("multi_scale", "multi_crop"):
        raise InputError(
            f"--scales={_listed(config.scales)} has no place in --views={views}: leave it out, or "
            "give --views=multi_scale or multi_crop."
        )
    if views == "multi_crop" and recipe.crop == "padded":
        raise InputError(
            f"--views=multi_crop has no room in the recipe {recipe.name}, whose crops are as large "
            "as its images: give another of --views."
        )
    if not scales:
        raise InputError(
            f"--views={views} has no scales in the recipe {recipe.name}: give --scales."
        )
    spec = architecture(config.model)
    whole = views in ("dense", "multi_scale") and isinstance(spec, ResNetSpec)
    low = spec.min_size if whole else recipe.image_size
    if min(scales) < low:
        raise InputError(
            f"--scales={_listed(scales)}: {config.model} needs sides of at least {low} pixels with "
            f"--views={views}."
        )


def check_places(config: Config) -> None:
    """Make the directories that a command will write, and find the files that it will read.

    Raises:
        InputError: where that cannot be done.
    """
    if config.mode == "predict":
        places.find_images(config.images)
        places.find_version(config.saved_model)
        for name in ("output", "grid"):
            if getattr(config, name):
                places.check_file(Path(getattr(config, name)), name)
    members = config.ensemble if config.mode == "evaluate" else ()
    for member in members:
        if not is_run(member) and not places.is_saved_model(member):
            raise InputError(
                f"--ensemble: {member} is neither a run's directory nor a SavedModel's: name one."
            )
    if config.mode in ("evaluate", "responses") and config.output_dir:
        places.check_writable(Path(config.output_dir), "output_dir")
    # A run that is resumed has its own weights.
    resumes = config.mode == "train" and (Path(config.run_dir) / CHECKPOINT).is_file()
    if config.mode in ("train", "evaluate", "export") and (config.restart or not resumes):
        places.check_weights(config.init_weights)
    if config.mode in ("train", "export"):
        places.check_writable(Path(config.export_dir), "export_dir")
    if config.mode == "train":
        places.check_writable(Path(config.run_dir), "run_dir")


def _listed(numbers: Sequence[object]) -> str:
    return ",".join(map(str, numbers))


def _help(name: str) -> str:
    return Config.__dataclass_fields__[name].metadata["help"]
