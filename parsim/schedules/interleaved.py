"""Interleaved 1F1B: a rank holds `chunks` stages and works them in groups of p micro_batches, so the bubble shrinks by `chunks`."""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Schedule, in_turn


class InterleavedOneFOneB(Schedule):
    """Forward k of a rank is chunk (k // p) % v of micro_batch (k // (p v)) p + k % p; backward runs the chunks the other way."""

    source = (
        "Narayanan et al. 2021 (arXiv:2104.04473), section 2.2.2; order of Megatron Core since 0.10, core/pipeline_parallel/schedules.py, "
        "get_pp_rank_microbatches, and of torch/distributed/pipelining/schedules.py, ScheduleInterleaved1F1B"
    )
    falls = True
    steady_rounds = 4
    ahead = 0  # forwards more before the first backward

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Any number of chunks; with several, micro_batches in rounds of the ranks."""
        if chunks > 1 and num_micro_batches is not None and num_micro_batches % num_ranks:
            return f"needs micro batches in rounds of pipeline_parallel = {num_ranks}, but a replica has {num_micro_batches}"
        return None

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """In turn after 2 (p - 1 - rank) + (v - 1) p forwards, or after all where there are fewer."""
        warm_up = self.warm_up(rank, num_ranks, chunks, num_micro_batches)
        phase, k = in_turn(num_micro_batches * chunks, (-warm_up, 0))
        chunk = np.where(phase == 0, k // num_ranks % chunks, chunks - 1 - k // num_ranks % chunks)
        return np.stack([chunk * num_ranks + rank, phase, k // (num_ranks * chunks) * num_ranks + k % num_ranks])

    def warm_up(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> int:
        """Forwards before the first backward, but for the one that is in turn with it."""
        return min(2 * (num_ranks - 1 - rank) + (chunks - 1) * num_ranks + self.ahead, num_micro_batches * chunks)


SCHEDULES.register("interleaved_1f1b", InterleavedOneFOneB())
