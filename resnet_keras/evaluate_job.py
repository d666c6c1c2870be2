"""--mode=evaluate and --mode=responses: what networks know, and how their layers answer."""

import dataclasses
import datetime
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tensorflow as tf

import pipelines
from pipelines.preprocessing import View, single_view
from resnet_keras import jobs
from resnet_keras.command_line import of_run, read_run, runs_compared
from resnet_keras.config import Config
from resnet_keras.errors import InputError
from resnet_keras.evaluation import answers, results, scores
from resnet_keras.evaluation.convolutional import fully_convolutional
from resnet_keras.evaluation.responses import make_measure_responses, response_layers
from resnet_keras.reporting import figures
from resnet_keras.reporting.tables import table
from resnet_keras.serving import places
from resnet_keras.serving.answering import load_export
from resnet_keras.training.runs import (
    EVALUATION,
    RESPONSES,
    TRUE_AVERAGE,
    environment,
    has_checkpoint,
)
from resnet_keras.training.strategy import Cluster, distribute, make_strategy

DONE = 0
FITTING = 20  # classes whose table fits a terminal
ENSEMBLE = Path("runs/ensemble")  # where an ensemble's result goes without --output_dir


@dataclasses.dataclass(frozen=True)
class Member:
    """A network of an ensemble, or the only one: where from, and how it answers.

    step: 0 for --init_weights, None for an export that does not say. exported: whether it is one.
    predict: a view of --views -> the function from its images to log-probabilities.
    """

    place: str
    step: int | None
    exported: bool
    recipe: pipelines.Recipe
    config: Config
    strategy: tf.distribute.Strategy
    predict: Callable[[str], scores.Predict]


def evaluate(config: Config) -> int:
    """Evaluate the newest checkpoint of a run, --init_weights, an export, or an ensemble."""
    source, _ = jobs.open_data(config)
    split = jobs.reported_split(source)
    folder = _folder(config, split)
    places.check_writable(folder, "output_dir")
    strategy = _strategy(config)
    # All of them before any is asked: what is wrong with the last must not cost the others' work.
    members = [
        _run(config, place, source, strategy)
        if has_checkpoint(place) or not config.ensemble
        else _export(config, place, source)
        for place in config.ensemble or (config.init_weights or config.run_dir,)
    ]
    left_out: list[str] = []

    def leave_out(name: str) -> None:
        if name not in left_out:
            left_out.append(name)
            jobs.tell_unreadable(name)

    began = datetime.datetime.now(datetime.UTC)
    with jobs.fitting(config):
        found = scores.mean(_score(member, source, split, leave_out) for member in members)
    seconds = (datetime.datetime.now(datetime.UTC) - began).total_seconds()
    metrics = {
        "dataset": config.dataset,
        "split": split,
        "views": views_name(config),
        "members": [_description(member) for member in members],
        **answers.count_errors(
            found.log_probabilities[found.readable], found.labels[found.readable]
        ),
        "unreadable": left_out,
        "began": began.isoformat(timespec="seconds"),
        "seconds": seconds,
        "environment": environment(),
    }
    counts = results.write(
        folder,
        found,
        metrics,
        class_names=source.class_names,
        names=getattr(source.splits[split], "paths", None),
    )
    figures.draw_confusion(folder / "confusion.png", counts, source.class_names)
    for member in members:
        step = f", step {member.step:,}" if member.step else ""
        print(f"{member.place}{step}")
    print(_errors(split, metrics))
    if len(source.class_names) <= FITTING:
        print(_classes(answers.by_class(counts, source.class_names)))
    print(f"\nWritten to  {folder}")
    return DONE


