"""1F1B: after a warm-up of p - 1 - rank forwards, one forward and one backward in turn; at most p micro_batches are in flight."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parsim.schedules import SCHEDULES, Action, Ints, Phase, Schedule, in_turn, one_chunk


class OneFOneB(Schedule):
    """One chunk a rank."""

    source = "Narayanan et al. 2019 (PipeDream, SOSP) with the flush of Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.1"
    steady_rounds = 2

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Any number of micro_batches, one chunk."""
        return one_chunk(chunks)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """Warm-up, steady state, cool-down."""
        warm_up = min(num_ranks - 1 - rank, num_micro_batches)
        yield from (Action(rank, Phase.F, m) for m in range(warm_up))
        for m in range(num_micro_batches - warm_up):
            yield Action(rank, Phase.F, warm_up + m)
            yield Action(rank, Phase.B, m)
        yield from (Action(rank, Phase.B, m) for m in range(num_micro_batches - warm_up, num_micro_batches))

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """The same as numbers."""
        phase, m = in_turn(num_micro_batches, (rank + 1 - num_ranks, 0))
        return np.stack([np.full_like(m, rank), phase, m])


SCHEDULES.register("1f1b", OneFOneB())
