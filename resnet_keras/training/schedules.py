"""Learning rates by iteration: pure functions of the number of steps already made."""

import bisect
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def piecewise(learning_rate: float, drops: Sequence[int], factor: float = 0.1) -> Schedule:
    """Return a schedule that multiplies the rate by ``factor`` at each iteration of ``drops``.

    Iteration ``i`` (0-based) is the first with the lower rate where ``drops`` holds ``i``: with
    drops (32000, 48000) and 64,000 steps, 32,000 steps run at the first rate and 16,000 at each
    of the others (Sec. 4.2).
    """

    def schedule(step: int) -> float:
        return learning_rate * factor ** bisect.bisect_right(drops, step)

    return schedule
