"""What every registered schedule must pass, before anybody writes a test for it."""

from __future__ import annotations

import contract
import pytest

from parsim import schedules
from parsim.errors import ScheduleError
from parsim.schedules import SCHEDULES, Action, Phase, check, fault, find
from parsim.schedules.action import parse
from parsim.schedules.columnar import grid
from parsim.schedules.schedule import WrittenSchedule
from schedule_orders import actions_of


@pytest.mark.parametrize("name", schedules.names())
def test_every_micro_batch_goes_forward_before_it_goes_backward_and_no_rank_waits_for_ever(name: str) -> None:
    contract.actions_follow_what_they_need(name)


@pytest.mark.parametrize("name", schedules.names())
def test_a_few_rounds_show_every_memory_state(name: str) -> None:
    contract.a_few_rounds_show_every_memory_state(name)


@pytest.mark.parametrize("name", schedules.names())
def test_later_ranks_hold_no_more_where_a_schedule_says_so(name: str) -> None:
    contract.later_ranks_hold_no_more(name)


@pytest.mark.parametrize("name", schedules.names())
def test_arrays_hold_the_order_and_columns_what_each_action_waits_for(name: str) -> None:
    contract.columns_are_the_order(name)


@pytest.mark.parametrize("name", schedules.names())
def test_rounds_run_what_the_order_says(name: str) -> None:
    contract.rounds_are_the_order(name)


@pytest.mark.parametrize("name", schedules.names())
def test_every_stage_has_one_rank_and_every_rank_as_many_stages(name: str) -> None:
    contract.every_rank_holds_its_chunks(name)


@pytest.mark.parametrize("name", schedules.names())
def test_a_schedule_has_a_source_and_is_the_default_only_where_it_is_legal(name: str) -> None:
    assert SCHEDULES.get(name).source
    for p, v, m in contract.SHAPES:
        if name == schedules.default(v) and m % p == 0:
            assert fault(name, p, v, m) is None


def test_shapes_that_a_schedule_refuses_are_said_with_their_reason() -> None:
    assert fault("gpipe", 4, 2) == "schedule 'gpipe' runs one chunk of the model a rank, but virtual_pipeline = 2"
    wanted = "schedule 'interleaved_1f1b' needs micro batches in rounds of pipeline_parallel = 4, but a replica has 6"
    assert fault("interleaved_1f1b", 4, 2, 6) == wanted
    assert fault("interleaved_1f1b", 4, 2) is None  # some number will do
    assert fault("breadth_first", 4, 3, 5) is None
    several = (
        "breadth_first",
        "combined_1f1b",
        "combined_1f1b_delayed",
        "dual_pipe_v",
        "interleaved_1f1b",
        "v_half",
        "v_min",
        "zero_bubble_v",
    )
    assert schedules.names_for(4, 2) == several


def test_a_schedule_that_deadlocks_is_drawn() -> None:
    wrong = ((Action(0, Phase.F, 0), Action(0, Phase.B, 0)), (Action(1, Phase.B, 0), Action(1, Phase.F, 0)))
    with pytest.raises(ScheduleError, match=r"(?s)rank 1 waits for ever: 1B0 needs 1F0.*rank 1 \| 1B0 1F0   <-- here"):
        check(WrittenSchedule(wrong), 2, 1, 1)


def test_ranks_that_wait_for_one_another_are_drawn() -> None:
    # Rank 0 wants micro batch 0 back before it sends 1; rank 1 wants both before it goes back.
    with pytest.raises(ScheduleError, match=r"rank 0 waits for ever: 0B0 needs 1B0"):
        check(find(("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"), 2), 2, 1, 2)


def test_weights_before_inputs_wait_for_ever_and_may_come_any_time_after() -> None:
    assert fault(("0F0 0F1 0I0 0I1 0W1 0W0", "1F0 1I0 1F1 1I1 1W0 1W1"), 2, 1, 2) is None
    assert "rank 1 waits for ever: 1W0 needs 1I0" in str(fault(("0F0 0I0 0W0", "1F0 1W0 1I0"), 2, 1, 1))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0F0", "rank 0 lacks 0B0"),
        ("0F0 0B0 0B0", "rank 0 repeats 0B0"),
        ("0F0 0B0 1F0", "rank 0 cannot run 1F0"),
        ("0F0 0B1", "rank 0 lacks 0B0 and cannot run 0B1: it runs stages 0 forward .* once for each of 1 micro batches"),
        ("0F0 0I0", r"rank 0 lacks 0W0: it runs stages 0 forward \(F\), backward of inputs \(I\) and backward of weights \(W\) once for"),
        ("0F0 0B0 0W0", "rank 0 lacks 0I0 and cannot run 0B0"),
    ],
)
def test_an_action_too_many_or_too_few_is_named(line: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=rf"{said}(?s:.*)rank 0 \| {line}   <-- here"):
        check(find((line,), 1), 1, 1, 1)


@pytest.mark.parametrize("token", ["0X0", "F0", "0F", "0f0", "-1F0", "1F0,", "0F0B0", "0F١", "9999999999F0"])
def test_a_token_that_is_no_action_is_named(token: str) -> None:
    with pytest.raises(ScheduleError, match=r"rank 0: .* is no action\n  An action is a stage, F or B, and a micro batch"):
        parse((f"0F0 {token}",), 1)


def test_a_grid_shows_what_is_near_the_mark() -> None:
    drawn = grid(actions_of("1f1b", 40, 1, 80), 30, 50).splitlines()
    assert len(drawn) == 12 and sum("<-- here" in line for line in drawn) == 1
    assert all(len(line) < 140 for line in drawn)
