"""Combined 1F1B: interleaved 1F1B whose forward and backward in turn run together, so that experts' exchanges of one hide behind the other.

A forward more comes first, so that the two of a pair are of different micro_batches; it serves one rank without a pipeline, too.
"""

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES
from parsim.schedules.interleaved import InterleavedOneFOneB


class CombinedOneFOneB(InterleavedOneFOneB):
    """Pairs from the end of the warm-up on; the backwards that are left run alone."""

    source = (
        "NVIDIA/Megatron-LM@d98e8a64 (--overlap-moe-expert-parallel-comm), megatron/core/pipeline_parallel/combined_1f1b.py; "
        "schedules.py, get_pp_rank_microbatches"
    )
    falls = False  # which chunks are in a pair differs from rank to rank
    needs_experts = True
    ahead = 1

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Several chunks a rank, or no pipeline (megatron/core/transformer/transformer_config.py)."""
        if num_ranks > 1 and chunks == 1:
            return "pairs micro batches of a pipeline whose ranks hold several chunks of the model, but virtual_pipeline = 1"
        return super().legal(num_ranks, chunks, num_micro_batches)

    def pairs(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """All forwards behind the warm-up."""
        alone = self.warm_up(rank, num_ranks, chunks, num_micro_batches)
        return alone + 2 * np.arange(num_micro_batches * chunks - alone)


class WeightsApart(CombinedOneFOneB):
    """Backwards of pairs whose weight gradients run behind the exchanges of experts; those that run alone are whole."""

    source = f"{CombinedOneFOneB.source}; --delay-wgrad-compute"
    weights_apart = True


SCHEDULES.register("combined_1f1b", CombinedOneFOneB())
SCHEDULES.register("combined_1f1b_delayed", WeightsApart())
