"""What each --mode but train and predict does, from a Config to an exit code."""

import contextlib
import dataclasses
import hashlib
import itertools
import math
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import pipelines
from pipelines import service
from pipelines.prepare import prepare as write_prepared
from pipelines.samples import encoded_samples
from resnet_keras.command_line import read_run
from resnet_keras.config import Config, immaterial
from resnet_keras.errors import InputError
from resnet_keras.evaluation.batchnorm import set_true_averages
from resnet_keras.models import build_model, complexity, load_weights
from resnet_keras.models.architectures import Spec, architecture
from resnet_keras.records import LOG, read_records
from resnet_keras.reporting.tables import table
from resnet_keras.serving import export as serving
from resnet_keras.serving import manifest
from resnet_keras.serving.places import check_writable
from resnet_keras.training.checkpoints import Checkpoints
from resnet_keras.training.runs import BEST, TRUE_AVERAGE, environment, has_checkpoint, read_config
from resnet_keras.training.strategy import Cluster, choose_precision, distribute

DONE = 0
SAMPLES = 28  # images on which an export must answer as the network


def export(config: Config) -> int:
    """Export the newest checkpoint of a run."""
    source, recipe = open_data(config)
    exported, step = export_newest(config, source, recipe)
    if step:
        print(f"{config.run_dir}, step {step:,}")
    print(where(exported))
    return DONE


def prepare(config: Config) -> int:
    """Write a data set as sharded TFRecord files with its statistics; name what is unreadable."""
    source, recipe = open_data(config)
    if not config.output_dir:
        return _add_statistics(source, recipe)
    folder, bad = write_prepared(
        source,
        Path(config.output_dir),
        name=config.output_name,
        recipe=recipe,
        progress=sys.stderr.isatty(),
        log=tell_unreadable,
    )
    print(f"Prepared  {folder}, without {len(bad):,} unreadable images")
    print(
        f"Use it    --dataset={config.output_name} --data_dir={config.output_dir} "
        f"--recipe={recipe.name}"
    )
    return DONE


def _add_statistics(source: pipelines.Source, recipe: pipelines.Recipe) -> int:
    """Write the image statistics beside a data set that is prepared already."""
    if source.place is None:
        raise InputError(f"{source.name} has no folder for statistics: they are computed at need.")
    found = pipelines.compute_statistics(source, recipe, progress=sys.stderr.isatty())
    try:
        print(f"Written  {pipelines.statistics.save(found, source.place)}")
    except OSError as error:
        raise InputError(
            f"{source.place} cannot be written ({error.strerror}): copy the data, or prepare them "
            "elsewhere with --output_dir and --output_name."
        ) from None
    return DONE


def data_worker(config: Config) -> int:
    """Serve until ended: as a worker of --data_service, or as the dispatcher without one."""
    try:
        if config.data_service:
            service.check(config.data_service)
            server = service.start_worker(config.data_service, host=config.host, port=config.port)
            print(f"Data worker of {config.data_service}, until Ctrl-C", flush=True)
        else:
            server = service.start_dispatcher(config.port)
            address = f"grpc://{config.host}:{server.target.rpartition(':')[2]}"
            print(f"Dispatcher: --data_service={address}, until Ctrl-C", flush=True)
    except (RuntimeError, tf.errors.OpError) as error:
        raise InputError(
            f"--port={config.port} cannot be served ({pipelines.first_line(error)}): give another, "
            "or 0 for any free one."
        ) from None
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()  # not join(), which no signal reaches
    return DONE


def summary(config: Config) -> int:
    """Print one network by layers and by Table 1's rows, or compare several by size."""
    names = config.model.replace(" ", "").split(",")
    size = config.image_size or None
    options = config.architecture_arguments()
    rows = {name: complexity.stages(name, input_size=size, **options) for name in names}
    if len(names) > 1:
        print(_comparison({name: complexity.total(rows[name]) for name in names}))
        return DONE
    try:
        model = build_model(names[0], input_shape=(size, size, 3) if size else None, **options)
    except ValueError as error:
        raise InputError(str(error)) from None
    model.summary()
    print()
    print(_stages(rows[names[0]]))
    return DONE


def open_data(config: Config) -> tuple[pipelines.Source, pipelines.Recipe]:
    """Return the data of the flags and their recipe.

    The training images are those of the run that is read, whose mean is subtracted: without
    --validation_images, such a run is tested on the test set.
    """
    held_out = config.validation_images
    # Exports subtract their mean by themselves.
    runs = list(filter(has_checkpoint, config.ensemble)) if config.ensemble else [config.run_dir]
    if config.mode in ("evaluate", "responses", "export") and runs and not config.init_weights:
        held_out = held_out or read_run(runs[0]).validation_images
    source = pipelines.open_source(
        config.dataset,
        data_dir=config.data_dir or None,
        classes=config.classes or None,
        validation_images=held_out,
    )
    if not config.validation_images:
        splits = {name: split for name, split in source.splits.items() if name != "validation"}
        source = dataclasses.replace(source, splits=splits)
    return source, config.make_recipe()


