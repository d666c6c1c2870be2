"""What each --mode does, from a Config to an exit code."""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

import pipelines
from pipelines import service
from pipelines.prepare import prepare as write_prepared
from resnet_keras.config import RESUMABLE, Config
from resnet_keras.errors import InputError
from resnet_keras.evaluation.metrics import make_evaluate
from resnet_keras.models import build_model, complexity
from resnet_keras.reporting.tables import table
from resnet_keras.serving import export as serving
from resnet_keras.serving import places
from resnet_keras.serving import predict as serving_predict
from resnet_keras.training import loop
from resnet_keras.training.checkpoints import Checkpoints, average_statistics
from resnet_keras.training.logs import Log
from resnet_keras.training.optimizers import CoupledDecaySGD
from resnet_keras.training.runs import LOG, open_run
from resnet_keras.training.schedules import piecewise
from resnet_keras.training.strategy import check_batch_size, make_strategy

DONE, FAILED, STOPPED = 0, 1, 75


def train(config: Config) -> int:
    """Train a network, or resume or find it finished; then evaluate and export it."""
    run = Path(config.run_dir)
    source, recipe = _open_data(config)
    strategy = _strategy(config)
    if config.data_service:
        service.check(config.data_service, source)

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = _build(config, source, recipe)
        optimizer = CoupledDecaySGD(config.momentum, config.weight_decay, config.decay)
        optimizer.build(model.trainable_variables)
        # Only now, when all input is known to be good, may --restart delete anything.
        settings = dataclasses.asdict(config)
        settings["class_names"] = source.class_names
        settings["training_images"] = source.sizes["train"]
        open_run(run, settings, free=RESUMABLE, restart=config.restart)
        checkpoints = Checkpoints(run, model, optimizer)
        start, window = checkpoints.restore()
    if start and config.data_service and config.resume == "exact":
        raise InputError(
            f"{run} stands at step {start:,}, and --data_service keeps neither order nor position: "
            "resume with --resume=approximate."
        )
    evaluate_on = make_evaluate(model, strategy)

    unreadable: list[str] = []  # filled by the input's threads, told by the loop
    bad_images = pipelines.BadImages(
        source.sizes["train"], config.max_bad_fraction, unreadable.append
    )

    def open_stream(step: int, guarded: bool) -> tf.data.Iterator:
        where = {
            "batch_size": config.batch_size,
            "seed": config.seed,
            "start": step * config.batch_size,
        }
        if config.data_service:
            batches = service.service_batches(
                source,
                recipe,
                **where,
                service=config.data_service,
                job=f"{run.resolve()} {time.time()}",
                on_bad=bad_images.add,
            )
        else:
            on_bad = bad_images.add if guarded else None
            batches = pipelines.train_batches(source, recipe, **where, on_bad=on_bad)
        return iter(strategy.experimental_distribute_dataset(batches))

    def save(step: int, sums: Sequence[float]) -> None:
        average_statistics(strategy, model)
        checkpoints.save(step, sums)

    def evaluate_at(step: int) -> dict[str, int | float]:
        average_statistics(strategy, model)
        found: list[str] = []
        metrics = evaluate_on(*_evaluation_batches(config, source, recipe, strategy, found.append))
        for name in found:
            log.write("unreadable", step, image=name)
        log.write(_split(source), step, **metrics)
        return metrics

    def watch(step: int) -> None:
        while unreadable:
            log.write("unreadable", step, image=unreadable.pop(0))
        bad_images.check()

    log = Log(run / LOG, step=start, total_steps=config.train_steps)
    try:
        if start < config.train_steps:
            print(
                f"{'Resuming' if start else 'Training'} {config.model} on {config.dataset} "
                f"({source.sizes['train']:,} images): steps {start:,} to {config.train_steps:,} "
                f"of {config.batch_size} images, on {_devices(strategy)}, in {run}",
                flush=True,
            )
            loop.train(
                loop.make_train_function(
                    model, optimizer, strategy, batch_size=config.batch_size, seed=config.seed
                ),
                open_stream,
                schedule=piecewise(config.learning_rate, config.lr_drops),
                start=start,
                steps=config.train_steps,
                window=window,
                steps_per_call=config.steps_per_call,
                log_every=config.log_every,
                checkpoint_every=config.checkpoint_every,
                evaluate_every=config.evaluate_every,
                save=save,
                evaluate=evaluate_at,
                watch=watch,
                log=log,
            )
        else:
            print(f"{run} is finished: evaluating and exporting it again.", flush=True)
        metrics = evaluate_at(max(start, config.train_steps))
    except loop.Stopped as stopped:
        print(f"{stopped} The same command resumes.", file=sys.stderr)
        return STOPPED
    except loop.NonFiniteLoss as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return FAILED
    except tf.errors.ResourceExhaustedError:
        print(
            f"resnet_keras: {config.batch_size} images a step do not fit the memory: lower "
            "--batch_size.",
            file=sys.stderr,
        )
        return FAILED
    except tf.errors.OpError as error:
        print(
            f"resnet_keras: The data cannot be read on ({pipelines.first_line(error)}): mend it, "
            "and the same command resumes.",
            file=sys.stderr,
        )
        return FAILED
    finally:
        log.close()
    # From the checkpoint: what is exported is what the run's directory holds.
    exported, _ = _export(config, source, recipe)
    print(_errors(source, metrics))
    print(_where(exported))
    return DONE


