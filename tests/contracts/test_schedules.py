"""What every registered schedule must pass, before anybody writes a test for it."""

from __future__ import annotations

import pytest

from parsim import schedules
from parsim.errors import ScheduleError
from parsim.schedules import SCHEDULES, Action, checked, memory_states, ordered

SHAPES = [(p, v, rounds * p) for p in (1, 2, 3, 4, 8) for v in (1, 2, 3) for rounds in (1, 2, 3, 5)]


def shapes(name: str) -> list[tuple[int, int, int]]:
    return [shape for shape in SHAPES if (shape[1] == 1) == (name != "interleaved_1f1b") and (shape[0] > 1 or shape[1] == 1)]


@pytest.mark.parametrize("name", schedules.names())
def test_every_micro_batch_goes_forward_before_it_goes_backward_and_no_rank_waits_for_ever(name: str) -> None:
    for p, v, m in shapes(name):
        order = ordered(name, p, v, m)
        place = {action: index for index, action in enumerate(order.overall)}
        assert len(place) == 2 * p * v * m
        for stage in range(p * v):
            for micro_batch in range(m):
                assert place[Action(stage, "F", micro_batch)] < place[Action(stage, "B", micro_batch)]


@pytest.mark.parametrize("name", schedules.names())
def test_a_few_rounds_show_every_memory_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {shape: memory_states(name, *shape) for shape in [(p, v, 9 * p) for p, v, _ in shapes(name)]}
    monkeypatch.setattr(type(SCHEDULES.get(name)), "steady_rounds", 100)
    memory_states.cache_clear()
    for shape, states in few.items():
        assert memory_states(name, *shape) == states, shape
    memory_states.cache_clear()


def test_a_schedule_that_deadlocks_is_drawn() -> None:
    wrong = ((Action(0, "F", 0), Action(0, "B", 0)), (Action(1, "B", 0), Action(1, "F", 0)))
    with pytest.raises(ScheduleError, match=r"(?s)rank [01] waits for ever.*rank 1 \| 1B0 1F0"):
        checked(wrong, 2, 1)


def test_a_schedule_that_forgets_an_action_is_named() -> None:
    wrong = ((Action(0, "F", 0),),)
    with pytest.raises(ScheduleError, match="0B0"):
        checked(wrong, 1, 1)
