"""What --mode=train does, from a Config to an exit code."""

import contextlib
import dataclasses
import math
import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import pipelines
from pipelines import service
from resnet_keras import jobs
from resnet_keras.config import Config, resumable
from resnet_keras.errors import InputError
from resnet_keras.evaluation.metrics import make_evaluate
from resnet_keras.init_from import start_from
from resnet_keras.training import loop, schedules
from resnet_keras.training.checkpoints import Checkpoints, newest_step
from resnet_keras.training.logs import Log
from resnet_keras.training.optimizers import LossScale, MomentumSGD, Muon, all_finite
from resnet_keras.training.profiling import Profiler
from resnet_keras.training.recompute import recomputed
from resnet_keras.training.runs import BEST, CHECKPOINT, PROFILE, held, open_run
from resnet_keras.training.signals import Stopped, StopRequest, ended_by_signals
from resnet_keras.training.step import make_train_function
from resnet_keras.training.strategy import (
    Cluster,
    average_statistics,
    check_agreement,
    check_batch_size,
    choose_precision,
    distribute,
    every_workers,
    make_strategy,
    read_cluster,
)
from resnet_keras.training.tensorboard import write_first_batch

DONE, FAILED, STOPPED = 0, 1, 75
# What TensorFlow raises on a worker whose peers have ended or cannot be reached.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
# Where machines of one cluster may differ: mounted elsewhere, it is the same.
PLACES = {"data_dir", "run_dir", "export_dir"}
# The job's part of the state that a checkpoint keeps.
INITIAL = {**loop.INITIAL, **schedules.INITIAL, "lowest_error": math.inf}


def train(config: Config) -> int:
    """Train a network, or resume or find it finished; then evaluate and export it."""
    cluster = read_cluster(os.environ.get("TF_CONFIG"))
    if len(cluster.workers) > 1:
        print(
            f"Worker {cluster.worker} of {len(cluster.workers)}: waiting for the others "
            f"({', '.join(cluster.workers)})",
            flush=True,
        )
    try:
        strategy = _join(config, cluster)
        # Only now: a chief that is refused before would leave the others waiting for it.
        with held(Path(config.run_dir)) if cluster.is_chief else contextlib.nullcontext():
            return _train(config, cluster, strategy)
    except Stopped as stopped:
        print(f"{stopped} The same command{_to_resume(config)} resumes.", file=sys.stderr)
        return STOPPED
    except loop.NonFiniteLoss as error:
        print(f"resnet_keras: {error}", file=sys.stderr)
        return FAILED
    except tf.errors.ResourceExhaustedError:
        print(
            f"resnet_keras: {config.batch_size} images a step do not fit the memory: raise "
            "--accumulation_steps, give --recompute, or lower --batch_size.",
            file=sys.stderr,
        )
        return FAILED
    except tf.errors.OpError as error:
        if isinstance(error, LOST) and len(cluster.workers) > 1:
            print(
                f"resnet_keras: Another worker is gone ({pipelines.first_line(error)}): the same "
                f"command{_to_resume(config)} on all of them resumes.",
                file=sys.stderr,
            )
            return STOPPED
        print(
            f"resnet_keras: Training cannot go on ({pipelines.first_line(error)}): mend that, and "
            f"the same command{_to_resume(config)} resumes.",
            file=sys.stderr,
        )
        return FAILED
    except OSError as error:
        if not config.restart:
            raise
        raise OSError(f"{error} Leave --restart out then.") from None


