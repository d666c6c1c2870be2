"""Flags -> one frozen Config: one field = one flag = one line of help.

Standard library only, so that a wrong flag is answered before TensorFlow is loaded.
"""

import dataclasses
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pipelines
from resnet_keras.models.architectures import (
    INITIALIZERS,
    SHORTCUTS,
    STEM_POOLS,
    STRIDES_ON,
    architecture,
)
from resnet_keras.reporting.experiments import EXPERIMENTS

MODES = (
    *("train", "evaluate", "responses", "export", "predict", "summary", "prepare", "data_worker"),
    *("reproduce", "report"),
)
PRECISIONS = ("float32", "bfloat16", "float16", "auto")
FORMATS = ("jsonl", "ilsvrc", "readme")
PICTURE_SUFFIXES = (".png", ".pdf", ".svg")
OPTIMIZERS = ("momentum", "muon")
LR_SCHEDULES = ("piecewise", "plateau", "cosine")
VIEWS = ("center", "ten_crop", "dense", "multi_scale", "multi_crop")


def default_export_dir(run_dir: str) -> str:
    """Return where a run is exported to unless --export_dir says otherwise."""
    return f"saved_models/{Path(run_dir).name}"


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
        "print a network's summary, prepare a data set as TFRecord files, serve as data worker, "
        "reproduce a table or figure of the papers, or report what runs measured beside what was "
        "published",
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
    init_from: str = _flag(
        "", "directory of a run from whose newest checkpoint training starts: of the same network, "
        "or of a shallower one, to which identity layers are added; deeper VGG nets take vgg_a's "
        "first four convolutions and its dense layers"
    )  # fmt: skip
    # Data
    dataset: str = _flag(
        "imagenet2012", ", ".join(pipelines.DATASETS) + ", or a name of TFDS: NAME or NAME/CONFIG"
    )
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
    alternate_flips: bool = _flag(
        False, "flip each image in every other epoch in place of at random; sets in memory"
    )
    small_image_size: int = _flag(
        0, "pixels a side of the window that the first --small_image_steps see of each batch: more "
        "images in the same time; residual and plain networks", low=0,
    )  # fmt: skip
    small_image_steps: int = _flag(0, "iterations on small windows", low=0)
    max_bad_fraction: float = _flag(
        0.001, "share of unreadable images that is borne, and never fewer than 10 images", low=0
    )
    # Optimisation; defaults from Sec. 3.4
    batch_size: int = _flag(256, "images a step, over all devices", low=1)
    train_steps: int = _flag(600_000, "iterations", low=1)
    learning_rate: float = _flag(0.1, "learning rate at the start", low=0)
    lr_schedule: str = _flag(
        "", "plateau divides the rate by 10 when the validation error stops improving (Sec. 3.4), "
        "piecewise at --lr_drops, and never without them, cosine lowers it to 0 at the last step; "
        "'' is plateau, or piecewise with --lr_drops", choices=("", *LR_SCHEDULES),
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
    optimizer: str = _flag(
        "momentum", "momentum is SGD with it, the paper's; muon makes the momentum of each "
        "convolution but the first orthogonal, and takes --muon_learning_rate there: networks with "
        "batch normalisation", choices=OPTIMIZERS,
    )  # fmt: skip
    muon_learning_rate: float = _flag(
        0.03, "rate of --optimizer=muon at the start; it rises and falls as --learning_rate does",
        low=0,
    )  # fmt: skip
    momentum: float = _flag(0.9, "momentum, Caffe's form: v = m v + lr g", low=0)
    weight_decay: float = _flag(
        1e-4, "L2 coefficient added to the gradient (coupled); not of what muon moves", low=0
    )
    decay: str = _flag("kernels", "variables that decay", choices=("kernels", "all"))
    label_smoothing: float = _flag(
        0.0, "share of each label that is spread over all classes; the log tells the loss without "
        "it", low=0,
    )  # fmt: skip
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
        "memory, a fifth to a third more time; residual and plain networks",
    )  # fmt: skip
    seed: int = _flag(0, "seed of weights, order, augmentation and dropout", low=0)
    # Run
    strategy: str = _flag(
        "auto", "devices: auto is multi_worker where TF_CONFIG names several machines, mirrored "
        "on several GPUs, else one device",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
    )  # fmt: skip
    run_dir: str = _flag(
        "", "checkpoints, log and config; '' is runs/MODEL_DATASET; with --mode=reproduce the "
        "folder of its runs, '' is runs"
    )  # fmt: skip
    restart: bool = _flag(False, "start the run anew, deleting its files")
    resume: str = _flag(
        "exact", "approximate is for another number of devices or machines than before, and for "
        "runs fed by --data_service, which keeps neither order nor position",
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
    views: tuple[str, ...] = _flag(
        ("center",), "with --mode=evaluate, what is averaged: the centre crop; ten crops; dense, "
        "the whole image and its mirror image; multi_scale, dense at --scales; multi_crop, a grid "
        "of 50 crops at each of three --scales; or several of them",
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
        (),
        "with --mode=responses: run directories to compare; '' is --run_dir alone; with "
        "report: patterns of runs, '' is runs/*",
    )
    # Reproduction
    experiment: str = _flag(
        "", "with --mode=reproduce: the table or figure", choices=("", *EXPERIMENTS)
    )
    train_flags: str = _flag(
        "", "with --mode=reproduce: flags for each of its trainings, in quotes, e.g. "
        "'--precision=bfloat16 --strategy=mirrored'"
    )  # fmt: skip
    dry_run: bool = _flag(
        False, "with --mode=reproduce: tell the commands and what they cost, and do nothing"
    )
    # Data sets and data workers
    output_dir: str = _flag(
        "", "with --mode=prepare: where the data set goes, a --data_dir; with evaluate and "
        "responses: where the result goes, '' is in the run's directory; with report: '' is report"
    )  # fmt: skip
    output_name: str = _flag("", "with --mode=prepare: its name, from then on a --dataset")
    data_service: str = _flag("", "grpc://HOST:PORT of a dispatcher whose workers read the data")
    port: int = _flag(0, "with --mode=data_worker: port to serve on; 0 is any free one", low=0)
    host: str = _flag("localhost", "with --mode=data_worker: name by which trainers reach it")
    # Result
    export: bool = _flag(True, "export at the end of the training")
    export_dir: str = _flag("", "SavedModel versions; '' is saved_models/ and the run's name")
    fold: bool = _flag(True, "multiply batch norm into the convolutions of the export")
    export_precision: str = _flag(
        "", "precision inside the export, float32 outside: bfloat16 for servers whose hardware has "
        "it; '' is float32", choices=("", "float32", "bfloat16"),
    )  # fmt: skip
    saved_model: str = _flag(
        "", "with --mode=predict or evaluate: the export, with or without its version; it is "
        "evaluated on the data set of its run"
    )  # fmt: skip
    images: str = _flag("", "with --mode=predict: image files, a glob pattern in quotes")
    output: str = _flag("", "with --mode=predict: file for the answers, in place of the table")
    format: str = _flag(
        "jsonl", "of --output: a JSON object a line, or ilsvrc, the test server's file: five class "
        "numbers a line, by file name; with --mode=report: readme, the README's table of the "
        "committed runs, in place of pages", choices=FORMATS,
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
        several, dataset = self.mode == "reproduce", self.dataset.replace("/", "_")
        run_dir = self.run_dir or ("runs" if several else f"runs/{self.model}_{dataset}")
        places = {
            "run_dir": run_dir,
            "export_dir": self.export_dir or default_export_dir(run_dir),
            **{name: getattr(self, name) for name in _EXPANDED},
        }
        schedule = "piecewise" if self.lr_drops else "plateau"
        return dataclasses.replace(
            self,
            **{name: os.path.expanduser(place) for name, place in places.items()},
            ensemble=tuple(map(os.path.expanduser, self.ensemble)),
            runs=tuple(map(os.path.expanduser, self.runs)),
            evaluation_batch_size=self.evaluation_batch_size or self.batch_size,
            lr_schedule=self.lr_schedule or schedule,
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
            # Flips are drawn in training only; what else a run's flags are read for has none.
            alternate_flips=self.alternate_flips and self.mode == "train",
        )

    def evaluation_scales(self, view: str, recipe: pipelines.Recipe) -> tuple[int, ...]:
        """Return the shorter sides at which a view sees an image; () where the recipe has none."""
        if view == "multi_scale":
            return self.scales or recipe.test_scales
        if view == "multi_crop":
            return self.scales or recipe.crop_scales
        return (recipe.test_shorter_side,)


_EXPANDED = tuple(
    "init_weights init_from output_dir saved_model images output ilsvrc_ids grid".split()
)

# What may differ when a run is resumed: none of these changes what a step computes.
_IMMATERIAL = (
    "mode data_dir train_steps strategy run_dir restart steps_per_call log_every checkpoint_every "
    "keep_checkpoints evaluate_every evaluation_batch_size tensorboard profile_steps checkpoint "
    "recompute max_bad_fraction export_dir fold export_precision saved_model images output_dir "
    "output_name data_service resume port host output format ilsvrc_ids grid views scales ensemble "
    "batchnorm_statistics runs experiment train_flags dry_run export"
).split()


def resumable(config: Config) -> set[str]:
    """Return the flags that may differ when the run is resumed."""
    # It has weights of its own: where the run that it started from lies now is all one.
    return immaterial(config) | {"init_from"}


def immaterial(config: Config) -> set[str]:
    """Return the flags that do not decide what a run's steps compute."""
    free = set(_IMMATERIAL)
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
    "experiment": "Reproduction",
    "output_dir": "Data sets and data workers",
    "export": "Result",
}
_USAGE = """\
resnet_keras: Deep Residual Learning for Image Recognition, reproduced.

  python -m resnet_keras.main --flagfile=configs/quickstart.flags
  python -m resnet_keras.main --flagfile=configs/r152.flags --data_dir=DIR
  python -m resnet_keras.main --mode=summary --model=vgg_e,plain34,resnet34,resnet152
  python -m resnet_keras.main --mode=reproduce --experiment=table6 --dry_run
  python -m resnet_keras.main --mode=report --runs='runs/*'
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
