"""Reductions on arrays that every rank maps: no message, no copy; a part a rank, in blocks that stay in its L2 cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np

from parsim_kernels.signature import Array
from parsim_kernels.transport.channel import Channel

_BLOCK_BYTES: Final = 256 << 10
_FUNCTIONS: Final = {"sum": np.add, "max": np.maximum}


def symmetric_all_reduce(channel: Channel, arrays: Sequence[Array], operator: Literal["sum", "max"] = "sum") -> None:
    """Leave ((a0 + a1) + a2) + ... in every rank's array, the same bits whatever the number of elements.

    Each rank reduces its part of the elements over all ranks' arrays, in rank order, and writes the outcome to all of them: 2 n bytes a
    rank through the memory, however many ranks.

    Args:
        channel: the rank's.
        arrays: those of `channel.symmetric`, by rank, or the same contiguous part of each.
        operator: sum or max.
    """
    function, flat = _FUNCTIONS[operator], [array.reshape(-1) for array in arrays]
    start, stop = (flat[0].size * (channel.rank + i) // channel.num_ranks for i in (0, 1))
    step = max(_BLOCK_BYTES // (flat[0].itemsize or 1), 1)
    channel.barrier()
    for first in range(start, stop, step):
        head, *tail = [array[first : min(first + step, stop)] for array in flat]
        for block in tail:
            function(head, block, out=head)
        for block in tail:
            block[...] = head
    channel.barrier()
