"""What an allocator of blocks adds to tensors that last: rounding, and what segments hold behind them.

PyTorch's caching allocator hands out multiples of 512 bytes, and takes segments from the device: of 2 MiB for tensors of up to 1 MiB, of 20
MiB for those below 10 MiB, and one for each larger one, in multiples of 2 MiB.  A segment that expands takes pages of these sizes.

Source: PyTorch, c10/cuda/CUDACachingAllocator.cpp (kMinBlockSize, kSmallSize, kSmallBuffer, kLargeBuffer, kMinLargeAlloc, kRoundLarge,
get_allocation_size, PrivatePool); the rules for tensors that come and go are followed by tests/compare/blocks.py, and here a stack's share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from parsim.cost.buckets import lasting_elements, lasting_parts, lasting_weights
from parsim.cost.sizes import Ints
from parsim.estimator.passes import Stages
from parsim.parallel.plan import EXPANDABLE, OTHER

_BLOCK: Final = 512
_SMALL, _SMALL_SEGMENT = 2**20, 2**21
_LARGE, _SEGMENT, _LARGE_MULTIPLE = 10 * 2**20, 20 * 2**20, 2**21


class LastingBlocks(NamedTuple):
    """Of tensors that last, [class, plan]: what rounding to blocks adds, and bytes in blocks by where these lie."""

    rounding: Ints
    small: Ints
    medium: Ints
    tails: Ints  # of segments of one tensor, behind it

    def segment_bytes(self, allocator: str, on_rank: Callable[[Ints], Ints]) -> Ints:
        """What segments, or pages, hold beyond blocks, of values that `on_rank` adds up over the classes of a rank."""
        if allocator == OTHER:
            return on_rank(self.small) * 0
        ends = -on_rank(self.small) % _SMALL_SEGMENT
        if allocator == EXPANDABLE:
            return ends  # pages of 20 MiB: what comes and goes fills the last
        return ends + -on_rank(self.medium) % _SEGMENT + on_rank(self.tails)


def lasting_blocks(stages: Stages, sizes_of_roles: dict[str, int]) -> LastingBlocks:
    """The blocks of what lasts: a tensor for each weight, gradient, and states of it.

    Args:
        stages: what stages do.
        sizes_of_roles: bytes of an element in each role.
    """
    w, zero = stages.workload, np.zeros((stages.num_classes, len(stages.workload.rows)), dtype=np.int64)
    found, structure = LastingBlocks(zero, zero, zero, zero), stages.workload.step.structure
    if w.model.stack.allocator == OTHER:
        return found
    for segment in w.step.segments.values():
        sizes = [
            lasting_elements(weight, part, w.prices.sizes) * sizes_of_roles[role]
            for role, part in lasting_parts(structure).items()
            for weight in lasting_weights(segment.own_weights, role, structure)
        ]
        if sizes:
            own = (np.sum(each, axis=0)[w.rows] for each in _blocks(np.array(sizes)))
            found = LastingBlocks(*(total + stages.copies(segment.name) * each for total, each in zip(found, own, strict=True)))
    return found


def _blocks(size: Ints) -> LastingBlocks:
    """Of tensors, one value each.

    >>> [int(each[0]) for each in _blocks(np.array([1000]))]
    [24, 1024, 0, 0]
    >>> [int(each[0]) for each in _blocks(np.array([11 * 2**20]))]
    [0, 0, 0, 1048576]
    """
    rounding = -size % _BLOCK
    block = size + rounding
    is_small, is_large = block <= _SMALL, block >= _LARGE
    return LastingBlocks(rounding, block * is_small, block * ~(is_small | is_large), (-block % _LARGE_MULTIPLE) * is_large)
