"""A command line -> one Config: flags, files of flags, and the settings of a run that it names.

Standard library and absl only, so that a wrong flag is answered before TensorFlow is loaded.
"""

import dataclasses
import difflib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from resnet_keras.config import Config, default_export_dir
from resnet_keras.errors import InputError
from resnet_keras.serving import places
from resnet_keras.training.runs import CONFIG, has_checkpoint
from resnet_keras.validation import (
    RESULT_FLAGS,
    STARTS,
    check_checkpoint,
    check_data,
    check_reproduction,
    check_saved_model_alone,
    check_train_flags,
    check_weights_alone,
    validate,
    validate_value,
)

# What a command that evaluates several runs asks of all of them.
_ASKED = (
    "mode strategy evaluation_batch_size checkpoint max_bad_fraction views scales "
    "batchnorm_statistics output_dir"
).split()
# What a run or an export is: nothing else can be asked of it.
_NETWORK = ("model", "shortcut", "stride_on", "stem_pool", "classes")
_PIXELS = ("image_size", "recipe", "antialias")
# Of an export, with what it does to images and the images it was tested on.
_EXPORT = (*_NETWORK, *_PIXELS, "dataset", "validation_images", "seed")
# What its training was asked about tests is not asked of it for ever, and the weights that it
# began with are not its own.
_NOT_OF_A_RUN = {
    name: list(default) if isinstance(default, tuple) else default
    for name in (*RESULT_FLAGS, *STARTS)
    for default in [getattr(Config(), name)]
}


def parse(arguments: Sequence[str]) -> Config:
    """Return the Config of a command line (without the program's name).

    With ``--mode=evaluate``, ``responses`` or ``export``, flags that are not given come from the
    run's own ``config.json``, so that ``--run_dir`` alone names a run; of several runs, from the
    first one's, but for the data of ``responses``. ``--init_weights`` needs no run;
    ``--saved_model``, and an ensemble of exports alone, are evaluated on what the manifest, the
    first one's, says that they were made for.

    Raises:
        InputError: for an unknown flag, a bad value, a positional argument or an impossible
            combination.
    """
    arguments = _expand_flagfiles(arguments, Path(), ())
    config = _read(arguments, {})
    if config.mode == "reproduce":
        check_reproduction(config)
        check_train_flags(_expand_flagfiles(shlex.split(config.train_flags), Path(), ()))
    if config.mode in ("evaluate", "responses", "export"):
        check_weights_alone(config)
        check_saved_model_alone(config)
        if config.saved_model:
            return _of_saved_model(arguments, config.resolved().saved_model)
        run = "" if config.init_weights else _first_run(config.resolved())
        if run:
            saved = _settings_of_run(run, arguments)
            check_checkpoint(config, run)
            if config.mode == "responses":  # where each run's own data lie is that run's to say
                held_out = [read_run(place).validation_images for place in config.runs or (run,)]
                saved |= {"data_dir": "", "validation_images": max(held_out)}
            config = _read(arguments, saved)
        elif config.ensemble and places.is_saved_model(first := config.resolved().ensemble[0]):
            config = _read(arguments, _settings_of_export(places.find_version(first)))
    return _checked(config)


def _checked(config: Config) -> Config:
    config = config.resolved()
    validate(config)
    for opened in runs_compared(config) if config.mode == "responses" else [config]:
        check_data(opened)
    return config


def runs_compared(config: Config) -> list[Config]:
    """Return the Configs of the runs that ``--mode=responses`` measures, each on its own data.

    Raises:
        InputError: as ``of_run``.
    """
    places_of_runs = config.runs or (config.run_dir,)
    runs = [of_run(config, place)[0] for place in places_of_runs]
    for place in places_of_runs:
        check_checkpoint(config, place)
    return [
        dataclasses.replace(
            run,
            data_dir=config.data_dir or run.data_dir,
            # Each on what it held out, unless the test set is asked for.
            validation_images=run.validation_images if config.validation_images else 0,
        )
        for run in runs
    ]


def _of_saved_model(arguments: Sequence[str], saved_model: str) -> Config:
    """Return the Config of evaluating an export: of an ensemble with it as its only member.

    Raises:
        InputError: where there is no export, or it is another one than the flags say.
    """
    folder = places.find_version(saved_model)
    saved = _settings_of_export(folder)
    config = _read(arguments, saved)
    fixed = {name: saved[name] for name in (*_NETWORK, *_PIXELS) if name in saved}
    _refuse_others(f"{folder} holds an export", fixed, config)
    # Its version's own folder: the one above may hold a run's texts, too.
    return _checked(dataclasses.replace(config, ensemble=(str(folder),)))