def responses(config: Config) -> int:
    """Measure the layer responses of runs on their test images, as Fig. 7 shows them."""
    runs = runs_compared(config)
    folder = Path(runs[0].run_dir, RESPONSES)
    if config.batchnorm_statistics == "true_average":
        folder /= TRUE_AVERAGE  # they are other responses, and Fig. 7 is drawn of the usual ones
    folder = Path(config.output_dir or folder)
    places.check_writable(folder, "output_dir")
    strategy = _strategy(config)
    opened = []
    for run in runs:
        source, recipe = jobs.open_data(run)
        with strategy.scope():
            model, step = jobs.restore(run, source, recipe)
        if not response_layers(model):
            raise InputError(
                f"{run.model} of {run.run_dir} has no 3x3 convolution with batch normalisation, "
                "whose responses could be measured: leave it out."
            )
        opened.append((run, source, recipe, model, step))
    rows, curves = [], {}
    for run, source, recipe, model, step in opened:
        split = jobs.reported_split(source)
        batches, count = view_batches(
            source, recipe, strategy, split=split, batch_size=run.evaluation_batch_size,
            max_bad_fraction=run.max_bad_fraction, on_bad=jobs.tell_unreadable,
        )  # fmt: skip
        with jobs.fitting(run):
            stds = make_measure_responses(model, strategy)(batches, count)
        layers = [layer.name for layer in response_layers(model)]
        descending = sorted(stds, reverse=True)
        for index, (name, std) in enumerate(zip(layers, stds, strict=True)):
            rows.append([run.run_dir, step, index + 1, name, std, descending[index]])
        curves[_line(run, runs)] = stds
        print(
            f"{run.run_dir}, step {step:,}: {len(stds)} layers, standard deviation "
            f"{min(stds):.3f} to {max(stds):.3f}, mean {sum(stds) / len(stds):.3f}"
        )
    header = ["run", "step", "layer", "name", "std", "sorted_std"]
    results.write_csv(folder / "responses.csv", header, rows)
    figures.draw_responses(folder / "responses.png", curves)
    print(f"Written to  {folder}")
    return DONE


def _folder(config: Config, split: str) -> Path:
    if config.output_dir:
        return Path(config.output_dir)
    run = ENSEMBLE if config.ensemble else Path(config.run_dir)
    if config.saved_model:
        folder = Path(config.ensemble[0]).resolve()
        run = Path("runs", f"{folder.parent.name}_export_{folder.name}")
    if config.init_weights:
        run = Path("runs", Path(config.init_weights).stem)
    name = f"{split}_{views_name(config)}"
    name += "_true_average" if config.batchnorm_statistics == "true_average" else ""
    name += "_best" if config.checkpoint == "best" else ""
    return run / EVALUATION / name


def views_name(config: Config) -> str:
    """Return the views in the name of a result."""
    return "+".join(config.views)


def _strategy(config: Config) -> tf.distribute.Strategy:
    # Of several machines, one is enough.
    name = "auto" if config.strategy == "multi_worker" else config.strategy
    return make_strategy(name, Cluster())


def _run(
    config: Config, place: str, source: pipelines.Source, strategy: tf.distribute.Strategy
) -> Member:
    """Restore the network of a run, which must be of the same data and classes."""
    member = config
    if config.ensemble:
        member, names = of_run(config, place)
        same = all(
            getattr(member, flag) == getattr(config, flag) for flag in ("dataset", "classes")
        )
        # The test set (0) can be asked of all that held the same images out.
        first = read_run(next(filter(has_checkpoint, config.ensemble))).validation_images
        same &= member.validation_images == first
        same &= config.validation_images in (0, member.validation_images)
        if not same or tuple(names) != source.class_names:
            raise InputError(
                f"{place} is a run on other images or classes than {config.dataset} with "
                f"{len(source.class_names)} classes: an ensemble answers about the same ones."
            )
    recipe = member.make_recipe()
    with strategy.scope():
        model, step = jobs.restore(member, source, recipe)

    def predict(view: str) -> scores.Predict:
        whole = view in scores.WHOLE
        logits = fully_convolutional(model) if whole else lambda x: model(x, training=False)
        return scores.log_softmax_of(logits)

    return Member(place, step, False, recipe, member, strategy, predict)


def _export(config: Config, place: str, source: pipelines.Source) -> Member:
    """Load an export, which takes images of its own size and normalises them itself."""
    for view in config.views:
        if view in scores.WHOLE:
            raise InputError(
                f"--views={view} takes images of any size, {place} takes one: give runs, or "
                "--views=center, ten_crop or multi_crop."
            )
    if config.batchnorm_statistics == "true_average":
        raise InputError(
            f"{place} is an export, whose statistics are fixed: give --batchnorm_statistics to its "
            "--mode=export."
        )
    export, names = load_export(places.find_version(place)), source.class_names
    if export.classes != len(names) or export.class_names not in (None, names):
        raise InputError(
            f"{place} knows other classes than {config.dataset} with its {len(names)}: give its "
            "own --dataset and --classes, or leave it out."
        )
    own = export.recipe or config.recipe
    antialias = config.antialias if export.antialias is None else str(export.antialias).lower()
    member = dataclasses.replace(config, image_size=export.size, recipe=own, antialias=antialias)
    recipe = member.make_recipe()
    if recipe.crop == "padded" and "ten_crop" in config.views:
        raise InputError(
            f"--views=ten_crop pads images with what the recipe {recipe.name} subtracts, which "
            f"{place} does by itself: give runs, or --views=center."
        )
    raw = dataclasses.replace(
        recipe, subtract="channel_mean", channel_mean=(0.0, 0.0, 0.0), divide_by_std=False
    )
    strategy = tf.distribute.get_strategy()
    return Member(place, export.step, True, raw, member, strategy, lambda view: export.predict)