def build(config: Config, source: pipelines.Source, recipe: pipelines.Recipe) -> keras.Model:
    """Build the network for logits: the loss needs them, softmax is the reader's."""
    precision = choose_precision(config.precision)
    try:
        return build_model(
            config.model,
            classes=len(source.class_names),
            input_shape=(recipe.image_size, recipe.image_size, 3),
            classifier_activation=None,
            initializer=config.init or None,
            dtype=precision if precision == "float32" else f"mixed_{precision}",
            **config.architecture_arguments(),
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def restore(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe
) -> tuple[keras.Model, int]:
    """Build the network of a run and read one of its checkpoints; return both with the step.

    Without a run, the weights are those of --init_weights, which are told, and the step is 0.
    """
    if config.init_weights and config.mode != "train":
        model = build(config, source, recipe)
        print(import_weights(config, source, model, need_classifier=True))
        return model, 0
    if config.mode != "train":  # which compares them by itself
        _check_as_trained(config, source)
    model = build(config, source, recipe)
    folder = Path(config.run_dir, BEST if config.checkpoint == "best" else "")
    step, _ = Checkpoints(folder, model).restore()
    if not step:
        raise InputError(
            f"{folder / 'checkpoint'} names no checkpoint: restore it, or name another --run_dir."
        )
    if config.batchnorm_statistics == "true_average":
        _average_statistics(config, source, recipe, model, step)
    return model, step


def _check_as_trained(config: Config, source: pipelines.Source) -> None:
    """Refuse data in which a run's network would see other pixels, other classes, or old images."""
    run = Path(config.run_dir)
    asked, held_out = config.validation_images, read_run(config.run_dir).validation_images
    if asked not in (0, held_out):
        raise InputError(
            f"--validation_images={asked} would be images that {run} was trained on, which held "
            f"out {held_out:,}: leave it out, or give 0 for the test set."
        )
    saved = read_config(run)["data"]
    classes = itertools.zip_longest(
        saved.get("class_names", source.class_names), source.class_names
    )
    for number, (before, now) in enumerate(classes):
        if before != now:
            raise InputError(
                f"{run} is a run on other classes than {config.dataset} has now (number {number} "
                f"was {before!r}, is {now!r}): give the data that it was trained on, with the "
                "classes named as they were."
            )
    # As the run's own recipe uses them: flags may ask for another size or mean.
    found = pipelines.fingerprint(read_run(config.run_dir).make_recipe(), source.statistics)
    trained = saved.get("image_statistics", found)  # older runs do not tell
    if trained != found:
        raise InputError(
            f"{run} was trained with the image statistics '{trained}', and {config.dataset} has "
            f"'{found}' now: give the data and --validation_images that it was trained with, and "
            "the statistics.npz that lay beside them then, or none if there was none."
        )


def import_weights(
    config: Config, source: pipelines.Source, model: keras.Model, *, need_classifier: bool = False
) -> str:
    """Read --init_weights into the network of ``build``; return what to tell of them."""
    file = Path(config.init_weights)
    return load_weights(model, _row(config, source), file, need_classifier=need_classifier)


def _average_statistics(
    config: Config,
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    model: keras.Model,
    step: int,
) -> None:
    """Give the network its true batch-norm averages: those that the run keeps, or new ones."""
    strategy = tf.distribute.get_strategy()
    replicas, images = strategy.num_replicas_in_sync, source.sizes["train"]
    # As large as those that each device normalised by in training, however many are here.
    parts = read_config(Path(config.run_dir))["data"].get("replicas", 1) * config.accumulation_steps
    size = min(config.batch_size, images) // parts or 1
    seen = (recipe, pipelines.fingerprint(recipe, source.statistics), images, size, config.seed)
    about = hashlib.sha256(repr((*seen, choose_precision(config.precision))).encode()).hexdigest()
    best = BEST if config.checkpoint == "best" else ""
    folder = Path(config.run_dir, TRUE_AVERAGE, about[:12], best)
    kept = Checkpoints(folder, model, {}, {}, keep=1)
    if kept.latest_step == step:
        kept.restore()
        return
    check_writable(folder, "run_dir")
    batches = pipelines.train_stream(
        source,
        recipe,
        batch_size=size * replicas,
        seed=config.seed,
        max_bad_fraction=config.max_bad_fraction,
        distribute=lambda data: distribute(strategy, lambda context: data.rebatch(size)),
        log=tell_unreadable,
    )
    # Every image at least once; the last batch takes its rest from the next epoch.
    try:
        set_true_averages(model, strategy, batches, math.ceil(images / (size * replicas)))
    except tf.errors.ResourceExhaustedError:
        raise InputError(
            f"Batches of {size} images, by which {config.run_dir} normalised, do not fit the "
            "memory: leave --batchnorm_statistics=true_average out, or take a larger device."
        ) from None
    kept.save(step)


@contextlib.contextmanager
def fitting(config: Config) -> Iterator[None]:
    """Tell an evaluation that does not fit the memory, within the block, in one sentence.

    Raises:
        InputError: naming the flag that decides.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise InputError(
            f"--evaluation_batch_size={config.evaluation_batch_size} images or crops do not fit "
            "the memory: give fewer."
        ) from None


def tell_unreadable(name: str) -> None:
    """Name an image that is left out."""
    print(f"Left out, not readable: {name}", file=sys.stderr)


def reported_split(source: pipelines.Source) -> str:
    """Return the split reported on: held-out images, where some are, spare the test set."""
    return "validation" if "validation" in source.sizes else "test"


def evaluation_batches(
    config: Config,
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    strategy: tf.distribute.Strategy,
    cluster: Cluster,
    on_bad: Callable[[str], None],
) -> tuple[Iterable, int]:
    """Return the batches of the split reported on, for ``strategy``, and their number."""
    split, workers = reported_split(source), len(cluster.workers)
    size = config.evaluation_batch_size // workers
    local = size * workers // strategy.num_replicas_in_sync

    stream = pipelines.test_stream(
        source,
        recipe,
        split=split,
        batch_size=size,
        shard_index=cluster.worker,
        shard_count=workers,
        max_bad_fraction=config.max_bad_fraction,
        guarded=workers > 1,  # an error on one worker would end the step of all
        distribute=lambda batches: distribute(
            strategy, lambda context: batches if local == size else batches.rebatch(local)
        ),
        log=on_bad,
    )
    return stream, math.ceil(math.ceil(source.sizes[split] / workers) / size)


def export_newest(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe
) -> tuple[Path, int]:
    """Export a checkpoint of a run; return the version's folder and the step."""
    # The checkpoint's variables are float32 in every precision, and so is what is exported from.
    model, step = restore(dataclasses.replace(config, precision="float32"), source, recipe)
    free, made_in = immaterial(config), environment()
    # What decides the result; where things lie on this machine is nobody's business.
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in free}
    for flag in ("init_weights", "init_from"):
        settings[flag] = Path(settings[flag]).name
    exported = serving.export(
        model,
        Path(config.export_dir),
        class_names=source.class_names,
        preprocess=lambda encoded: pipelines.preprocess_encoded(encoded, recipe, source.statistics),
        normalise=lambda images: pipelines.normalise(images, recipe, source.statistics),
        samples=encoded_samples(source.splits[reported_split(source)], SAMPLES),
        facts={
            "architecture": dataclasses.asdict(_row(config, source)),
            "step": step,
            "checkpoint": config.checkpoint,
            "batchnorm_statistics": config.batchnorm_statistics,
            "metrics": _metrics(config, source, step),
            "preprocessing": manifest.preprocessing(recipe, source.statistics),
            "config": settings,
            **{name: made_in[name] for name in ("commit", "dirty", "python", "packages")},
        },
        fold=config.fold,
        precision=config.export_precision or "float32",
    )
    return exported, step


