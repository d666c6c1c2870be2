"""Refuse what cannot work, in one sentence, before anything is loaded or written."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pipelines
from resnet_keras.config import PICTURE_SUFFIXES, VIEWS, Config
from resnet_keras.errors import InputError
from resnet_keras.models import complexity
from resnet_keras.models.architectures import ResNetSpec, VGGSpec, architecture
from resnet_keras.reporting.experiments import EXPERIMENTS
from resnet_keras.serving import places
from resnet_keras.training.runs import BEST, CHECKPOINT, has_checkpoint

_OF_NETWORKS = ("train", "evaluate", "responses", "export")  # modes that read runs or make them
_OF_DATA = (*_OF_NETWORKS, "prepare")  # modes that read images
# What a test of a run is asked, and where its result goes.
RESULT_FLAGS = tuple(
    "views scales checkpoint batchnorm_statistics output_dir ensemble runs".split()
)
STARTS = ("init_from", "init_weights")  # weights that training starts from


def validate_value(field: dataclasses.Field, value: Any) -> None:
    """Refuse a value of one flag that its field does not allow (InputError)."""
    choices, low = field.metadata["choices"], field.metadata["low"]
    for entry in value if isinstance(value, tuple) else (value,):
        if choices and entry not in choices:
            allowed = ", ".join(choice for choice in choices if choice)
            raise InputError(f"--{field.name}={entry} is not one of: {allowed}.")
    if low is not None and not low <= value < float("inf"):
        raise InputError(f"--{field.name}={value} is out of range: give {low} or more.")


def validate(config: Config) -> None:
    """Refuse what cannot work, before anything is loaded; ``check_data`` sees to the data."""
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
    for name in ("momentum", "label_smoothing"):
        value = getattr(config, name)
        if value >= 1:
            raise InputError(f"--{name}={value} is out of range: give 0 <= {name} < 1.")
    needs = {"predict": ("saved_model", "images"), "prepare": ("output_dir", "output_name")}
    missing = [name for name in needs.get(config.mode, ()) if not getattr(config, name)]
    # Without either, prepare computes the statistics of a data set that is prepared already.
    if missing and (config.mode == "predict" or len(missing) == 1):
        raise InputError(f"--mode={config.mode} needs --{missing[0]}: {_help(missing[0])}.")
    if config.mode == "prepare":
        _validate_preparation(config)
    if config.format == "readme" and (config.mode != "report" or config.runs or config.output_dir):
        raise InputError(
            "--format=readme is for --mode=report alone, without --runs and --output_dir: it puts "
            "the runs of saved_models/ into the README."
        )
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
    if config.init_from and config.mode != "train":
        raise InputError(
            f"--init_from={config.init_from} is what training starts from: leave it out with "
            f"--mode={config.mode}."
        )
    if config.init_from and config.init_weights:
        raise InputError(
            f"--init_from={config.init_from} and --init_weights={config.init_weights} are two "
            "starts: give one."
        )
    if config.ensemble and config.mode != "evaluate":
        raise InputError(
            f"--ensemble={_listed(config.ensemble)} has no place in --mode={config.mode}: leave it "
            "out, or give --mode=evaluate."
        )
    if config.mode in _OF_NETWORKS and config.batchnorm_statistics == "true_average":
        spec = architecture(config.model)
        if isinstance(spec, VGGSpec) and not spec.batch_norm:
            raise InputError(
                f"{config.model} has no batch normalisation: leave --batchnorm_statistics out."
            )
    if config.mode in _OF_DATA:
        try:
            recipe = config.make_recipe()
        except pipelines.DataError as error:
            raise InputError(str(error)) from None
        if config.mode == "evaluate":
            _validate_views(config, recipe)
        if config.mode == "train":
            _validate_small_images(config, recipe)
            _validate_optimizer(config)
            _validate_schedule(config)


def check_data(config: Config) -> None:
    """Refuse data that are not there, where a command needs them, before anything is loaded."""
    if config.mode not in _OF_DATA:
        return
    try:
        pipelines.check(config.dataset, config.data_dir or None)
    except pipelines.DataError as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(
            f"--data_dir={config.data_dir} cannot be read: {error.strerror} ({error.filename})."
        ) from None


def _validate_preparation(config: Config) -> None:
    if config.validation_images:
        raise InputError(
            f"--validation_images={config.validation_images} has no place in --mode=prepare: hold "
            "them out in training."
        )
    if config.classes and not config.output_dir:
        raise InputError(
            f"--classes={_listed(config.classes)} has no place in --mode=prepare without "
            "--output_dir: the statistics beside a data set are those of all its classes."
        )


def _validate_small_images(config: Config, recipe: pipelines.Recipe) -> None:
    size, steps = config.small_image_size, config.small_image_steps
    if bool(size) != bool(steps):
        raise InputError(
            f"--small_image_size={size} and --small_image_steps={steps} go together: give both, "
            "or none."
        )
    if not size:
        return
    spec = architecture(config.model)
    if not isinstance(spec, ResNetSpec) or config.recompute:
        other = "--recompute" if config.recompute else f"--model={config.model}"
        raise InputError(f"--small_image_size={size} has no place beside {other}: leave one out.")
    if not spec.min_size <= size < recipe.image_size:
        raise InputError(
            f"--small_image_size={size}: give at least {spec.min_size} and less than the "
            f"{recipe.image_size} pixels of the images."
        )


def _validate_schedule(config: Config) -> None:
    """Refuse the numbers of a schedule or warm-up that is not the run's."""
    idle = ["warmup_learning_rate"] if not config.warmup_until_error else []
    if config.lr_schedule != "plateau":
        idle += ["plateau_patience", "plateau_threshold", "plateau_drops"]
    for name in idle:
        value = getattr(config, name)
        needed = "--lr_schedule=plateau" if name.startswith("plateau") else "--warmup_until_error"
        if value != getattr(Config, name):
            raise InputError(
                f"--{name}={value} has no place without {needed}: leave it out, or give that."
            )


