"""The custom training loop: several steps in one tf.function, on any strategy; no Keras fit."""

import math
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

import keras
import tensorflow as tf

from resnet_keras.training.logs import Log
from resnet_keras.training.schedules import Schedule


class Stopped(Exception):
    """A signal ended the run after a whole step; its checkpoint is written."""


class NonFiniteLoss(ArithmeticError):
    """The loss is infinite or not a number; the last checkpoint is still good."""


# What TensorFlow raises at an image that cannot be found, opened or decoded.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)


class StopRequest:
    """Note SIGINT and SIGTERM, so that the step at hand can end; a second one interrupts."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "StopRequest":
        self._previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


def make_train_function(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
    *,
    batch_size: int,
    seed: int,
) -> Callable:
    """Return a function that makes several steps in one compiled call.

    The function takes an iterator of ``{"image", "label", "weight"}`` batches, a list of learning
    rates of one and the same length, of which it uses the first ``count``, that ``count``, and the
    number of steps made before. It returns the number of steps made and float sums over their
    images, [cross-entropy, wrong answers, weights], without the decay term, which the optimizer
    adds to the gradient; and the error that ended it early, if the iterator raised one: the steps
    before are whole.

    Args:
        model: returns logits.
        optimizer: built inside the strategy's scope.
        strategy: runs the replicas.
        batch_size: global, in images.
        seed: of dropout.
    """
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    replicas = strategy.num_replicas_in_sync
    results = tf.Variable(tf.zeros(4))  # steps made, and the three sums

    def step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> tf.Tensor:
        # Dropout's state is set, not advanced: masks depend on seed, layer, step and replica
        # only, so a resumed run draws the same ones and replicas draw different ones.
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        for index, layer in enumerate(dropouts):
            drawn = tf.cast(number * replicas + replica, layer.seed_generator.state.dtype)
            layer.seed_generator.state.assign(tf.stack([seed + index * 2**16, drawn]))
        with tf.GradientTape() as tape:
            logits = tf.cast(model(batch["image"], training=True), tf.float32)
            losses = batch["weight"] * tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch["label"], logits
            )
            loss = tf.nn.compute_average_loss(losses, global_batch_size=batch_size)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        with tf.control_dependencies([loss]):  # no count of a step that gets no batch
            optimizer.apply(gradients, variables)
        answers = tf.argmax(logits, axis=-1, output_type=batch["label"].dtype)
        wrong = batch["weight"] * tf.cast(answers != batch["label"], tf.float32)
        sums = [tf.reduce_sum(values) for values in (losses, wrong, batch["weight"])]
        return tf.stack([1 / replicas, *sums])

    @tf.function(reduce_retracing=True)
    def compiled(
        iterator: tf.data.Iterator, learning_rates: tf.Tensor, count: tf.Tensor, first: tf.Tensor
    ) -> None:
        results.assign(tf.zeros(4))
        for index in tf.range(count):
            # A step waits for the one before, so that a failing iterator leaves whole steps.
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            optimizer.learning_rate.assign(learning_rates[index])
            sums = strategy.run(step, args=(next(iterator), first + index))
            results.assign_add(strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None))

    def train_function(
        iterator: tf.data.Iterator, learning_rates: Sequence[float], count: int, first: int
    ) -> tuple[int, list[float], tf.errors.OpError | None]:
        failure = None
        try:
            compiled(
                iterator,
                tf.constant(learning_rates, tf.float32),
                tf.constant(count, tf.int32),
                tf.constant(first, tf.int32),
            )
        except tf.errors.OpError as error:
            failure = error
        steps, *sums = results.numpy().tolist()
        return round(steps), sums, failure

    return train_function


def train(
    train_function: Callable,
    open_stream: Callable[[int, bool], tf.data.Iterator],
    *,
    schedule: Schedule,
    start: int,
    steps: int,
    window: Sequence[float],
    steps_per_call: int,
    log_every: int,
    checkpoint_every: int,
    evaluate_every: int,
    save: Callable[[int, Sequence[float]], None],
    evaluate: Callable[[int], object],
    watch: Callable[[int], None],
    log: Log,
) -> None:
    """Train from step ``start`` to ``steps``, saving, evaluating and logging on the way.

    Args:
        train_function: of ``make_train_function``.
        open_stream: takes a step and whether to guard against unreadable images; returns the
            stream that stands there. Good data never pays for the guard: the stream is opened
            with it at the step where the first error came.
        schedule: step -> learning rate.
        start: steps made before, from the checkpoint.
        steps: steps of the whole run.
        window: sums since the last line of the log, from the checkpoint.
        steps_per_call: at most so many steps between looks at signals and the progress bar.
        log_every: steps between ``train`` records.
        checkpoint_every: steps between calls of ``save``; the last step is always saved.
        evaluate_every: steps between calls of ``evaluate``; 0 for none; never after the last.
        save: takes step and window.
        evaluate: takes the step.
        watch: takes the step after every call; raises where the run must stop.
        log: takes records.

    Raises:
        Stopped: after SIGINT or SIGTERM, once the step is finished and saved.
        NonFiniteLoss: when the loss is infinite or not a number.
    """
    sums = list(window)
    step, saved = start, start
    images, since = 0.0, time.perf_counter()
    iterator, guarded = open_stream(start, False), False
    with StopRequest() as request:
        while step < steps:
            periods = [log_every, checkpoint_every, *([evaluate_every] if evaluate_every else [])]
            count = min(steps_per_call, steps - step, *(p - step % p for p in periods))
            rates = [schedule(step + index) for index in range(steps_per_call)]
            made, results, failure = train_function(iterator, rates, count, step)
            if failure:
                if guarded or not isinstance(failure, UNREADABLE):
                    data_gave_out = isinstance(failure, (*UNREADABLE, tf.errors.DataLossError))
                    if data_gave_out and step + made > saved:
                        # The data give out, and the steps made before are whole: keep them.
                        sums = [total + new for total, new in zip(sums, results, strict=True)]
                        save(step + made, sums)
                    raise failure
                iterator, guarded = open_stream(step + made, True), True
            if not math.isfinite(results[0]):
                raise NonFiniteLoss(
                    f"The loss is {results[0]} between steps {step} and {step + made} at a "
                    f"learning rate of {rates[0]:g}; the last checkpoint is of step {saved}. "
                    "Lower --learning_rate, or start more gently."
                )
            if not made:
                continue
            step += made
            sums = [total + new for total, new in zip(sums, results, strict=True)]
            images += results[2]
            loss, error = (total / max(sums[2], 1) for total in sums[:2])
            try:
                watch(step)
            except Exception:
                save(step, sums)  # whatever is wrong with the data, the steps made are whole
                raise
            log.progress(step, loss=f"{loss:.3f}", error=f"{100 * error:.1f}%")
            if step % log_every == 0 or step == steps:
                speed = images / (time.perf_counter() - since)
                log.write("train", step, loss=loss, error=error, learning_rate=rates[made - 1],
                          images_per_second=speed)  # fmt: skip
                sums, images, since = [0.0] * 3, 0.0, time.perf_counter()
            if step % checkpoint_every == 0 or step == steps or request.signal:
                save(step, sums)
                saved = step
            if request.signal and step < steps:
                raise Stopped(f"Stopped by {request.signal.name} after step {step:,} of {steps:,}.")
            if evaluate_every and step % evaluate_every == 0 and step < steps:
                paused = time.perf_counter()
                try:
                    evaluate(step)
                except Exception:
                    save(step, sums)
                    raise
                since += time.perf_counter() - paused
