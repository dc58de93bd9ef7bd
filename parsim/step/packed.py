"""Frozen matrices in 4 bits: made wide before each GEMM that multiplies them, forward and again backward.

Source: Dettmers et al. 2023 (arXiv:2305.14314), Eq. 5; bitsandbytes, autograd/_functions.py (MatMul4Bit: dequantize_4bit in both).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from msgspec.structs import replace

from parsim.model.dims import COMPUTE
from parsim.step.gradient import KernelCall

DEQUANTISE: Final = "dequantise"  # the kernel, which also reads the scales that lie with a matrix, and whose bytes are among its own


def with_wide(calls: Iterable[KernelCall], packed: Collection[str], behind: str) -> Iterator[KernelCall]:
    """The calls of a pass on wide matrices, each made before its use; `behind`: what their names end with."""
    for call in calls:
        for name, dims in call.inputs:
            if name in packed:
                yield KernelCall(f"{name}.{DEQUANTISE}", DEQUANTISE, ((name, dims),), ((name + behind, dims, COMPUTE),), {}, tag=call.tag)
        yield replace(call, inputs=tuple((name + behind if name in packed else name, dims) for name, dims in call.inputs))
