"""A line of stages into a step: the recurrence and the events agree, and both are what closed forms of queues say."""

from __future__ import annotations

import numpy as np
import pytest

from feed_by_hand import unlike_lines
from parsim.feed.closed_forms import dm1k_stall, mm1k_stall, steady_stall_ps
from parsim.feed.events import play
from parsim.feed.jitter import draw
from parsim.feed.line import pass_through
from support import tiered

SLOW_LINES = [pytest.param(0.7, 2, marks=pytest.mark.slow), pytest.param(1.4, 5, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", [range(60), tiered(range(60, 2000), "many", slow=True)])
def test_events_and_recurrence_begin_each_step_at_the_same_picosecond(seeds: range) -> None:
    assert not unlike_lines(seeds)


@pytest.mark.parametrize("run", [pass_through, play])
@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_where_nothing_varies_a_step_waits_for_the_slowest_stage_and_without_places_for_all(run, prefetch: int) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(prefetch)
    for _ in range(20):
        stages, step = rng.integers(1, 50, int(rng.integers(1, 5))).tolist(), int(rng.integers(1, 50))
        found = run([[each] * 90 for each in stages], [step] * 90, prefetch)
        assert found.stall_ps(80) == steady_stall_ps(stages, step, prefetch)  # the places are full or empty after 80 batches
        assert found.begins_ps[0] == sum(stages)


def test_a_line_by_hand() -> None:
    """Stages of 5 and 2, a step of 4, one place: the first stage binds, so that a step begins every 5, from 7 on."""
    assert pass_through([[5] * 4, [2] * 4], [4] * 4, 1).begins_ps == (7, 12, 17, 22)
    # The step binds: batch 3 is made at 3 + 1, waits behind its stage until batch 2 is taken up at 10, and begins at 20.
    assert pass_through([[1] * 4], [10] * 4, 1).begins_ps == (1, 11, 21, 31)


# The mean time between steps is within 1 % where the mean of 60,000 of them is: its deviation is some 1 / sqrt(60,000) of a step.
@pytest.mark.parametrize(("stage", "prefetch"), [(1.0, 1), *SLOW_LINES])
def test_exponential_stage_and_step_wait_as_mm1k_says(stage: float, prefetch: int) -> None:
    made, steps = draw([round(stage * 1e6), 10**6], 1.0, seed=3, count=60_000)
    expected = 1e6 + mm1k_stall(stage, 1.0, prefetch) * 1e6
    assert np.mean(steps) + pass_through([made], steps, prefetch).stall_ps(500) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("stage", "prefetch"), [(1.0, 1), *SLOW_LINES])
def test_an_exponential_stage_before_a_steady_step_waits_as_the_chain_says(stage: float, prefetch: int) -> None:
    made = draw([round(stage * 1e6)], 1.0, seed=4, count=60_000)
    expected = 1.0 + dm1k_stall(stage, 1.0, prefetch)
    assert 1.0 + pass_through(made, [10**6] * 60_000, prefetch).stall_ps(500) / 1e6 == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_events_of_exponential_times_wait_as_mm1k_says() -> None:
    made, steps = draw([10**6, 10**6], 1.0, seed=5, count=60_000)
    found = play([made], steps, 2).stall_ps(500)
    assert np.mean(steps) + found == pytest.approx(1e6 * (1 + mm1k_stall(1.0, 1.0, 2)), rel=0.01)


def test_the_chain_of_one_place_by_hand() -> None:
    """Just after a step began nothing or one batch is ready; r = 1, e = exp(-1): up with 1 - 2 e, down with e, a wait of 1 with e."""
    e = np.exp(-1.0)
    nothing = e / (e + 1 - 2 * e)
    assert dm1k_stall(1.0, 1.0, 1) == pytest.approx(nothing * e, rel=1e-12)  # a least-squares solve of 2 unknowns


def test_mm1k_of_one_place_by_hand() -> None:
    """K = 3, r = 2: p0 = (1 - 2) / (1 - 16) = 1/15, which is 1/14 of the time that steps take."""
    assert mm1k_stall(0.5, 1.0, 1) == pytest.approx(1 / 14, rel=1e-12)


def test_times_vary_as_stated_and_their_mean_does_not() -> None:
    (times,) = draw([10**9], 0.5, seed=1, count=40_000)
    assert np.mean(times) == pytest.approx(1e9, rel=0.01)  # 0.5 / sqrt(40,000) is 0.25 %
    assert np.std(times) / np.mean(times) == pytest.approx(0.5, rel=0.02)
