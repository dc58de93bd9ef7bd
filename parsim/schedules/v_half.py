"""V-Half: a V with about half the activations of 1F1B on every rank, and half its bubble where all phases take as long.

Source: Qi et al. 2024 (arXiv:2405.15362), section 3.2; sail-sg/zero-bubble-pipeline-parallelism,
megatron/core/pipeline_parallel/zerobubble/scheduler/zbv_greedy.py, stable_pattern_v_half.
"""

from __future__ import annotations

from parsim.schedules import SCHEDULES
from parsim.schedules.v_shaped import BuildingBlocks


class VHalf(BuildingBlocks):
    """Forward goes down at half the speed of its way up."""

    source = "Qi et al. 2024 (arXiv:2405.15362), section 3.2"

    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        """Three slots more before the backward where the ranks are even in number, so that none meet."""
        p, wait = num_ranks, 0 if num_ranks % 2 else 3
        return 2 * rank, 3 * p - rank - 2, 3 * p + wait + 2 * rank - 1, 6 * p + wait - rank - 2


SCHEDULES.register("v_half", VHalf())
