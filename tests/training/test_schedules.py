import pytest

from resnet_keras.training.schedules import INITIAL, piecewise


def test_the_papers_schedule_runs_32k_16k_and_16k_iterations():
    schedule = piecewise(0.1, (32_000, 48_000))
    rates = [schedule(step, INITIAL) for step in range(64_000)]
    counts = [sum(abs(r - rate) < 1e-9 for r in rates) for rate in (0.1, 0.01, 0.001)]
    assert counts == [32_000, 16_000, 16_000]
    assert rates == sorted(rates, reverse=True)


def test_without_drops_the_rate_stays():
    assert piecewise(0.01, ())(10**6, INITIAL) == pytest.approx(0.01)
