"""The training loop: calls of several steps, and between them log, checkpoints and evaluations."""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from resnet_keras.training.logs import Log
from resnet_keras.training.schedules import WARMUP_WINDOW, Schedule, State
from resnet_keras.training.signals import Stopped, StopRequest
from resnet_keras.training.step import Steps
from resnet_keras.training.strategy import peak_memory

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
# Seconds that a call of several steps may take: a signal is heard and the bar moves after each.
CALL_SECONDS = 5.0


class NonFiniteLoss(ArithmeticError):
    """Loss or weights are infinite or not a number; the last checkpoint is still good."""


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
        train_function: of ``step.make_train_function``.
        open_stream: takes a step and whether to guard against unreadable images; returns the
            stream that stands there. Good data never pays for the guard: the stream is opened
            with it at the step where the first error came.
        schedule: (step, state) -> learning rate.
        state: of loop and schedule, from the checkpoint or ``INITIAL`` of both.
        start: steps made before, from the checkpoint.
        steps: steps of the whole run.
        steps_per_call: at most so many steps between looks at signals and the progress bar; fewer
            where they would take longer than ``CALL_SECONDS``, unless workers must agree on them.
        log_every: steps between ``train`` records.
        checkpoint_every: steps between calls of ``save``; the last step is always saved.
        evaluate_every: steps between calls of ``evaluate``; 0 for none but after the last.
        save: takes step and state.
        finite: tells whether all weights are finite; asked before every ``save``.
        evaluate: takes the step, and the request to stop, by which it may end early; returns
            metrics.
        observe_training: takes state, steps made, wrong answers and images of a step, as long as
            the state is not warm; None without such a warm-up.
        observe_evaluation: takes state, step and metrics.
        watch: takes the step after every call, and that of a run which is finished already; raises
            where the run must stop.
        log: takes records.
        pauses: steps at which a call ends and ``at_pause`` is called with the step.
        at_pause: starts and stops the profiler, for instance.
        alone: whether ``save`` needs no other worker. Where it does, a worker in trouble asks
            the others to stop at the next step, and raises after the ``save`` there, or after the
            last step's.

    Returns:
        The metrics of the last evaluation, after the last step.

    Raises:
        Stopped: after SIGINT or SIGTERM, once the step is finished and saved, or the last
            evaluation made.
        NonFiniteLoss: when the loss is infinite or not a number; the last checkpoint is still good.
    """
    state = dict(state)
    losses: collections.deque[float] = collections.deque(maxlen=LAST_LOSSES)
    step, saved = start, start
    trouble: Exception | None = None
    rate = schedule(step - 1, state) if step else 0.0  # of the last step
    pace = 0.0  # seconds a step of the last call
    clock = _Clock()

    def give_up(broken: int, what: str) -> NonFiniteLoss:
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
            with clock.paused(saving=True):
                save(step, state | {"records": log.records})
            saved = step

    def stopped() -> Stopped:
        return Stopped(f"Stopped {request.told} after step {step:,} of {steps:,}.")

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
        told = {"learning_rate": rate, **clock.figures(), "peak_memory": peak_memory()}
        log.write("train", step, loss=loss, error=error, **told)
        state.update(loss=0, wrong=0, images=0)
        clock.reset()

    def due(period: int) -> bool:
        return bool(period) and step % period == 0

    with StopRequest() as request:
        if start >= steps:
            watch(start)
        elif start and due(evaluate_every):
            evaluated()
        iterator, guarded = (open_stream(start, False), False) if start < steps else (None, False)
        while step < steps:
            at_pause(step)
            ends = [p - step % p for p in (log_every, checkpoint_every, evaluate_every) if p]
            ends += [pause - step for pause in pauses if pause > step]
            warming = None if state["warm"] else observe_training
            if warming:
                ends.append(WARMUP_WINDOW - step % WARMUP_WINDOW)
            if alone and pace:
                ends.append(max(1, int(CALL_SECONDS / pace)))
            count = min(steps_per_call, steps - step, *ends)
            rates = [schedule(step + index, state) for index in range(steps_per_call)]
            stop = bool(request.signal or trouble)
            began = time.perf_counter()
            call = train_function(iterator, rates, count, step, stop)
            pace = (time.perf_counter() - began) / max(call.made, 1)
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
                raise trouble or stopped()
            if evaluating:
                evaluated()
        if trouble:
            raise trouble
        at_pause(step)
        # After the last checkpoint, so that a longer run that goes on from it has no such line.
        if state["images"]:
            write_line()
        metrics = evaluated()
        if request.signal:  # what comes after the training is for the next start
            raise stopped()
        return metrics


class _Clock:
    """Measure images a second and the share of waiting for input, without the pauses.

    Of the pauses, those that wrote checkpoints are added up; evaluations are told by their own.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._since, self._images, self._waited = time.perf_counter(), 0.0, 0.0
        self._saving = 0.0

    def count(self, call: Steps) -> None:
        self._images += sum(images for _, _, images in call.sums)
        self._waited += call.waited

    @contextlib.contextmanager
    def paused(self, *, saving: bool = False) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self._since += took
        self._saving += took if saving else 0.0

    @property
    def images_per_second(self) -> float:
        return self._images / (time.perf_counter() - self._since)

    def figures(self) -> dict[str, float]:
        """Return what a line of the log tells; nothing if nothing was done since the last one."""
        if not self._images:
            return {}
        waited = self._waited / (time.perf_counter() - self._since)
        saving = {"saving": self._saving} if self._saving else {}
        return {"images_per_second": self.images_per_second, "input_wait": waited, **saving}
