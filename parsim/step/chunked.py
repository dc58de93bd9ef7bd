"""The head in chunks of tokens: logits of one chunk live at a time, and their gradient is taken before those of the next are made.

Forward leaves the gradient of what enters the head and, in the dtype of matmuls, that of its weights, from which backward goes on.
Source: linkedin/Liger-Kernel@ead96b61, src/liger_kernel/ops/fused_linear_cross_entropy.py; pytorch/torchtitan@b5bcd76c,
torchtitan/components/loss.py (ChunkedLossWrapper; it joins the gradients of the chunks in float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import COMPUTE
from parsim.model.ends import ENTER_HEAD
from parsim.model.op import Block, Dims, Op
from parsim.step import gradient
from parsim.step.gradient import KernelCall, part_of


class PassesInChunks(NamedTuple):
    """The calls of forward and backward, and the name of the gradient of the block's input."""

    forward: list[KernelCall]
    backward: list[KernelCall]
    gradient_of_x: str


def in_chunks(block: Block, fusions: tuple[str, ...], num_chunks: int) -> PassesInChunks:
    """The calls of a head whose tokens pass logits and loss chunk by chunk."""
    cut = next(place for place, op in enumerate(block.ops) if op.name == ENTER_HEAD) + 1
    drawn = [op for op in block.ops[cut:] if op.kind == "draw"]  # whole, since what is drawn does not depend on the chunks
    (x,) = block.ops[cut - 1].outputs
    before = replace(block, ops=block.ops[:cut], output=x)
    inside = replace(block, ops=tuple(op for op in block.ops[cut:] if op not in drawn), input=x, asks=x in before.asked)
    backward, d_x = gradient.backward(inside, tuple(name for name in fusions if name != "gradient_accumulation"))
    loop = _Loop(inside, num_chunks, {part_of(weight): f"d_{weight}@chunks" for weight in block.weights})
    sums = [loop.with_sums(call) for call in backward if call.outputs[0][0] in {f"d_{weight}" for weight in block.weights}]
    each = [*gradient.forward(inside), *(call for call in backward if loop.with_sums(call) not in sums)]
    whole = [block.ops[cut - 1], *drawn]
    forward = [*gradient.forward(before), *gradient.forward(replace(block, ops=tuple(drawn)))]
    rest, gradient_of_x = gradient.backward(before, fusions)
    return PassesInChunks([*forward, *loop.run(whole, each, d_x)], [*sums, *rest], gradient_of_x)


class _Loop(Struct, frozen=True):
    """What the chunks do one after another."""

    block: Block
    num_chunks: int
    sums: Mapping[str, str]  # the part that a pass adds to a gradient -> the sum of those of all chunks

    def run(self, whole: Sequence[Op], each: Sequence[KernelCall], d_x: str) -> Iterator[KernelCall]:
        """Chunks of what these ops give, the calls of each, and their gradients of the input joined."""
        for chunk in range(self.num_chunks):
            for op in whole:
                (name,), (dims,) = op.outputs, op.terms[1]
                outputs = ((self.of_chunk(name, chunk), _chunk_dims(dims), op.dtypes[0]),)
                yield KernelCall(f"take_{name}", "take", ((name, dims),), outputs, {"chunk": chunk, "num_chunks": self.num_chunks})
            yield from (self.call(call, chunk) for call in each)
        if not d_x:
            return
        dims = whole[0].terms[1][0]
        parts = tuple((self.of_chunk(d_x, chunk), _chunk_dims(dims)) for chunk in range(self.num_chunks))
        yield KernelCall(f"join_{d_x}", "join", parts, ((d_x, dims, COMPUTE),), {})

    def call(self, call: KernelCall, chunk: int) -> KernelCall:
        """A call as it is for one chunk; those behind the first add to the sums."""
        call = self.with_sums(call)
        inputs = tuple((self.of_chunk(name, chunk), _chunk_dims(dims)) for name, dims in call.inputs)
        outputs = tuple((self.of_chunk(name, chunk), _chunk_dims(dims), role) for name, dims, role in call.outputs)
        adds = chunk > 0 and call.outputs[0][0] in self.sums.values()
        return replace(call, inputs=inputs, outputs=outputs, accumulate=call.accumulate or adds)

    def with_sums(self, call: KernelCall) -> KernelCall:
        """A call with the names of sums in place of those of parts."""
        inputs = tuple((self.sums.get(name, name), dims) for name, dims in call.inputs)
        outputs = tuple((self.sums.get(name, name), dims, role) for name, dims, role in call.outputs)
        return replace(call, inputs=inputs, outputs=outputs)

    def of_chunk(self, name: str, chunk: int) -> str:
        lasting = {*self.block.weights, *self.block.totals, *self.sums.values()}
        return name if name in lasting else f"{name}~{chunk}"


def _chunk_dims(dims: Dims) -> Dims:
    return tuple("s" if dim == "S" else dim for dim in dims)