def _score(
    member: Member, source: pipelines.Source, split: str, on_bad: Callable[[str], None]
) -> scores.Scores:
    """Return the answers of one network: the mean over its views, each over its passes."""
    config, recipe, strategy = member.config, member.recipe, member.strategy

    def passes(view: str) -> Iterable[scores.Scores]:
        score = scores.make_score(member.predict(view), strategy, len(source.class_names))
        functions = scores.view_functions(view, recipe, config.evaluation_scales(view, recipe))
        for number, function in enumerate(functions, start=1):
            batches, count = view_batches(
                source, recipe, strategy, split=split, view=function,
                batch_size=config.evaluation_batch_size,
                max_bad_fraction=config.max_bad_fraction, on_bad=on_bad,
            )  # fmt: skip
            several = f" {number} of {len(functions)}" if len(functions) > 1 else ""
            yield score(batches, count, source.sizes[split], f"evaluating {view}{several}")

    return scores.mean(scores.mean(passes(view)) for view in config.views)


def view_batches(
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    strategy: tf.distribute.Strategy,
    *,
    split: str,
    view: View = single_view,
    batch_size: int,
    max_bad_fraction: float,
    on_bad: Callable[[str], None],
) -> tuple[Iterable, int]:
    """Return the batches of a split as a view shows them, for ``strategy``, and their number.

    A batch has at most ``batch_size`` crops over all replicas, but at least one image a replica;
    where the view leaves images of different sizes, no more.
    """
    replicas, images = strategy.num_replicas_in_sync, source.sizes[split]
    single = pipelines.test_batches(source, recipe, split=split, batch_size=1, view=view)
    shape = single.element_spec["image"].shape[1:]
    alike = None not in shape
    crops = shape[0] if len(shape) == 4 else 1
    local = max(1, batch_size // (replicas * crops)) if alike else 1

    stream = pipelines.test_stream(
        source,
        recipe,
        split=split,
        # Images that differ in size cannot lie in one batch; each replica takes one of its own.
        batch_size=local * replicas if alike else 1,
        view=view,
        max_bad_fraction=max_bad_fraction,
        # The stream, which would otherwise open again after an error, counts one image a batch.
        guarded=not alike,
        distribute=lambda batches: distribute(
            strategy, lambda context: batches.rebatch(local) if alike else batches
        ),
        log=on_bad,
    )
    return stream, math.ceil(images / (local * replicas))


def _description(member: Member) -> dict[str, Any]:
    config, recipe = member.config, member.recipe
    step = {} if member.step is None else {"step": member.step}
    run = {"exported": True} if member.exported else {
        "model": config.model,
        "checkpoint": config.checkpoint,
        "batchnorm_statistics": config.batchnorm_statistics,
        "precision": config.precision,
    }  # fmt: skip
    return {
        "place": member.place,
        **step,
        **run,
        "recipe": recipe.name,
        "image_size": recipe.image_size,
        "scales": {view: list(config.evaluation_scales(view, recipe)) for view in config.views},
    }


def _errors(split: str, metrics: dict[str, Any]) -> str:
    rows = [
        [
            f"top-{k}",
            f"{100 * metrics[f'top{k}_error']:.2f} %",
            f"({metrics[wrong]:,} of {metrics['images']:,} images wrong)",
            _interval(metrics[f"top{k}_interval"]),
        ]
        for k, wrong in ((1, "wrong"), (5, "wrong_top5"))
        if wrong in metrics
    ]
    return table([f"{split}, {metrics['views']}", "error", "", "95 % interval"], rows)


def _classes(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["class"],
            f"{row['images']:,}",
            f"{row['wrong']:,}",
            *(["", ""] if row["error"] is None else [
                f"{100 * row['error']:.2f} %", _interval(row["interval"]),
            ]),
            row["rival"],
        ]
        for row in rows
    ]  # fmt: skip
    header = ["class", "images", "wrong", "error", "95 % interval", "taken for"]
    return "\n" + table(header, cells)


def _interval(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %"


def _line(run: Config, runs: list[Config]) -> str:
    """Return the name of a run in a figure: its network's, unless that is not enough."""
    alone = sum(run.model == other.model for other in runs) == 1
    return run.model if alone else f"{run.model} ({Path(run.run_dir).name})"