def _row(config: Config, source: pipelines.Source) -> Spec:
    """Return the row of the network with its options."""
    options = config.architecture_arguments()
    return architecture(config.model, classes=len(source.class_names), **options)


def _metrics(config: Config, source: pipelines.Source, step: int) -> dict[str, Any] | None:
    """Return what the run's log says of the exported weights; None where they were not tested."""
    if config.batchnorm_statistics != "moving_average":
        return None  # the log knows the moving averages only
    log = read_records(Path(config.run_dir, LOG), "restore the file")
    about = (reported_split(source), step)
    tests = [record for record in log if (record["kind"], record["step"]) == about]
    return {"split": tests[-1].pop("kind"), **tests[-1]} if tests else None


def errors(source: pipelines.Source, metrics: dict[str, int | float]) -> str:
    """Return the lines about an evaluation that a job ends with."""
    lines = [
        f"{reported_split(source).capitalize()} error  {100 * metrics['top1_error']:.2f} %  "
        f"({metrics['wrong']:,} of {metrics['images']:,} images wrong)"
    ]
    if "top5_error" in metrics:
        lines.append(f"Top-5 error {100 * metrics['top5_error']:.2f} %")
    return "\n".join(lines)


def where(exported: Path) -> str:
    """Return the lines about an export that a job ends with."""
    return (
        f"Exported    {exported}\n"
        f"Look at it  saved_model_cli show --all --dir {exported}\n"
        f"Ask it      python -m resnet_keras.main --mode=predict --saved_model={exported.parent} "
        "--images='*.png'"
    )


def _stages(rows: list[complexity.Row]) -> str:
    header = ["stage", "output", "blocks", "parameters", "multiply-adds"]
    cells = [
        [
            row.stage,
            f"{row.output_size[0]}x{row.output_size[1]}",
            str(row.blocks or ""),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
        ]
        for row in [*rows, complexity.total(rows)]
    ]
    cells[-1][1:3] = ["", ""]
    return table(header, cells)


def _comparison(totals: dict[str, complexity.Row]) -> str:
    header = ["network", "layers", "parameters", "multiply-adds", "of the first"]
    first = next(iter(totals.values())).multiply_adds
    cells = [
        [
            name,
            str(row.layers),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
            f"{100 * row.multiply_adds / first:.1f} %",
        ]
        for name, row in totals.items()
    ]
    return table(header, cells)
