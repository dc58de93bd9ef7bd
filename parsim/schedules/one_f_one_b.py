"""1F1B: after a warm-up of p - 1 - rank forwards, one forward and one backward in turn; at most p micro_batches are in flight."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.schedules import SCHEDULES, Action, one_chunk


class OneFOneB:
    """One chunk a rank."""

    source = "Narayanan et al. 2019 (PipeDream, SOSP) with the flush of Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.1"
    steady_rounds = 2

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Any number of micro_batches, one chunk."""
        return one_chunk(chunks)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """Warm-up, steady state, cool-down."""
        warm_up = min(num_ranks - 1 - rank, num_micro_batches)
        yield from (Action(rank, "F", m) for m in range(warm_up))
        for m in range(num_micro_batches - warm_up):
            yield Action(rank, "F", warm_up + m)
            yield Action(rank, "B", m)
        yield from (Action(rank, "B", m) for m in range(num_micro_batches - warm_up, num_micro_batches))


SCHEDULES.register("1f1b", OneFOneB())