def _validate_optimizer(config: Config) -> None:
    if config.optimizer != "muon":
        if config.muon_learning_rate != Config.muon_learning_rate:
            raise InputError(
                f"--muon_learning_rate={config.muon_learning_rate} has no place beside "
                f"--optimizer={config.optimizer}: leave it out, or give --optimizer=muon."
            )
        return
    spec = architecture(config.model)
    if isinstance(spec, VGGSpec) and not spec.batch_norm:
        raise InputError(
            f"--optimizer=muon has no place beside --model={config.model}, which has no batch "
            "normalisation: leave it out."
        )
    if not config.learning_rate:
        raise InputError(
            "--learning_rate=0.0 is no rate beside --optimizer=muon, whose own rate follows it: "
            "give more than 0."
        )


def _validate_views(config: Config, recipe: pipelines.Recipe) -> None:
    """Refuse views that a recipe or a network cannot give."""
    if not config.views or len(set(config.views)) < len(config.views):
        raise InputError(
            f"--views={_listed(config.views)}: give one or several, each once, of: "
            f"{', '.join(VIEWS)}."
        )
    if config.scales and not {"multi_scale", "multi_crop"} & set(config.views):
        raise InputError(
            f"--scales={_listed(config.scales)} has no place in --views={_listed(config.views)}: "
            "leave it out, or give --views=multi_scale or multi_crop."
        )
    for view in config.views:
        _validate_view(view, config, recipe)


def _validate_view(view: str, config: Config, recipe: pipelines.Recipe) -> None:
    scales = config.evaluation_scales(view, recipe)
    if view == "multi_crop" and recipe.crop == "padded":
        raise InputError(
            f"--views=multi_crop has no room in the recipe {recipe.name}, whose crops are as large "
            "as its images: give another of --views."
        )
    if not scales:
        raise InputError(
            f"--views={view} has no scales in the recipe {recipe.name}: give --scales."
        )
    spec = architecture(config.model)
    whole = view in ("dense", "multi_scale") and isinstance(spec, ResNetSpec)
    low = spec.min_size if whole else recipe.image_size
    if min(scales) < low:
        raise InputError(
            f"--scales={_listed(scales)}: {config.model} needs sides of at least {low} pixels with "
            f"--views={view}."
        )


def check_weights_alone(config: Config) -> None:
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


