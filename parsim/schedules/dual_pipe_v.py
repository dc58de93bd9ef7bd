"""DualPipeV: a V of two chunks a rank, in which a forward of one chunk and a backward of the other run together.

Source: DeepSeek-AI 2024 (arXiv:2412.19437), section 3.2.1, and deepseek-ai/DualPipe, dualpipev.py, for the V; pytorch/pytorch,
torch/distributed/pipelining/schedules.py, ScheduleDualPipeV.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules import SCHEDULES, Action
from parsim.schedules.phase import SPLIT
from parsim.schedules.v_shaped import Turn, VShaped, in_order

F, I, W = SPLIT  # noqa: E741


class DualPipeV(VShaped):
    """Two chunks a rank; a whole backward is its two halves in a row."""

    source = "DeepSeek-AI 2024 (arXiv:2412.19437), section 3.2.1; deepseek-ai/DualPipe, dualpipev.py"
    steady_rounds = 4

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """As many micro_batches as stages, at least."""
        if num_micro_batches is not None and chunks == 2 and num_micro_batches < 2 * num_ranks:
            return f"needs as many micro batches as stages, {2 * num_ranks}, but a replica has {num_micro_batches}"
        return super().legal(num_ranks, chunks, num_micro_batches)

    def order(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Iterator[Action]:
        """Forwards alone, then one of each in turn, then backwards, the last of which leave their weights until nothing else is to do."""
        return in_order(turns(rank, num_ranks, num_micro_batches, (rank, 2 * num_ranks - 1 - rank)), num_micro_batches)

    def pairs(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """Of the middle of the step."""
        return pairs(rank, num_ranks, num_micro_batches)


def pairs(rank: int, p: int, count: int) -> Ints:
    """Places among `turns` of the forwards of pairs; the first one of the rank where the way turns runs alone, so that nobody waits."""
    starts = accumulate(map(len, slots(rank, p, count, (0, 1))), initial=0)
    found = [start for start, slot in zip(starts, slots(rank, p, count, (0, 1)), strict=False) if len(slot) > 1]
    return np.array(found[rank == p - 1 :], dtype=np.int64)


def turns(rank: int, p: int, count: int, stages: tuple[int, int]) -> Iterator[Turn]:
    """Of a rank so many places from where its first stage gets micro_batches, on a way of p ranks; it holds these stages."""
    for slot in slots(rank, p, count, stages):
        yield from slot


def slots(rank: int, p: int, count: int, stages: tuple[int, int]) -> Iterator[tuple[Turn, ...]]:
    """The same, a forward and a whole backward that run together side by side."""
    down, up = stages
    begin = ((down, F),) * (2 * (p - rank - 1)) + ((down, F), (up, F)) * (rank + 1) + ((up, I), (up, W), (up, F)) * (p - rank - 1)
    yield from ((turn,) for turn in begin)
    one, other = ((down, F), (up, I), (up, W)), ((up, F), (down, I), (down, W))
    yield from (one, other) * (count - 2 * p + rank + 1)
    yield from (((up, I),), ((up, W),), other) * (p - rank - 1)
    yield from ((turn,) for turn in _end(rank, p, stages))


def _end(rank: int, p: int, stages: tuple[int, int]) -> Iterator[Turn]:
    down, up = stages
    last = [(stage, I) for _ in range(rank + 1) for stage in (up, down)]
    whole = rank + 1  # of these, so many first ones with their weights
    yield from (turn for stage, phase in last[:whole] for turn in ((stage, phase), (stage, W)))
    yield from last[whole:]
    later = [(stage, W) for stage, _ in last[whole:]]
    for _ in range(p - rank - 1):
        yield from later[:1]
        later = later[1:]
        yield (down, I)
        later.append((down, W))
    yield from later


SCHEDULES.register("dual_pipe_v", DualPipeV())
