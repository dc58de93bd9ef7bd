"""Three quantities that are called the peak memory of a device, by the parts of RankMemory that each sums; and what libraries hold.

allocated  live tensors, and the workspaces that a framework keeps as tensors: torch.cuda.max_memory_allocated.
reserved   what its caching allocator took from the device: fragments beside; torch.cuda.max_memory_reserved.
device     what nvidia-smi shows of a process: the context, libraries and buffers of communicators beside.  A plan fits by this one.

A tensor takes a multiple of 512 bytes of its allocator, which is not counted.
Source: PyTorch, docs/source/notes/cuda.rst, "Memory management"; c10/cuda/CUDACachingAllocator.cpp: kMinBlockSize = 512.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ALLOCATED, RESERVED, DEVICE = QUANTITIES = ("allocated", "reserved", "device")
_TENSORS: Final = ("parameters", "gradients", "optimizer", "activations", "transients", "buffers")
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    ALLOCATED: _TENSORS,
    RESERVED: (*_TENSORS, "fragments"),
    DEVICE: (*_TENSORS, "fragments", "framework"),
}


def held_bytes(parts: Mapping[str, int], quantity: str) -> int:
    """The peak memory of a rank in the sense of a quantity.

    >>> parts = dict.fromkeys(PARTS[DEVICE], 1)
    >>> [held_bytes(parts, each) for each in QUANTITIES]
    [6, 7, 8]
    """
    return sum(parts[name] for name in PARTS[quantity])
