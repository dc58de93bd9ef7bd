"""DualPipe: micro_batches come in at both ends, each half of them for a copy of the model of its own, whose stages lie the other way round.

Device i holds stage i of one copy and stage p - 1 - i of the other, of as many stages as devices; the two devices of a pair hold the same
stages, and sum their gradients.  Each half of the devices does what DualPipeV does.  Source: DeepSeek-AI 2024 (arXiv:2412.19437), section
3.2.1 and table 2; deepseek-ai/DualPipe, dualpipe.py.
"""

from __future__ import annotations

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES
from parsim.schedules.dual_pipe_v import pairs, turns
from parsim.schedules.v_shaped import VShaped, in_order


class DualPipe(VShaped):
    """The V of DualPipeV with a copy of the model on either side; stages of the second are numbered on from the first's."""

    source = "DeepSeek-AI 2024 (arXiv:2412.19437), section 3.2.1; deepseek-ai/DualPipe, dualpipe.py"
    steady_rounds = 4
    num_copies = 2

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Pairs of ranks, a stage of each copy on each, and as many micro_batches as ranks for each copy, at least."""
        if chunks != 2:
            return f"runs one chunk of each of its two copies of the model a rank, but virtual_pipeline = {chunks // 2}"
        if num_ranks % 2:
            return f"pairs the ranks of a pipeline, but pipeline_parallel = {num_ranks}"
        if num_micro_batches is not None and num_micro_batches < num_ranks:
            return f"needs as many micro batches as ranks, {num_ranks}, for each of two copies of the model, not {num_micro_batches}"
        return None

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """As on the rank of DualPipeV's way that is as far from where its micro_batches come in."""
        ends = rank, 2 * num_ranks - 1 - rank
        near = min(rank, num_ranks - 1 - rank)
        stages = ends if near == rank else ends[::-1]
        return in_order(turns(near, num_ranks // 2, num_micro_batches), stages, num_micro_batches)

    def pairs(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """As there."""
        return pairs(min(rank, num_ranks - 1 - rank), num_ranks // 2, num_micro_batches)


SCHEDULES.register("dual_pipe", DualPipe())