def _end_unfed(config: Config) -> Callable[[str], None]:
    """Return what ends a process whose step waits for a batch that will not come: as a kill."""

    def end(reason: str) -> None:
        print(
            f"resnet_keras: {reason.removesuffix('.')}; then the same command{_to_resume(config)} "
            "resumes from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(STOPPED)

    return end


def _to_resume(config: Config) -> str:
    """Return how a command is to be changed so that it resumes what it began."""
    inexact = config.data_service and config.resume == "exact"
    ways = ["with --resume=approximate"] if inexact else []
    ways += ["without --restart"] if config.restart else []
    return " " + " and ".join(ways) if ways else ""


def _join(config: Config, cluster: Cluster) -> tf.distribute.Strategy:
    """Return the strategy of the flags, which among several workers waits for all of them."""
    try:
        with ended_by_signals():
            return make_strategy(config.strategy, cluster)
    except LOST:
        raise
    except tf.errors.OpError as error:
        raise InputError(
            f"TF_CONFIG's {cluster.workers[cluster.worker]} cannot be served "
            f"({pipelines.first_line(error)}): end what is left there of an earlier start, or give "
            "another address."
        ) from None


def _train(config: Config, cluster: Cluster, strategy: tf.distribute.Strategy) -> int:
    run, alone = Path(config.run_dir), len(cluster.workers) == 1
    replicas = strategy.num_replicas_in_sync
    asked = config.precision
    config, source, recipe = _checked(config, cluster, strategy)
    images = source.sizes["train"]
    made = 0 if config.restart else newest_step(run)
    if made > config.train_steps:
        raise InputError(
            f"{run} stands at step {made:,}, and --train_steps={config.train_steps} are fewer: "
            "give its steps or more, another --run_dir, or --restart to delete it and start anew."
        )

    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = jobs.build(config, source, recipe)
        optimizer = _optimizer(config)
        optimizer.build(model.trainable_variables)
        loss_scale = LossScale() if config.precision == "float16" else None
        # A run that is resumed has its own weights.
        new = config.restart or not (run / CHECKPOINT).is_file()
        if new and config.init_weights:
            told = jobs.import_weights(config, source, model)
            if cluster.is_chief:
                print(told, flush=True)
        begun: dict[str, Any] = {}
        if new and config.init_from:
            begun = start_from(config, source, recipe, model, replicas)
    if new and not alone and (config.init_weights or config.init_from):
        # Each read them by itself, and nothing would make them equal later.
        first = [strategy.experimental_local_results(v.value)[0] for v in model.variables]
        sums = [zlib.crc32(weights.numpy().tobytes()) for weights in first]
        check_agreement(strategy, {"the weights that they start from": sums})
    others = {"optimizer": optimizer.state}
    if loss_scale:
        others["loss_scale"] = loss_scale.state
    forward = _recomputed(model) if config.recompute else None
    # Only now, when all input is known to be good, may --restart delete anything.
    free = resumable(config)
    if config.resume == "approximate":
        free |= {"replicas", "workers"}
    elif not config.data_service:
        free -= {"data_service"}  # a stream of its workers cannot be gone on with in order
    if cluster.is_chief:
        data = {
            "class_names": source.class_names, "training_images": images, "replicas": replicas,
            "workers": len(cluster.workers),
            "image_statistics": pipelines.fingerprint(recipe, source.statistics),
        }  # fmt: skip
        flags, defaults = dataclasses.asdict(config), dataclasses.asdict(Config())
        open_run(run, flags, data, defaults=defaults, free=free, restart=config.restart)
    started = every_workers(strategy, time.time() if cluster.is_chief else 0.0)[0]
    checkpoints = Checkpoints(run, model, others, INITIAL, config.keep_checkpoints)
    best = Checkpoints(run / BEST, model, {}, {}, keep=1)
    start, state = checkpoints.restore()
    if any(step != start for step in every_workers(strategy, start)):
        raise InputError(
            f"The workers see different checkpoints in --run_dir={run}: it must lie on a file "
            "system that all of them share."
        )
    resumes = 0 < start < config.train_steps
    if resumes and config.data_service and config.resume == "exact":
        raise InputError(
            f"{run} stands at step {start:,}, and --data_service keeps neither order nor position: "
            "resume with --resume=approximate."
        )
    average = average_statistics(strategy, model)
    evaluate_on = make_evaluate(model, strategy)

    def save(step: int, state: schedules.State) -> None:
        average()
        if cluster.is_chief:
            checkpoints.save(step, state)

    def tell_unreadable(step: int, split: str, name: str) -> None:
        log.write("unreadable", step, split=split, image=name)
        if not cluster.is_chief:  # whose log is not its own
            print(f"Left out, not readable: {name}", file=sys.stderr)

    def evaluate(step: int, request: StopRequest) -> dict[str, float]:
        def watch() -> None:
            # Among several workers, they stop together at the next step.
            if request.signal and alone:
                raise Stopped(f"Stopped {request.told} while evaluating step {step:,}.")

        average()
        split = jobs.reported_split(source)
        found: list[str] = []
        batches, count = jobs.evaluation_batches(
            config, source, recipe, strategy, cluster, found.append
        )
        began = time.perf_counter()
        with jobs.fitting(config):
            metrics = evaluate_on(batches, count, watch)
        for name in found:
            if name not in named:  # by an evaluation before
                named.add(name)
                tell_unreadable(step, split, name)
        log.write(split, step, **metrics, seconds=time.perf_counter() - began)
        return metrics

    def observe_evaluation(
        state: schedules.State, step: int, metrics: dict[str, float]
    ) -> schedules.State:
        error = metrics["top1_error"]
        if error < state["lowest_error"]:
            state = state | {"lowest_error": error}
            # A run that is resumed before an evaluation comes by here twice.
            if cluster.is_chief and best.latest_step != step:
                best.save(step)
        if config.lr_schedule != "plateau":
            return state
        after = schedules.observe_evaluation(
            state, error, patience=config.plateau_patience, threshold=config.plateau_threshold,
            max_drops=config.plateau_drops,
        )  # fmt: skip
        if after["drops"] > state["drops"]:
            told = {"learning_rate": schedule(step, after), "drops": int(after["drops"])}
            log.write("plateau", step, **told)
        return after

    def observe_training(
        state: schedules.State, step: int, wrong: float, seen: float
    ) -> schedules.State:
        after = schedules.observe_training(
            state, step, wrong, seen, until_error=config.warmup_until_error
        )
        if after["warm"]:
            log.write("warm", step, learning_rate=schedule(step, after))
        return after

    def watch(step: int) -> None:
        while unreadable:
            tell_unreadable(step, "train", unreadable.pop(0))
        bad_images.check()

    schedule = _schedule(config)
    todo = start < config.train_steps
    if cluster.is_chief:
        if not start and config.tensorboard and not config.data_service:
            _picture_first_batch(config, source, recipe, run)
        doing = "Resuming" if start else "Training"
        precision = f" in {config.precision} (--precision=auto)" if asked == "auto" else ""
        print(
            f"{doing} {config.model} on {config.dataset} ({images:,} images): steps {start:,} to "
            f"{config.train_steps:,} of {config.batch_size} images, on {_devices(strategy)}"
            f"{precision}, in {run}"
            if todo
            else f"{run} is finished: evaluating it again.",
            flush=True,
        )
    log = Log(
        run if cluster.is_chief else None,
        records=int(state["records"]),
        step=start,
        total_steps=config.train_steps,
        images_per_step=config.batch_size,
        tensorboard=config.tensorboard,
    )
    if begun:
        log.write("start", 0, **begun)
    profiler = Profiler(config.profile_steps, run / PROFILE if cluster.is_chief else None)
    missed = [(r["split"], r["image"]) for r in log.kept if r["kind"] == "unreadable"]
    named = {image for split, image in missed if split != "train"}
    unreadable: list[str] = []  # filled by the input's threads, told by the loop
    bad_images = pipelines.BadImages(
        images,
        config.max_bad_fraction,
        unreadable.append,
        known=[image for split, image in missed if split == "train"],
    )
    watched = (
        service.watch(config.data_service, _end_unfed(config)) if config.data_service else None
    )
    try:
        metrics = loop.train(
            make_train_function(
                model, optimizer, strategy, batch_size=config.batch_size, seed=config.seed,
                steps_per_call=config.steps_per_call,
                accumulation_steps=config.accumulation_steps, loss_scale=loss_scale,
                forward=forward, window=config.small_image_size,
                window_steps=config.small_image_steps, label_smoothing=config.label_smoothing,
            ),
            _open_stream(
                config, strategy, source, recipe, on_bad=bad_images.add, guarded=not alone,
                job=str(started),  # the run's place may have another name on each machine
            ),
            schedule=schedule,
            state=state,
            start=start,
            steps=config.train_steps,
            steps_per_call=config.steps_per_call,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            evaluate_every=config.evaluate_every,
            save=save,
            finite=tf.function(
                lambda: all_finite([v.value for v in model.trainable_variables])
            ),
            evaluate=evaluate,
            observe_training=observe_training if config.warmup_until_error else None,
            observe_evaluation=observe_evaluation,
            watch=watch,
            log=log,
            # No call of several steps may see images of two sizes.
            pauses=(*profiler.pauses, config.small_image_steps),
            at_pause=profiler.at,
            alone=alone,
        )  # fmt: skip
    finally:
        if watched:
            watched.set()
        log.close()
        profiler.close()
    if cluster.is_chief:
        print(jobs.errors(source, metrics))
        if config.export:
            # From the checkpoint: what is exported is what the run's directory holds.
            exported, _ = jobs.export_newest(config, source, recipe)
            print(jobs.where(exported))
    every_workers(strategy, 0.0)  # none leaves before the chief is done
    return DONE


def _checked(
    config: Config, cluster: Cluster, strategy: tf.distribute.Strategy
) -> tuple[Config, pipelines.Source, pipelines.Recipe]:
    """Refuse what cannot train, before work starts; return the config made definite, and data."""
    alone = len(cluster.workers) == 1
    precision = choose_precision(config.precision)
    if not alone:
        flags = dataclasses.asdict(config).items()
        agreed = {f"--{name}": v for name, v in flags if name not in PLACES}
        # By its hardware each might choose another, and the weights would drift apart.
        agreed["what --precision=auto is (name one instead)"] = precision
        check_agreement(strategy, agreed)
    check_batch_size(strategy, config.batch_size, "batch_size", config.accumulation_steps)
    check_batch_size(strategy, config.evaluation_batch_size, "evaluation_batch_size")
    source, recipe = jobs.open_data(config)
    if recipe.alternate_flips and not pipelines.is_pad_crop(source.splits["train"], recipe):
        raise InputError(
            f"--alternate_flips has no place with --dataset={config.dataset}, whose images are not "
            f"in memory with {recipe.image_size} pixels a side: leave it out."
        )
    if config.data_service:
        service.check(config.data_service, source)
    if not alone:
        seen = {
            "sizes": source.sizes,
            "class names": source.class_names,
            "image statistics": pipelines.fingerprint(recipe, source.statistics),
        }
        check_agreement(strategy, seen)
    definite: dict[str, Any] = {"precision": precision}
    if config.lr_schedule == "plateau" and not config.evaluate_every:
        definite["evaluate_every"] = math.ceil(source.sizes["train"] / config.batch_size)
    return dataclasses.replace(config, **definite), source, recipe


def _open_stream(
    config: Config,
    strategy: tf.distribute.Strategy,
    source: pipelines.Source,
    recipe: pipelines.Recipe,
    *,
    on_bad: Callable[[str], None],
    guarded: bool,
    job: str,
) -> Callable[[int, bool], tf.data.Iterator]:
    """Return the loop's function from a step, and whether to guard, to the stream from there.

    Args:
        config: of the run.
        strategy: of the replicas.
        source: of the images.
        recipe: of their augmentation.
        on_bad: takes the names of unreadable images.
        guarded: always; for workers, because an error on one would end the step of all.
        job: name of this start of the run at a data service.
    """

    def open_stream(step: int, guard: bool) -> tf.data.Iterator:
        where = {
            "batch_size": config.batch_size // strategy.num_replicas_in_sync,
            "seed": config.seed,
            "start": step * config.batch_size,
        }

        def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
            if config.data_service:
                batches = service.service_batches(
                    source, recipe, **where, service=config.data_service, job=job, on_bad=on_bad
                )
            else:
                batches = pipelines.train_batches(
                    source, recipe, **where,
                    shard_index=context.input_pipeline_id,
                    shard_count=context.num_input_pipelines,
                    on_bad=on_bad if guard or guarded else None,
                )  # fmt: skip
            # Without being told that it is endless, the workers would ask each other at every
            # batch whether one of them has run out.
            endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
            return batches.apply(endless)

        return iter(distribute(strategy, share))

    return open_stream


def _schedule(config: Config) -> schedules.Schedule:
    rate = config.learning_rate
    schedule = {
        "piecewise": lambda: schedules.piecewise(rate, config.lr_drops),
        "plateau": lambda: schedules.plateau(rate),
        "cosine": lambda: schedules.cosine(rate, config.train_steps, config.warmup_steps),
    }[config.lr_schedule]()
    if config.warmup_steps:
        return schedules.linear_warmup(schedule, config.warmup_steps)
    if config.warmup_until_error:
        return schedules.warmup_until_learning(schedule, config.warmup_learning_rate)
    return schedule


def _optimizer(config: Config) -> MomentumSGD | Muon:
    momentum = MomentumSGD(config.momentum, config.weight_decay, config.decay)
    if config.optimizer == "muon":
        return Muon(momentum, config.muon_learning_rate / config.learning_rate)
    return momentum


def _recomputed(model: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    try:
        return recomputed(model)
    except ValueError as error:
        raise InputError(f"--recompute: {error}") from None


def _picture_first_batch(
    config: Config, source: pipelines.Source, recipe: pipelines.Recipe, run: Path
) -> None:
    """Write the first augmented images as pixels, mean and deviation put back."""
    batches = pipelines.train_batches(
        source, recipe, batch_size=min(config.batch_size, 16), seed=config.seed
    )
    try:
        images = next(iter(batches))["image"]
    except tf.errors.OpError:
        return  # an unreadable image: the training stream will name it
    mean, std = pipelines.mean_and_std(recipe, source.statistics)
    write_first_batch(run, images.numpy() * std + mean)


def _devices(strategy: tf.distribute.Strategy) -> str:
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    count = strategy.num_replicas_in_sync
    return f"{count} {kind}s" if count > 1 else f"the {kind}"
