"""V-Min: a V with about a third of the activations of 1F1B on every rank, the least that this kind of schedule can have.

Source: Qi et al. 2024 (arXiv:2405.15362), section 3.2; sail-sg/zero-bubble-pipeline-parallelism,
megatron/core/pipeline_parallel/zerobubble/scheduler/zbv_greedy.py, stable_pattern_v_min.
"""

from __future__ import annotations

from parsim.schedules import SCHEDULES
from parsim.schedules.v_shaped import BuildingBlocks


class VMin(BuildingBlocks):
    """A stage a slot, all the way down and up, and down and up again."""

    source = "Qi et al. 2024 (arXiv:2405.15362), section 3.2"

    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        """Two slots more before the backward where three divides the ranks, so that none meet."""
        p, wait = num_ranks, 0 if num_ranks % 3 else 2
        return rank, 2 * p - rank - 1, 2 * p + wait + rank, 4 * p + wait - rank - 1


SCHEDULES.register("v_min", VMin())
