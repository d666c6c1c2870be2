import pytest

from resnet_keras import command_line, train_job
from resnet_keras.training.schedules import (
    INITIAL,
    cosine,
    linear_warmup,
    observe_evaluation,
    observe_training,
    piecewise,
    plateau,
    warmup_until_learning,
)


def test_the_papers_schedule_runs_32k_16k_and_16k_iterations():
    schedule = piecewise(0.1, (32_000, 48_000))
    rates = [schedule(step, INITIAL) for step in range(64_000)]
    counts = [sum(abs(r - rate) < 1e-9 for r in rates) for rate in (0.1, 0.01, 0.001)]
    assert counts == [32_000, 16_000, 16_000]
    assert rates == sorted(rates, reverse=True)


def test_without_drops_the_rate_stays():
    assert piecewise(0.01, ())(10**6, INITIAL) == pytest.approx(0.01)


def _drops(errors, **changed):
    """Return the number of drops after each evaluation."""
    state, counts = dict(INITIAL), []
    rule = {"patience": 5, "threshold": 0.001, "max_drops": 3} | changed
    for error in errors:
        state = observe_evaluation(state, error, **rule)
        counts.append(state["drops"])
    return counts


def test_the_rate_drops_after_five_evaluations_without_a_tenth_of_a_point():
    # 0.2995 is half a tenth of a point better than 0.3: no improvement.
    assert _drops([0.5, 0.3, 0.2995, 0.31, 0.2995, 0.3, 0.3]) == [0] * 6 + [1]
    # An improvement starts the count anew.
    assert _drops([0.3, 0.3, 0.3, 0.3, 0.3, 0.299, 0.3, 0.3, 0.3, 0.3, 0.3])[-2:] == [0, 1]


def test_after_a_drop_the_count_starts_anew_and_there_are_three_at_most():
    counts = _drops([0.3] * 40)
    assert [counts.index(n) for n in (1, 2, 3)] == [5, 10, 15]
    assert counts[-1] == 3
    assert _drops([0.3] * 40, max_drops=1, patience=2)[-1] == 1


def test_the_plateau_schedule_divides_by_ten_at_each_drop():
    schedule = plateau(0.1)
    rates = [schedule(10**5, INITIAL | {"drops": n}) for n in range(4)]
    assert rates == pytest.approx([0.1, 0.01, 0.001, 0.0001])


def test_resnet_110_warms_up_until_its_training_error_passes_80_percent():
    """Sec. 4.2: 0.01 until the training error is below 80 %, then 0.1; drops at 32k and 48k."""
    schedule = warmup_until_learning(piecewise(0.1, (32_000, 48_000)), 0.01)
    state = dict(INITIAL)
    rates = []
    for step in range(1, 251):
        rates.append(schedule(step - 1, state))
        if not state["warm"]:
            # 90 % wrong in the first 120 steps, 70 % from then on, of 128 images.
            wrong = 128 * (0.9 if step <= 120 else 0.7)
            state = observe_training(state, step, wrong, 128, until_error=0.8)
    # Of steps 101 to 150, 20 are at 90 % and 30 at 70 %: 78 %.
    assert rates.index(0.1) == 150
    assert set(rates[:150]) == {0.01}
    assert schedule(40_000, state) == pytest.approx(0.01)


def test_the_warm_up_decides_at_fixed_steps_whatever_went_before():
    state = dict(INITIAL)
    for step in range(1, 50):
        state = observe_training(state, step, 0, 128, until_error=0.8)
        assert not state["warm"]
    assert observe_training(state, 50, 0, 128, until_error=0.8)["warm"]


def test_the_cosine_goes_from_the_rate_to_zero_after_a_linear_ramp():
    schedule = linear_warmup(cosine(0.4, 110, 10), 10)
    assert [schedule(step, INITIAL) for step in (0, 4, 9)] == pytest.approx([0.04, 0.2, 0.4])
    assert schedule(60, INITIAL) == pytest.approx(0.2)  # half way
    assert schedule(35, INITIAL) == pytest.approx(0.4 * (1 + 2**-0.5) / 2)  # 45 degrees
    assert schedule(110, INITIAL) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ("cosine --train_steps=110", {(0, 0): 0.4, (55, 0): 0.2, (110, 0): 0}),
        (
            "cosine --train_steps=110 --warmup_steps=10",
            {(0, 0): 0.04, (4, 0): 0.2, (9, 0): 0.4, (60, 0): 0.2, (110, 0): 0},
        ),
        (
            "piecewise --lr_drops=6,8 --warmup_steps=4",
            {(0, 0): 0.1, (3, 0): 0.4, (5, 0): 0.4, (6, 0): 0.04, (8, 0): 0.004},
        ),
        ("plateau --warmup_steps=4", {(0, 0): 0.1, (3, 0): 0.4, (9, 2): 0.004}),
    ],
)
def test_the_flags_decide_the_rate(flags, rates):
    """Of a step, after so many drops."""
    arguments = f"--dataset=digits --learning_rate=0.4 --lr_schedule={flags}".split()
    schedule = train_job._schedule(command_line.read(arguments))
    found = {(step, drops): schedule(step, INITIAL | {"drops": drops}) for step, drops in rates}
    assert found == pytest.approx(rates, abs=1e-12)


def test_the_flags_decide_the_rate_before_and_after_learning_begins():
    flags = "--lr_drops=9 --lr_schedule=piecewise --warmup_until_error=0.8"
    arguments = f"--dataset=digits --learning_rate=0.4 --warmup_learning_rate=0.07 {flags}".split()
    schedule = train_job._schedule(command_line.read(arguments))
    assert [schedule(step, INITIAL) for step in (0, 9)] == pytest.approx([0.07, 0.07])
    warm = INITIAL | {"warm": 1}
    assert [schedule(step, warm) for step in (0, 9)] == pytest.approx([0.4, 0.04])
