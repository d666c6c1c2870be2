"""Learning rates by iteration: functions of the steps made and of what was seen on the way.

What was seen is a plain dict of numbers, the schedule's part of the loop's state, which every
checkpoint keeps; so a resumed run goes on with the rate it had.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence

State = dict[str, float]
# Takes the steps made before and the state, returns the rate of the next step.
Schedule = Callable[[int, Mapping[str, float]], float]

# Sec. 4.2: ResNet-110 trains at 0.01 "until the training error is below 80% (about 400
# iterations)"; here over the images of so many steps, and decided every so many steps.
WARMUP_WINDOW = 50

INITIAL: State = {
    "drops": 0,
    "best_error": math.inf,
    "evaluations_since_best": 0,
    "warm": 0,
    "warmup_wrong": 0,
    "warmup_images": 0,
}


def piecewise(learning_rate: float, drops: Sequence[int], factor: float = 0.1) -> Schedule:
    """Return a schedule that multiplies the rate by ``factor`` at each iteration of ``drops``.

    Iteration ``i`` (0-based) is the first with the lower rate where ``drops`` holds ``i``: with
    drops (32000, 48000) and 64,000 steps, 32,000 steps run at the first rate and 16,000 at each
    of the others (Sec. 4.2).
    """

    def schedule(step: int, state: Mapping[str, float]) -> float:
        return learning_rate * factor ** bisect.bisect_right(drops, step)

    return schedule


def plateau(learning_rate: float, factor: float = 0.1) -> Schedule:
    """Return a schedule that multiplies the rate by ``factor`` at each drop that the state counts.

    ``observe_evaluation`` counts them, "when the error plateaus" (Sec. 3.4).
    """

    def schedule(step: int, state: Mapping[str, float]) -> float:
        return learning_rate * factor ** int(state["drops"])

    return schedule


def cosine(learning_rate: float, steps: int, warmup_steps: int = 0) -> Schedule:
    """Return half a cosine from ``learning_rate`` after the warm-up to 0 at ``steps``.

    Loshchilov and Hutter, SGDR, without restarts; not the paper's.
    """

    def schedule(step: int, state: Mapping[str, float]) -> float:
        done = (step - warmup_steps) / max(steps - warmup_steps, 1)
        return learning_rate * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    return schedule


def linear_warmup(schedule: Schedule, steps: int) -> Schedule:
    """Return ``schedule`` with a ramp before it: (i + 1) / steps of its rate at iteration ``i``.

    Goyal et al., Accurate, Large Minibatch SGD, Sec. 2.2; not the paper's.
    """

    def ramp(step: int, state: Mapping[str, float]) -> float:
        return schedule(step, state) * min((step + 1) / steps, 1.0)

    return ramp


def warmup_until_learning(schedule: Schedule, learning_rate: float) -> Schedule:
    """Return ``schedule``, but ``learning_rate`` until ``observe_training`` calls the net warm.

    "We then go back to 0.1 and continue training" (Sec. 4.2): the schedule's own iterations
    count from the start.
    """

    def gentle(step: int, state: Mapping[str, float]) -> float:
        return schedule(step, state) if state["warm"] else learning_rate

    return gentle


def observe_evaluation(
    state: Mapping[str, float], error: float, *, patience: int, threshold: float, max_drops: int
) -> State:
    """Return the state after an evaluation: one drop more where the error has stopped improving.

    Args:
        state: before it.
        error: top-1 error, in 0..1.
        patience: evaluations in a row without improvement that make a plateau.
        threshold: what counts as an improvement on the best error so far, in 0..1.
        max_drops: no more drops than that.
    """
    after = dict(state)
    if error <= state["best_error"] - threshold:
        after["best_error"], after["evaluations_since_best"] = error, 0
        return after
    after["evaluations_since_best"] += 1
    if after["evaluations_since_best"] >= patience and state["drops"] < max_drops:
        after["drops"] += 1
        after["evaluations_since_best"] = 0
    return after


def observe_training(
    state: Mapping[str, float], step: int, wrong: float, images: float, *, until_error: float
) -> State:
    """Return the state after a step of the warm-up.

    Args:
        state: before it.
        step: steps made, this one included.
        wrong: images of this step that were answered wrongly.
        images: images of this step.
        until_error: the training error, in 0..1, below which the net is warm.
    """
    after = dict(state)
    after["warmup_wrong"] += wrong
    after["warmup_images"] += images
    if step % WARMUP_WINDOW == 0:
        after["warm"] = float(after["warmup_wrong"] < until_error * after["warmup_images"])
        after["warmup_wrong"] = after["warmup_images"] = 0
    return after