def evaluate(config: Config) -> int:
    """Evaluate the newest checkpoint of a run."""
    source, recipe = _open_data(config)
    strategy = _strategy(config)
    with strategy.scope():
        model, step = _restore(config, source, recipe)
    found: list[str] = []
    batches, count = _evaluation_batches(config, source, recipe, strategy, found.append)
    metrics = make_evaluate(model, strategy)(batches, count)
    for name in found:
        print(f"Left out, not readable: {name}", file=sys.stderr)
    print(f"{config.run_dir}, step {step:,}")
    print(_errors(source, metrics))
    return DONE


def export(config: Config) -> int:
    """Export the newest checkpoint of a run."""
    source, recipe = _open_data(config)
    exported, step = _export(config, source, recipe)
    print(f"{config.run_dir}, step {step:,}")
    print(_where(exported))
    return DONE


def predict(config: Config) -> int:
    """Print what an export says of image files; unreadable files are named and cost exit 2."""
    files = places.find_images(config.images)
    folder = places.find_version(config.saved_model)
    answers = serving_predict.predict(folder, files)
    best = max((len(a["classes"]) for a in answers if "classes" in a), default=1)
    rows = []
    for found in answers:
        if "problem" in found:
            cells = [found["problem"]]
        else:
            pairs = zip(found["classes"], found["scores"], strict=True)
            cells = [f"{name} {100 * score:.1f}" for name, score in pairs]
        rows.append([found["file"].name, *cells, *[""] * (best - len(cells))])
    print(table(["file", *[f"{i} (%)" for i in range(1, best + 1)]], rows, left=best + 1))
    bad = sum("problem" in found for found in answers)
    if bad:
        raise InputError(f"{bad} of {len(files)} files could not be read as JPEG or PNG images.")
    return DONE


def prepare(config: Config) -> int:
    """Write a data set as sharded TFRecord files with its statistics; name what is unreadable."""
    source, recipe = _open_data(config)
    if not config.output_dir:
        return _add_statistics(source, recipe)
    folder, bad = write_prepared(
        source,
        Path(config.output_dir),
        name=config.output_name,
        recipe=recipe,
        progress=sys.stderr.isatty(),
        log=lambda name: print(f"Left out, not readable: {name}", file=sys.stderr),
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
    model = build_model(names[0], input_shape=(size, size, 3) if size else None, **options)
    model.summary()
    print()
    print(_stages(rows[names[0]]))
    return DONE


def _open_data(config: Config) -> tuple[pipelines.Source, pipelines.Recipe]:
    source = pipelines.open_source(
        config.dataset,
        data_dir=config.data_dir or None,
        classes=config.classes or None,
        validation_images=config.validation_images,
    )
    return source, config.make_recipe()


def _strategy(config: Config) -> tf.distribute.Strategy:
    strategy = make_strategy(config.strategy)
    check_batch_size(strategy, config.batch_size, "batch_size")
    check_batch_size(strategy, config.evaluation_batch_size, "evaluation_batch_size")
    return strategy


def _devices(strategy: tf.distribute.Strategy) -> str:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count = strategy.num_replicas_in_sync
    return f"{count} {kind}s" if count > 1 else f"the {kind}"


def _build(config: Config, source: pipelines.Source, recipe: pipelines.Recipe) -> keras.Model:
    """Build the network for logits: the loss needs them, softmax is the reader's."""
    try:
        return build_model(
            config.model,
            classes=len(source.class_names),
            input_shape=(recipe.image_size, recipe.image_size, 3),
            classifier_activation=None,
            initializer=config.init or None,
            dtype="mixed_bfloat16" if config.precision == "bfloat16" else "float32",
            **config.architecture_arguments(),
        )
    except ValueError as error:
        raise InputError(str(error)) from None


def _restore(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe
) -> tuple[keras.Model, int]:
    """Build the network of a run and read its newest checkpoint; return both with the step."""
    model = _build(config, source, recipe)
    step, _ = Checkpoints(Path(config.run_dir), model).restore()
    if not step:
        raise InputError(
            f"--run_dir={config.run_dir} holds no checkpoint: name the directory of a run, or "
            "train one with --mode=train."
        )
    return model, step


def _split(source: pipelines.Source) -> str:
    """Return the split reported on: held-out images, where some are, spare the test set."""
    return "validation" if "validation" in source.sizes else "test"


def _evaluation_batches(
    config: Config,
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    strategy: tf.distribute.Strategy,
    on_bad: Callable[[str], None],
) -> tuple[Iterable, int]:
    """Return the batches of the split reported on, for ``strategy``, and their number."""
    split, size = _split(source), config.evaluation_batch_size
    stream = pipelines.test_stream(
        source,
        recipe,
        split=split,
        batch_size=size,
        max_bad_fraction=config.max_bad_fraction,
        distribute=strategy.experimental_distribute_dataset,
        log=on_bad,
    )
    return stream, -(-source.sizes[split] // size)


def _export(config: Config, source: pipelines.Source, recipe: pipelines.Recipe) -> tuple[Path, int]:
    """Export the newest checkpoint of a run; return the version's folder and the step."""
    model, step = _restore(config, source, recipe)
    exported = serving.export(
        model,
        Path(config.export_dir),
        class_names=source.class_names,
        preprocess=lambda encoded: pipelines.preprocess_encoded(encoded, recipe, source.statistics),
        normalise=lambda images: pipelines.normalise(images, recipe, source.statistics),
    )
    return exported, step


def _errors(source: pipelines.Source, metrics: dict[str, int | float]) -> str:
    lines = [
        f"{_split(source).capitalize()} error  {100 * metrics['top1_error']:.2f} %  "
        f"({metrics['wrong']:,} of {metrics['images']:,} images wrong)"
    ]
    if "top5_error" in metrics:
        lines.append(f"Top-5 error {100 * metrics['top5_error']:.2f} %")
    return "\n".join(lines)


def _where(exported: Path) -> str:
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