def _settings_of_export(folder: Path) -> dict[str, Any]:
    """Return the flags that an export's manifest tells of what it is and was tested on."""
    told = places.read_settings(folder)
    # As they lie in a file; of others' exports nothing is told, or something else.
    kinds = {name: type(getattr(Config(), name)) for name in _EXPORT}
    kinds = {name: list if kind is tuple else kind for name, kind in kinds.items()}
    return {name: told[name] for name, kind in kinds.items() if type(told.get(name)) is kind}


def read(arguments: Sequence[str]) -> Config:
    """Return the Config of a training, whose data need not be there: for what it would do.

    Raises:
        InputError: as ``parse``, but for data that are not there.
    """
    config = _read(_expand_flagfiles(arguments, Path(), ()), {}).resolved()
    validate(config)
    return config


def of_run(config: Config, run_dir: str) -> tuple[Config, list[str]]:
    """Return the Config of another run as ``config`` asks to evaluate it, and its class names.

    Its data need not be there: the caller may have others.

    Raises:
        InputError: where the directory holds no run, or it cannot be evaluated so.
    """
    saved = _saved(run_dir)
    asked = {name: getattr(config, name) for name in _ASKED}
    member = dataclasses.replace(_read([], saved["flags"]), run_dir=run_dir, **asked)
    validate(member)
    return member, saved["data"].get("class_names", [])


def read_run(run_dir: str) -> Config:
    """Return the Config that a run was trained with.

    Raises:
        InputError: where the directory holds no run.
    """
    return _read([], _saved(run_dir)["flags"])


def _first_run(config: Config) -> str:
    """Return the run whose settings a command takes over; "" for an ensemble without one."""
    if config.mode == "evaluate" and config.ensemble:
        return next(filter(has_checkpoint, config.ensemble), "")
    if config.mode == "responses" and config.runs:
        return config.runs[0]
    return config.run_dir


def _saved(run_dir: str) -> dict[str, Any]:
    file = Path(run_dir, CONFIG)
    try:
        saved = json.loads(file.read_text())
        flags_of_run = dict(saved["flags"]) | _NOT_OF_A_RUN
        data = dict(saved.get("data", {}))
    except OSError:
        raise InputError(
            f"{run_dir} holds no run: name a run's directory, or train one with --mode=train."
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        raise InputError(f"{file} is no run's config: name another --run_dir.") from None
    for field in dataclasses.fields(Config):
        # A run that was begun before there was a flag had its default; a network all of them have.
        told = field.name in flags_of_run or field.name == "model"
        value = flags_of_run.get(field.name)
        if told and not _fits(field.default, value):
            raise InputError(
                f"{file} has no readable {field.name!r} (it is {json.dumps(value)[:80]}): restore "
                "the file, or name another --run_dir."
            )
    return {"flags": flags_of_run, "data": data}


def _fits(default: Any, value: Any) -> bool:
    """Tell whether a value from a file is of a flag's kind."""
    if isinstance(default, tuple):
        return isinstance(value, list) and all(
            isinstance(item, str | int | float) for item in value
        )
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def _settings_of_run(run_dir: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the flags of a run's config.json; those given may not contradict its network."""
    saved = _saved(run_dir)["flags"]
    # That of a run which was since renamed or copied is another run's now.
    if saved.get("export_dir") == default_export_dir(saved.get("run_dir", "")):
        saved["export_dir"] = ""
    asked = _read(arguments, saved)
    network = {name: saved[name] for name in _NETWORK if name in saved}
    _refuse_others(f"{run_dir} holds a run", network, asked)
    return saved


def _refuse_others(what: str, saved: dict[str, Any], asked: Config) -> None:
    for name, value in saved.items():
        old, new = (
            ",".join(each) if isinstance(each, list | tuple) else each
            for each in (value, getattr(asked, name))
        )
        if new != old:
            raise InputError(f"{what} with --{name}={old} (now {new}): leave that flag out.")


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
    for name in ("classes", "ensemble", "runs", "views"):
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
        validate_value(field, given[field.name])
    return Config(**given)
