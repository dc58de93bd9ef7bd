"""DualPipeV: a V of two chunks a rank, in which a forward of one chunk and a backward of the other run together.

Source: DeepSeek-AI 2024 (arXiv:2412.19437), section 3.2.1, and deepseek-ai/DualPipe, dualpipev.py, for the V; pytorch/pytorch,
torch/distributed/pipelining/schedules.py, ScheduleDualPipeV.
"""

from __future__ import annotations

from itertools import accumulate, chain

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES
from parsim.schedules.v_shaped import DF, DI, DW, UF, UI, UW, VShaped, in_order

_WEIGHTS = DW - DI  # from a turn of a backward's inputs to that of its weights


class DualPipeV(VShaped):
    """Two chunks a rank; a whole backward is its two halves in a row."""

    source = "DeepSeek-AI 2024 (arXiv:2412.19437), section 3.2.1; deepseek-ai/DualPipe, dualpipev.py"
    steady_rounds = 4

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """As many micro_batches as stages, at least."""
        if num_micro_batches is not None and chunks == 2 and num_micro_batches < 2 * num_ranks:
            return f"needs as many micro batches as stages, {2 * num_ranks}, but a replica has {num_micro_batches}"
        return super().legal(num_ranks, chunks, num_micro_batches)

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Forwards alone, then one of each in turn, then backwards, the last of which leave their weights until nothing else is to do."""
        return in_order(turns(rank, num_ranks, num_micro_batches), (rank, 2 * num_ranks - 1 - rank), num_micro_batches)

    def pairs(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Of the middle of the step."""
        return pairs(rank, num_ranks, num_micro_batches)


def pairs(rank: int, p: int, count: int) -> Ints:
    """Places among `turns` of the forwards of pairs; the first one of the rank where the way turns runs alone, so that nobody waits."""
    own = slots(rank, p, count)
    found = [start for start, slot in zip(accumulate(map(len, own), initial=0), own, strict=False) if len(slot) > 1]
    return np.array(found[rank == p - 1 :], dtype=np.int64)


def turns(rank: int, p: int, count: int) -> list[int]:
    """Of a rank so many places from where its first stage gets micro_batches, on a way of p ranks."""
    return list(chain.from_iterable(slots(rank, p, count)))


def slots(rank: int, p: int, count: int) -> list[tuple[int, ...]]:
    """The same, a forward and a whole backward that run together side by side."""
    below = p - rank - 1
    warm_up = [(DF,)] * (2 * below) + [(DF,), (UF,)] * (rank + 1) + [(UI,), (UW,), (UF,)] * below
    one, other = (DF, UI, UW), (UF, DI, DW)
    steady = [one, other] * (count - 2 * p + rank + 1) + [(UI,), (UW,), other] * below
    return warm_up + steady + [(turn,) for turn in _end(rank, below)]


def _end(rank: int, below: int) -> list[int]:
    last = [UI, DI] * (rank + 1)
    whole, later = last[: rank + 1], last[rank + 1 :]  # with their weights, and those that leave them
    weights = [turn + _WEIGHTS for turn in later] + [DW] * below
    end = [turn for inputs in whole for turn in (inputs, inputs + _WEIGHTS)] + later
    return end + [turn for each in weights[:below] for turn in (each, DI)] + weights[below:]


SCHEDULES.register("dual_pipe_v", DualPipeV())
