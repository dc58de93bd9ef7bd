"""Attention in 8 bits: what its kernel reads is quantised before, by kernels that state their bytes.

A pass over the calls of a block.  Queries, keys and values are laid beside one another, their largest element is found, and they are
quantised, forward; backward reads these, and the gradient of its output is quantised likewise.  Output and gradients come out wide.
Each has a scale of its own, where Transformer Engine takes one of all three; of ranks that cut heads or a sequence, each scales its part.
Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/pytorch/attention/dot_product_attention/utils.py (combine_and_quantize:
torch.cat of q, k and v, then qkv_quantizer) and backends.py (FusedAttnFunc: of Float8CurrentScaling q, k and v in 8 bits and out in 16
are saved, NVTE_DPA_FP8CS_O_in_F16 = 1, and dO is quantised); recipe HYBRID: gradients in E5M2 (NVTE_DPA_FP8_FORMAT).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from parsim.model.dims import COMPUTE, EIGHT_BITS, FLOAT32
from parsim.model.op import Dims
from parsim.parallel.precision import Narrowing
from parsim.step.gradient import KernelCall
from parsim.step.quantise import told_of
from parsim.step.task import JOINED

HOW: Final = Narrowing("e4m3", "e5m2", measures=True)  # a scale a tensor, of its present largest element
LAID, NARROW = "@laid", "@8"  # behind the name of a tensor: beside the others, and quantised
_READ: Final = 3  # queries, keys and values, the first that either kernel reads
_GRADIENT_AT: Final = {"flash_attention_grad": 5, "sinks_grad": 1}  # where backward reads the gradient of the output


def attended_narrow(forward: Sequence[KernelCall], backward: Sequence[KernelCall]) -> tuple[list[KernelCall], list[KernelCall]]:
    """The calls of forward and backward with what flash attention reads quantised."""
    return list(_forward(forward)), list(_backward(backward))


def _forward(calls: Sequence[KernelCall]) -> Iterator[KernelCall]:
    for call in calls:
        if call.kernel != "flash_attention":
            yield call
            continue
        read, others = call.inputs[:_READ], call.inputs[_READ:]
        yield from _casts(read, call.tag)
        yield replace(call, inputs=(*((name + NARROW, dims) for name, dims in read), *others))


def _backward(calls: Sequence[KernelCall]) -> Iterator[KernelCall]:
    made = set[str]()
    for call in calls:
        if call.kernel not in _GRADIENT_AT:
            yield call
            continue
        narrow = {call.inputs[_GRADIENT_AT[call.kernel]][0]}
        for name, dims in call.inputs:
            if name in narrow - made:
                yield from _quantise(name, dims, call.tag, gradient=True)
        made |= narrow
        if call.kernel == "flash_attention_grad":
            narrow |= {name for name, _ in call.inputs[:_READ]}
        yield replace(call, inputs=tuple((name + NARROW * (name in narrow), dims) for name, dims in call.inputs))


def _casts(read: Sequence[tuple[str, Dims]], tag: str) -> Iterator[KernelCall]:
    """One kernel lays them beside one another, one finds the largest element, one quantises: here a call for each tensor."""
    for at, (name, dims) in enumerate(read):
        yield KernelCall(f"{name}.lay", "cast", ((name, dims),), ((name + LAID, dims, COMPUTE),), _join_mark(at > 0), tag=tag)
    for at, (name, dims) in enumerate(read):
        yield from _quantise(name + LAID, dims, tag, joined=at > 0, out=name)


def _quantise(name: str, dims: Dims, tag: str, *, joined: bool = False, gradient: bool = False, out: str = "") -> Iterator[KernelCall]:
    """What finds the largest element of a tensor, and what quantises it."""
    target, also = out or name, _join_mark(joined)
    largest, told = f"{target}{NARROW}@max", told_of(HOW.attributes(gradient=gradient), len(dims) - 1, ("@row",))
    yield KernelCall(f"{target}.absmax", "absmax", ((name, dims),), ((largest, (), FLOAT32),), also, tag=tag, operator="")
    inputs, outputs = ((name, dims), (largest, ())), ((target + NARROW, dims, EIGHT_BITS),)
    yield KernelCall(f"{target}.quantise", "quantise", inputs, outputs, {**told, **also}, tag=tag)


def _join_mark(joined: bool) -> dict[str, float | str]:
    return {JOINED: 1} if joined else {}
