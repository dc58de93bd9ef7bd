"""One operation as an einsum over named dims, and a block of them.  What a kind computes stands in op_kinds.py."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.model.dims import COMPUTE

MEMORY: Final = "memory"  # what an encoder made of the source, which a decoder's layers read
JOINT: Final = "decoder_embedding"  # the block before the layers of a decoder that reads what another stack made
ENCODER_END: Final = "encoder_end"  # and the one behind those of an encoder, where its last norm stands
JOINTS: Final = (ENCODER_END, JOINT)
COUNT: Final = "n_"  # before the name of what follows a count, that of the count
OF_PARTS: Final = "of_parts"  # an attribute of what works on partial sums as they are, and leaves them such
Dims = tuple[str, ...]
Layout = tuple[tuple[str, int], ...]  # (block, copies) in the order in which a model runs them; between the ends: its layers
OpAttributes = tuple[tuple[str, float | str], ...]
Use = Literal["makes", "reads", "follows"]  # whether a block makes what passes by, reads it, or stands behind all that do


class Gradient(Struct, frozen=True):
    """How one input's gradient is computed: `kernel` over the tensors named in `reads`.

    Names in `reads` are roles: `dy` the output's gradient, `x0`, `x1` ... inputs, `y0`, `y1` outputs; in an op's own
    `gradients`, any tensor of its block.  An empty kernel passes the output's gradient through unchanged.
    """

    of: str  # role of the input ('x0'), or the tensor's name
    kernel: str = ""
    reads: tuple[str, ...] = ("dy",)
    attributes: OpAttributes | None = None  # None: those of the op


class Op(Struct, frozen=True):
    """One operation over named dims: 'B S D, D F -> B S F'.  A dim absent from the output is contracted.

    >>> Op("up", "B S D, D F -> B S F", ("x", "w"), ("h",)).terms
    ((('B', 'S', 'D'), ('D', 'F')), (('B', 'S', 'F'),))
    """

    name: str
    expr: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str = "einsum"
    dtypes: tuple[str, ...] = (COMPUTE,)  # role of each output
    attributes: OpAttributes = ()  # 'offset:V', 'rsqrt:C', 'per_token' are resolved by the executor
    tag: str = ""  # a region that recomputation may name, such as core_attn
    fused: bool = False  # runs inside the kernel of the op before it: no launch, no second pass over its input
    in_place: bool = False  # the output overwrites the first input
    gradients: tuple[Gradient, ...] | None = None  # None: those of the kind

    @property
    def terms(self) -> tuple[tuple[Dims, ...], tuple[Dims, ...]]:
        """Dims of the inputs and of the outputs."""
        left, right = self.expr.split("->")
        inputs = tuple(tuple(term.split()) for term in left.split(",")) if self.inputs else ()
        return inputs, tuple(tuple(term.split()) for term in right.split(","))


class Passing(Struct, frozen=True):
    """A tensor that passes by blocks beside the residual stream: those that read it add up its gradient for the one that makes it."""

    name: str
    dims: Dims
    use: Use
    asks: bool = True  # whether its gradient is asked for


class Block(Struct, frozen=True):
    """A run of ops that is placed, recomputed and priced as one: the embedding, a layer, the head.

    `x` enters and `y` leaves on the residual stream; the embedding has no input, the head no output.
    """

    name: str
    ops: tuple[Op, ...]
    weights: Mapping[str, str]  # name -> initial values: normal | zeros | ones
    input: str = "x"
    output: str = "y"
    shared: Mapping[str, str] = field(default_factory=dict)  # weight -> the block that owns it (tied embedding)
    totals: tuple[str, ...] = ()  # what is summed over a whole step, such as the loss
    frozen: tuple[str, ...] = ()  # weights that are not trained
    packed: tuple[str, ...] = ()  # of these, those that are kept in 4 bits
    asks: bool = True  # whether the gradient of its input is asked for, if it has one
    steers: tuple[str, ...] = ()  # the names of numbers that follow such sums in place of gradients: that of the sum behind COUNT
    stream: Dims = ("B", "T", "D")  # of what enters
    passing: tuple[Passing, ...] = ()
    loads: int = 0  # how many tokens its experts have: see LayerForm
    like: str = ""  # the block that differs from it in these alone; "": no other does
    again: tuple[str, ...] = ()  # ops whose results its kernels make again in backward, whatever is recomputed

    @property
    def asked(self) -> set[str]:
        """The tensors whose gradients lead to those of trained weights, or of input and what passes by where these are asked for."""
        found = {*self.weights} - {*self.frozen} | ({self.input} if self.asks else set())
        found |= {each.name for each in self.passing if each.asks}
        for op in self.ops:
            if not found.isdisjoint(op.inputs):
                found.update(op.outputs)
        return found

    def has_op(self, name: str) -> bool:
        """Whether one of its ops has this name."""
        return any(op.name == name for op in self.ops)


def with_dims(ops: Iterable[Op], letters: Mapping[str, str]) -> Iterator[Op]:
    """The ops with other letters for these dims, in expressions and attributes."""
    for op in ops:
        told = tuple((name, word if isinstance(word, float | int) else _with_letter(word, letters)) for name, word in op.attributes)
        yield replace(op, expr=re.sub(r"\w", lambda dim: letters.get(dim[0], dim[0]), op.expr), attributes=told)


def _with_letter(word: str, letters: Mapping[str, str]) -> str:
    what, colon, dim = word.partition(":")
    return what + colon + " ".join(letters.get(each, each) for each in dim.split())


def with_prefix(ops: Iterable[Op], prefix: str, shared: set[str]) -> Iterator[Op]:
    """The ops with names of their own for all but what is shared."""
    every = [*ops]
    tensors = {name for op in every for name in (*op.inputs, *op.outputs)} - shared

    def own(names: str) -> str:
        return " ".join(f"{prefix}{name}" if name in tensors else name for name in names.split())

    for op in every:
        rules = op.gradients and tuple(replace(rule, of=own(rule.of), reads=tuple(map(own, rule.reads))) for rule in op.gradients)
        inputs, outputs = (tuple(map(own, side)) for side in (op.inputs, op.outputs))
        yield replace(op, name=f"{prefix}{op.name}", inputs=inputs, outputs=outputs, gradients=rules)
