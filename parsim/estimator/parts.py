"""Three quantities that are called the peak memory of a device, by the parts of RankMemory that each sums; and what libraries hold.

allocated  live tensors in blocks of 512 bytes, and the workspaces that a framework keeps as tensors: torch.cuda.max_memory_allocated.
reserved   what its caching allocator took from the device: fragments, and pools of graphs, beside; torch.cuda.max_memory_reserved.
device     what nvidia-smi shows of a process: the context, libraries and buffers of communicators beside.  A plan fits by this one.

Of tensors that come and go, blocks are not counted: in models of ordinary size these are multiples of 512 bytes.
Source: PyTorch, docs/source/notes/cuda.rst, "Memory management"; c10/cuda/CUDACachingAllocator.cpp: kMinBlockSize = 512.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

ALLOCATED, RESERVED, DEVICE = QUANTITIES = ("allocated", "reserved", "device")
_TENSORS: Final = ("parameters", "gradients", "optimizer", "activations", "transients", "buffers", "workspaces", "rounding")
_RESERVED: Final = (*_TENSORS, "fragments", "graph_pools")
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    ALLOCATED: _TENSORS,
    RESERVED: _RESERVED,
    DEVICE: (*_RESERVED, "context", "communicators"),
}


def held_bytes(parts: Mapping[str, int], quantity: str) -> int:
    """The peak memory of a rank in the sense of a quantity.

    >>> parts = dict.fromkeys(PARTS[DEVICE], 1)
    >>> [held_bytes(parts, each) for each in QUANTITIES]
    [8, 10, 12]
    """
    return sum(parts[name] for name in PARTS[quantity])
