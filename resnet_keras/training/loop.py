"""The custom training loop: several steps in one tf.function, on any strategy; no Keras fit."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from resnet_keras.training.logs import Log
from resnet_keras.training.optimizers import LossScale, MomentumSGD, all_finite
from resnet_keras.training.schedules import WARMUP_WINDOW, Schedule, State
from resnet_keras.training.signals import Stopped, StopRequest

# What TensorFlow raises at an image that cannot be found, opened or decoded.
UNREADABLE = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
# The loop's own part of the state that a checkpoint keeps: sums since the last line of the log,
# and the lines it had.
INITIAL: State = {"loss": 0, "wrong": 0, "images": 0, "records": 0}
LAST_LOSSES = 5  # told when the loss is no number


class NonFiniteLoss(ArithmeticError):
    """Loss or weights are infinite or not a number; the last checkpoint is still good."""


class Steps(NamedTuple):
    """What one call of the compiled loop did.

    made: whole steps. sums: of each, [cross-entropy, wrong answers, weights] over its images.
    waited: seconds without a batch. stop: whether any worker asked to stop. failure: the error
    that ended the call early, if the iterator raised one.
    """

    made: int
    sums: list[list[float]]
    waited: float
    stop: bool
    failure: tf.errors.OpError | None


def make_train_function(
    model: keras.Model,
    optimizer: MomentumSGD,
    strategy: tf.distribute.Strategy,
    *,
    batch_size: int,
    seed: int,
    steps_per_call: int,
    accumulation_steps: int = 1,
    loss_scale: LossScale | None = None,
    forward: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> Callable[..., Steps]:
    """Return a function that makes several steps in one compiled call.

    The function takes an iterator of ``{"image", "label", "weight"}`` batches, the learning rates
    of the next ``steps_per_call`` steps or more, of which it uses the first ``count``, that
    ``count``, the number of steps made before, and whether this worker wants to stop. It returns
    ``Steps``. The cross-entropy is without the decay term, which the optimizer adds to the
    gradient. Every step waits for the one before, so a failing iterator leaves whole steps.

    Args:
        model: returns logits.
        optimizer: built inside the strategy's scope.
        strategy: runs the replicas.
        batch_size: global, in images.
        seed: of dropout.
        steps_per_call: at most so many steps in one call.
        accumulation_steps: parts of a replica's batch whose gradients are added up, one part in
            memory at a time; each has batch-norm statistics of its own, as a device has.
        loss_scale: for float16, made inside the strategy's scope.
        forward: images -> logits in training mode, instead of the model's own.
    """
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    variables = [variable.value for variable in model.trainable_variables]
    replicas = strategy.num_replicas_in_sync
    forward = forward or (lambda images: model(images, training=True))
    sums = tf.Variable(tf.zeros([steps_per_call, 4]))  # of each step; the last column: stop
    made, waited = tf.Variable(0), tf.Variable(0.0, dtype=tf.float64)

    def gradients_and_sums(
        batch: dict[str, tf.Tensor], mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        # Dropout's state is set, not advanced: masks depend on seed, layer, step, replica and
        # part only, so a resumed run draws the same ones and replicas draw different ones.
        for index, layer in enumerate(dropouts):
            state = layer.seed_generator.state
            state.assign(tf.stack([seed + index * 2**16, tf.cast(mask, state.dtype)]))
        with tf.GradientTape() as tape:
            logits = tf.cast(forward(batch["image"]), tf.float32)
            losses = batch["weight"] * tf.nn.sparse_softmax_cross_entropy_with_logits(
                batch["label"], logits
            )
            loss = tf.reduce_sum(losses) / batch_size
            if loss_scale:
                loss *= loss_scale.factor
        gradients = tape.gradient(loss, variables)
        answers = tf.argmax(logits, axis=-1, output_type=batch["label"].dtype)
        wrong = batch["weight"] * tf.cast(answers != batch["label"], tf.float32)
        return gradients, tf.stack([tf.reduce_sum(x) for x in (losses, wrong, batch["weight"])])

    def accumulated(
        batch: dict[str, tf.Tensor], mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        parts = {
            name: tf.reshape(part, [accumulation_steps, -1, *part.shape[1:]])
            for name, part in batch.items()
        }
        totals = [tf.zeros(variable.shape) for variable in variables]
        total = tf.zeros(3)
        for part in tf.range(accumulation_steps):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            found, seen = gradients_and_sums(
                {name: value[part] for name, value in parts.items()},
                mask * accumulation_steps + tf.cast(part, mask.dtype),
            )
            totals = [old + new for old, new in zip(totals, found, strict=True)]
            total += seen
        return totals, total

    def step(
        batch: dict[str, tf.Tensor], number: tf.Tensor, rate: tf.Tensor, stop: tf.Tensor
    ) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        mask = tf.cast(number, tf.int64) * replicas + tf.cast(
            context.replica_id_in_sync_group, tf.int64
        )
        if accumulation_steps > 1:
            gradients, seen = accumulated(batch, mask)
        else:
            gradients, seen = gradients_and_sums(batch, mask)
        # One reduction for everything: among workers each one costs a round trip.
        *gradients, seen = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [*gradients, tf.concat([seen, [stop]], 0)]
        )
        if loss_scale is None:
            optimizer.apply(gradients, rate)
        else:
            gradients = [gradient / loss_scale.factor for gradient in gradients]
            finite = all_finite(gradients)
            tf.cond(finite, lambda: optimizer.apply(gradients, rate), lambda: None)
            loss_scale.update(finite)
        return seen

    @tf.function
    def compiled(
        iterator: tf.data.Iterator,
        rates: tf.Tensor,
        count: tf.Tensor,
        first: tf.Tensor,
        stop: tf.Tensor,
    ) -> None:
        made.assign(0)
        waited.assign(0.0)
        for index in tf.range(count):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited.assign_add(tf.timestamp() - asked)
            seen = strategy.run(step, args=(batch, first + index, rates[index], stop))
            seen = strategy.experimental_local_results(seen)[0]
            with tf.control_dependencies([sums.scatter_nd_update([[index]], [seen])]):
                made.assign_add(1)

    def train_function(
        iterator: tf.data.Iterator,
        rates: Sequence[float],
        count: int,
        first: int,
        stop: bool = False,
    ) -> Steps:
        failure = None
        try:
            compiled(
                iterator,
                tf.constant(rates, tf.float32),
                tf.constant(count),
                tf.constant(first),
                tf.constant(float(stop)),
            )
        except tf.errors.OpError as error:
            failure = error
        steps = int(made.numpy())
        rows = sums.numpy()[:steps].tolist()
        stopping = bool(rows) and rows[-1][3] > 0
        return Steps(steps, [row[:3] for row in rows], float(waited.numpy()), stopping, failure)

    return train_function


def train(
    train_function: Callable[..., Steps],
    open_stream: Callable[[int, bool], tf.data.Iterator],
    *,
    schedule: Schedule,
    state: State,
    start: int,
    steps: int,
    steps_per_call: int,
    log_every: int,
    checkpoint_every: int,
    evaluate_every: int,
    save: Callable[[int, State], None],
    finite: Callable[[], bool],
    restore: Callable[[], object],
    evaluate: Callable[[int, StopRequest], dict[str, float]],
    observe_training: Callable[[State, int, float, float], State] | None,
    observe_evaluation: Callable[[State, int, dict[str, float]], State],
    watch: Callable[[int], None],
    log: Log,
    pauses: Sequence[int] = (),
    at_pause: Callable[[int], None] = lambda step: None,
    alone: bool = True,
) -> dict[str, float]:
    """Train from step ``start`` to ``steps``, saving, evaluating and logging on the way.

    A checkpoint is always written before an evaluation, and an evaluation that a kill cuts short
    is made anew by the resumed run: what comes after a checkpoint follows from it alone.

    Args:
        train_function: of ``make_train_function``.
        open_stream: takes a step and whether to guard against unreadable images; returns the
            stream that stands there. Good data never pays for the guard: the stream is opened
            with it at the step where the first error came.
        schedule: (step, state) -> learning rate.
        state: of loop and schedule, from the checkpoint or ``INITIAL`` of both.
        start: steps made before, from the checkpoint.
        steps: steps of the whole run.
        steps_per_call: at most so many steps between looks at signals and the progress bar.
        log_every: steps between ``train`` records.
        checkpoint_every: steps between calls of ``save``; the last step is always saved.
        evaluate_every: steps between calls of ``evaluate``; 0 for none but after the last.
        save: takes step and state.
        finite: tells whether all weights are finite; asked before every ``save``.
        restore: reads the last checkpoint.
        evaluate: takes the step, and the request to stop, by which it may end early; returns
            metrics.
        observe_training: takes state, steps made, wrong answers and images of a step, as long as
            the state is not warm; None without such a warm-up.
        observe_evaluation: takes state, step and metrics.
        watch: takes the step after every call; raises where the run must stop.
        log: takes records.
        pauses: steps at which a call ends and ``at_pause`` is called with the step.
        at_pause: starts and stops the profiler, for instance.
        alone: whether ``save`` needs no other worker. Where it does, a worker in trouble asks
            the others to stop at the next step, and raises after the ``save`` there.

    Returns:
        The metrics of the last evaluation, after the last step.

    Raises:
        Stopped: after SIGINT or SIGTERM, once the step is finished and saved.
        NonFiniteLoss: when the loss is infinite or not a number; the last checkpoint is restored.
    """
    state = dict(state)
    losses: collections.deque[float] = collections.deque(maxlen=LAST_LOSSES)
    step, saved = start, start
    trouble: Exception | None = None
    rate = schedule(step - 1, state) if step else 0.0  # of the last step
    clock = _Clock()

    def give_up(broken: int, what: str) -> NonFiniteLoss:
        restore()
        told = ", ".join(f"{loss:.4g}" for loss in losses) or "none yet"
        where = (
            f"the checkpoint of step {saved:,}" if saved else "the start: there is no checkpoint"
        )
        return NonFiniteLoss(
            f"The {what} of step {broken:,} is not finite, at a learning rate of "
            f"{schedule(broken - 1, state):g}; the last losses before it: {told}. The run is back "
            f"at {where}. Lower --learning_rate, or start more gently (--warmup_steps)."
        )

    def keep() -> None:
        nonlocal saved
        if step > saved:
            if not finite():
                raise give_up(step, "update")
            with clock.paused():
                save(step, state | {"records": log.records})
            saved = step

    def evaluated() -> dict[str, float]:
        nonlocal state
        with clock.paused():
            metrics = evaluate(step, request)
            state = observe_evaluation(state, step, metrics)
        return metrics

    def means() -> list[float]:
        return [state[name] / max(state["images"], 1) for name in ("loss", "wrong")]

    def write_line() -> None:
        loss, error = means()
        log.write("train", step, loss=loss, error=error, learning_rate=rate, **clock.figures())
        state.update(loss=0, wrong=0, images=0)
        clock.reset()

    def due(period: int) -> bool:
        return bool(period) and step % period == 0

    with StopRequest() as request:
        if 0 < start < steps and due(evaluate_every):
            evaluated()
        iterator, guarded = (open_stream(start, False), False) if start < steps else (None, False)
        while step < steps:
            at_pause(step)
            ends = [p - step % p for p in (log_every, checkpoint_every, evaluate_every) if p]
            ends += [pause - step for pause in pauses if pause > step]
            warming = None if state["warm"] else observe_training
            if warming:
                ends.append(WARMUP_WINDOW - step % WARMUP_WINDOW)
            count = min(steps_per_call, steps - step, *ends)
            rates = [schedule(step + index, state) for index in range(steps_per_call)]
            stop = bool(request.signal or trouble)
            call = train_function(iterator, rates, count, step, stop)
            for index, (loss, wrong, images) in enumerate(call.sums):
                if not math.isfinite(loss):
                    raise give_up(step + index + 1, "loss")
                losses.append(loss / max(images, 1))
                state["loss"] += loss
                state["wrong"] += wrong
                state["images"] += images
                if warming:
                    state = warming(state, step + index + 1, wrong, images)
            step += call.made
            rate = rates[max(call.made - 1, 0)]
            clock.count(call)
            if call.failure:
                if guarded or not isinstance(call.failure, UNREADABLE):
                    if alone and isinstance(call.failure, (*UNREADABLE, tf.errors.DataLossError)):
                        keep()  # the data give out, and the steps made before are whole
                    raise call.failure
                iterator, guarded = open_stream(step, True), True
            if not call.made:
                continue
            try:
                watch(step)
            except Exception as problem:
                if alone:
                    keep()  # whatever is wrong with the data, the steps made are whole
                    raise
                trouble = problem
            loss, error = means()
            log.progress(step, loss, error, clock.images_per_second)
            if due(log_every):
                write_line()
            evaluating = due(evaluate_every) and step < steps
            if due(checkpoint_every) or evaluating or step == steps or call.stop:
                keep()
            if call.stop and step < steps:
                raise trouble or Stopped(
                    f"Stopped {request.told} after step {step:,} of {steps:,}."
                )
            if evaluating:
                evaluated()
        at_pause(step)
        # After the last checkpoint, so that a longer run that goes on from it has no such line.
        if state["images"]:
            write_line()
        return evaluated()


class _Clock:
    """Measure images a second and the share of waiting for input, without the pauses."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._since, self._images, self._waited = time.perf_counter(), 0.0, 0.0

    def count(self, call: Steps) -> None:
        self._images += sum(images for _, _, images in call.sums)
        self._waited += call.waited

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._since)

    def figures(self) -> dict[str, float]:
        """Return what a line of the log tells; nothing if nothing was done since the last one."""
        if not self._images:
            return {}
        waited = self._waited / (time.perf_counter() - self._since)
        return {"images_per_second": self.images_per_second, "input_wait": waited}