def check_checkpoint(config: Config, run_dir: str) -> None:
    """Refuse a run without the checkpoint that a command needs, before any data are opened."""
    folder = Path(run_dir, BEST if config.checkpoint == "best" else "")
    if (folder / CHECKPOINT).is_file():
        return
    remedy = "name the --run_dir of a run that has one, or train one with --mode=train"
    if places.is_saved_model(run_dir):
        remedy = f"ask its export, --saved_model={run_dir}, or {remedy}"
    raise InputError(f"{folder} holds no checkpoint: {remedy}.")


def check_saved_model_alone(config: Config) -> None:
    """Refuse --saved_model beside what names other networks."""
    other = {
        "run_dir": config.run_dir,
        "ensemble": _listed(config.ensemble),
        "init_weights": config.init_weights,
        "mode": config.mode if config.mode != "evaluate" else "",
        "checkpoint": config.checkpoint if config.checkpoint != "latest" else "",
    }
    for name, value in other.items():
        if config.saved_model and value:
            raise InputError(
                f"--saved_model={config.saved_model} has no place beside --{name}={value}: give "
                "one of the two."
            )


# All that --mode=reproduce takes: the rest is its configurations' or --train_flags'.
_OF_REPRODUCTION = ("mode", "experiment", "train_flags", "dry_run", "run_dir", "data_dir")
# What its runs' names and order stand for.
_FIXED = ("mode", "run_dir", "export_dir", "restart", "seed", *STARTS, *RESULT_FLAGS)


def check_reproduction(config: Config) -> None:
    """Refuse --mode=reproduce without what to reproduce, or with flags that it would not heed."""
    if not config.experiment:
        raise InputError(f"--mode=reproduce needs --experiment: one of {', '.join(EXPERIMENTS)}.")
    try:
        shlex.split(config.train_flags)
    except ValueError as error:
        raise InputError(
            f"--train_flags={config.train_flags}: {str(error).lower()}; write "
            "--train_flags='--flag=value --flag=value'."
        ) from None
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _OF_REPRODUCTION and value != field.default:
            raise InputError(
                f"--{field.name}={value} has no place in --mode=reproduce: put it into "
                "--train_flags, which all of its trainings take."
            )


def check_train_flags(arguments: Sequence[str]) -> None:
    """Refuse --train_flags, without files of flags, that would make other runs of its runs."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and {name, name.removeprefix("no")} & set(_FIXED):
            raise InputError(
                f"--train_flags: {argument} has no place there, because each training's "
                f"--{name} is the experiment's own: leave it out, or run that training by hand."
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
        if not has_checkpoint(member) and not places.is_saved_model(member):
            raise InputError(
                f"--ensemble: {member} is neither the directory of a run with checkpoints nor a "
                "SavedModel's: name one."
            )
    if config.mode in ("evaluate", "responses", "report") and config.output_dir:
        places.check_writable(Path(config.output_dir), "output_dir")
    # A run that is resumed has its own weights.
    resumes = config.mode == "train" and (Path(config.run_dir) / CHECKPOINT).is_file()
    if config.mode in ("train", "evaluate", "export") and (config.restart or not resumes):
        places.check_weights(config.init_weights)
        _check_start(config)
    if config.mode == "export" or (config.mode == "train" and config.export):
        places.check_writable(Path(config.export_dir), "export_dir")
    if config.mode == "train":
        places.check_writable(Path(config.run_dir), "run_dir")


def _check_start(config: Config) -> None:
    """Refuse a start that --restart would delete, or an --init_from without a checkpoint."""
    run = Path(config.run_dir).resolve()
    for flag in STARTS:
        start = Path(getattr(config, flag)).resolve()
        if getattr(config, flag) and config.mode == "train" and run in (start, *start.parents):
            raise InputError(
                f"--{flag}={getattr(config, flag)} is in the run itself, which --restart would "
                "delete: give another --run_dir."
            )
    if config.init_from and not has_checkpoint(config.init_from):
        raise InputError(
            f"--init_from={config.init_from} is no run with a checkpoint: name the directory of "
            "one, or train it first."
        )


def _listed(numbers: Sequence[object]) -> str:
    return ",".join(map(str, numbers))


def _help(name: str) -> str:
    return Config.__dataclass_fields__[name].metadata["help"]
