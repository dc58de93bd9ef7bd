"""ZB-H1 against the paper's table: its bubble, a third of 1F1B's where all phases take as long, and 1F1B's micro_batches in flight."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from parsim.schedules import SCHEDULES, Action, Phase, Schedule, fault, find, in_turn
from parsim.schedules.zero_bubble_h1 import ZeroBubbleH1
from schedule_orders import actions_of, as_text, in_order, needs, states_of

SHAPES = [(1, 1), (1, 3), (2, 2), (2, 5), (3, 3), (4, 4), (4, 9), (8, 8), (8, 13)]
FEW = [(2, 1), (4, 1), (4, 3), (8, 5)]  # fewer micro_batches than ranks


def step_time(name: str, p: int, m: int, takes: dict[Phase, int]) -> int:
    """The end of the last action, where each takes the time of its phase and messages none: a longest path from the actions alone."""
    end: dict[Action, int] = {}
    free = [0] * p
    for action in in_order(name, p, 1, m):
        rank = find(name, p).rank_of(action.stage, p)
        end[action] = free[rank] = max([free[rank], *(end[each] for each in needs(action, p))]) + takes[action.phase]
    return max(end.values())


def bubble(name: str, p: int, m: int, forward: int, inputs: int, weights: int) -> int:
    takes = {Phase.F: forward, Phase.B: inputs + weights, Phase.I: inputs, Phase.W: weights}
    return step_time(name, p, m, takes) - m * (forward + inputs + weights)


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_the_bubble_is_a_third_of_that_of_1f1b_where_all_phases_take_as_long(p: int, m: int) -> None:
    """Qi et al. 2023, table 2: (p - 1)(T_F + T_B + T_W) and (p - 1)(T_F + T_B - T_W)."""
    assert bubble("1f1b", p, m, 5, 5, 5) == (p - 1) * 15
    assert bubble("zero_bubble_h1", p, m, 5, 5, 5) == (p - 1) * 5


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_the_bubble_is_that_of_the_paper_as_long_as_weights_take_least(p: int, m: int) -> None:
    """Longer weight gradients no longer fit where they fill the bubble: T_W then counts as the shorter of T_F and T_B."""
    for forward, inputs, weights in itertools.product((1, 2, 3, 5), repeat=3):
        assert bubble("1f1b", p, m, forward, inputs, weights) == (p - 1) * (forward + inputs + weights)
        filled = min(weights, forward, inputs)
        assert bubble("zero_bubble_h1", p, m, forward, inputs, weights) == (p - 1) * (forward + inputs - filled)


@pytest.mark.parametrize(("p", "m"), [*SHAPES, *FEW])
def test_as_many_micro_batches_are_in_flight_as_in_1f1b_at_most(p: int, m: int) -> None:
    """Table 2: the peak is 1F1B's, p micro_batches; section 2.3: (p - i + 1) M_B + (i - 1) M_W on rank i, counted from 1."""
    whole, split = (states_of(name, p, 1, m) for name in ("1f1b", "zero_bubble_h1"))
    for rank in range(p):
        holds = [in_flight for in_flight, *_ in split[rank]]
        assert max(map(sum, holds)) == min(p, m)
        assert m < p or (p - rank, rank) in map(tuple, holds)
        assert max(of_inputs for of_inputs, _ in holds) == min(p - rank, m) == max(sum(in_flight) for in_flight, *_ in whole[rank])
        assert max(of_weights for _, of_weights in holds) == min(rank + 1, m)


@pytest.mark.parametrize("p", range(1, 7))
def test_any_number_of_micro_batches_runs(p: int) -> None:
    for m in range(1, 20):
        assert fault("zero_bubble_h1", p, 1, m) is None
        assert fault(as_text("zero_bubble_h1", p, 1, m), p, 1, m) is None
    assert "runs one chunk" in str(fault("zero_bubble_h1", p, 2))


def test_the_order_is_that_of_the_papers_figure() -> None:
    """Figure 3, top, the first and the last of 4 ranks."""
    first, *_, last = actions_of("zero_bubble_h1", 4, 1, 8)
    assert " ".join(map(str, first[:10])) == "0F0 0F1 0F2 0F3 0I0 0W0 0F4 0I1 0W1 0F5"
    assert " ".join(map(str, last[:12])) == "3F0 3I0 3F1 3I1 3F2 3I2 3F3 3I3 3W0 3F4 3I4 3W1"
    assert " ".join(map(str, last[-4:])) == "3W4 3W5 3W6 3W7"


class Lagging(ZeroBubbleH1):
    """The mutant: weight gradients some micro_batches sooner or later."""

    arrays = Schedule.arrays

    def __init__(self, lag: int) -> None:
        self.lag = lag

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        indices, numbers = in_turn(num_micro_batches, (rank + 1 - num_ranks, 0, max(0, rank + self.lag)))
        return (Action(rank, self.phases[index], int(m)) for index, m in zip(indices, numbers, strict=True))


def test_weight_gradients_a_micro_batch_sooner_cost_time_and_later_cost_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both statements above can fail."""
    monkeypatch.setattr(SCHEDULES, "_values", {**SCHEDULES._values, "sooner": Lagging(-1), "later": Lagging(1)})
    assert bubble("sooner", 4, 9, 5, 5, 5) > (4 - 1) * 5
    assert max(sum(in_flight) for in_flight, *_ in states_of("later", 4, 1, 9)[0]) == 4 + 1
