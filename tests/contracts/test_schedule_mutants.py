"""The contract of schedules can fail: wrong ones turn it red.  And it holds for a placement that is not round-robin."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import contract
import numpy as np
import pytest

from made_up import Vee
from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.errors import ScheduleError
from parsim.schedules import SCHEDULES, Action, Phase, Schedule, columns
from parsim.schedules.one_f_one_b import OneFOneB
from parsim.schedules.zero_bubble_h1 import ZeroBubbleH1


class SwappedOrder(OneFOneB):
    """F and B of two micro_batches swapped on the last rank: 1B0 before 1F0."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        right = super().arrays(rank, num_ranks, chunks, num_micro_batches)
        return np.concatenate([right[:, 1::-1], right[:, 2:]], axis=1) if rank == num_ranks - 1 else right


class SwappedArrays(OneFOneB):
    """The same in the arrays only, at the end of the first rank, where nothing waits for ever."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        right = super().arrays(rank, num_ranks, chunks, num_micro_batches)
        return np.concatenate([right[:, :-2], right[:, :-3:-1]], axis=1)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        return OneFOneB().order(rank, num_ranks, chunks, num_micro_batches)


class WrongRank(OneFOneB):
    """Each stage one rank further than it runs."""

    def rank_of(self, stage: int, num_ranks: int) -> int:
        return (stage + 1) % num_ranks


class WrongRounds(OneFOneB):
    """One round of micro_batches shows no state after the last warm-up forward of rank 0."""

    steady_rounds = 1

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        ahead = min(2 * (num_ranks - rank), num_micro_batches)
        yield from (Action(rank, Phase.F, m) for m in range(ahead))
        for m in range(num_micro_batches):
            yield Action(rank, Phase.B, m)
            if m + ahead < num_micro_batches:
                yield Action(rank, Phase.F, m + ahead)

    arrays = Schedule.arrays


class WrongEnd(OneFOneB):
    """Many micro_batches end in another order than few on rank 0."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        right = super().arrays(rank, num_ranks, chunks, num_micro_batches)
        return right if rank or num_micro_batches < 6 * num_ranks else np.concatenate([right[:, :-3], right[:, [-2, -3, -1]]], axis=1)


class Rising(ZeroBubbleH1):
    """Later ranks have more micro_batches that wait for their weight gradients."""

    falls = True


MADE_UP = {
    "rising": Rising(),
    "swapped_order": SwappedOrder(),
    "swapped_arrays": SwappedArrays(),
    "wrong_rank": WrongRank(),
    "wrong_rounds": WrongRounds(),
    "wrong_end": WrongEnd(),
    "vee": Vee(),
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    schedules.names()
    monkeypatch.setattr(SCHEDULES, "_values", {**SCHEDULES._values, **MADE_UP})


@pytest.mark.parametrize(
    ("name", "statement", "error", "said"),
    [
        ("swapped_order", contract.actions_follow_what_they_need, ScheduleError, "rank 1 waits for ever: 1B0 needs 1F0"),
        ("swapped_arrays", contract.columns_are_the_order, AssertionError, None),
        ("wrong_rank", contract.actions_follow_what_they_need, ScheduleError, "rank 0 lacks 1B0"),
        ("wrong_end", contract.rounds_are_the_order, AssertionError, None),
        ("rising", contract.later_ranks_hold_no_more, AssertionError, None),
        ("wrong_rounds", contract.a_few_rounds_show_every_memory_state, AssertionError, None),
    ],
)
def test_a_wrong_schedule_turns_the_contract_red(
    name: str, statement: Callable[[str], None], error: type[Exception], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "SHAPES", [(2, 1, 3), (1, 1, 3), (2, 1, 8)])
    with pytest.raises(error, match=said):
        statement(name)


def test_arrays_that_wait_for_ever_have_no_levels() -> None:
    class Stuck(OneFOneB):
        def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
            return super().arrays(rank, num_ranks, chunks, num_micro_batches)[:, :: 1 if rank else -1]

    SCHEDULES._values["stuck"] = Stuck()
    with pytest.raises(ScheduleError, match="rank 0 waits for ever: 0B0 needs 0F0, 1B0"):
        columns("stuck", 2, 1, 1).levels  # noqa: B018


def test_stages_may_live_where_a_schedule_says() -> None:
    contract.actions_follow_what_they_need("vee")
    contract.every_rank_holds_its_chunks("vee")
    contract.columns_are_the_order("vee")
    contract.a_few_rounds_show_every_memory_state("vee")
    contract.rounds_are_the_order("vee")
    assert [Vee().stages_of(rank, 3, 6) for rank in range(3)] == [(0, 5), (1, 4), (2, 3)]
    # At the turn of the V no message passes: 3F0 on rank 2 takes what 2F0 left there.
    held = columns("vee", 3, 2, 1)
    row = {action: index for index, action in enumerate(held.actions())}
    turn, below = row[Action(3, Phase.F, 0)], row[Action(2, Phase.F, 0)]
    assert held.needs[1, turn] == below and held.awaits[turn] == -1 and not held.sends[below]
    assert held.sends[turn] and held.awaits[row[Action(4, Phase.F, 0)]] == turn
