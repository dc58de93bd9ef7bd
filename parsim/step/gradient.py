"""From a block's ops to calls: forward as written, backward derived op by op.  No placement yet: that is place.py's work.

A weight's gradient is called after the collective that settles the input gradients of the same op, so that a stack that
overlaps the two can (Megatron-LM's asynchronous tensor-parallel all-reduce).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.model.dims import COMPUTE, GRADIENT, MATMUL
from parsim.model.op import Block, Dims, Gradient, Op
from parsim.model.op_kinds import GEMMS, KINDS


class KernelCall(Struct, frozen=True):
    """A kernel on named tensors, each with its dims; outputs also with the role of their dtype."""

    name: str
    kernel: str
    inputs: tuple[tuple[str, Dims], ...]
    outputs: tuple[tuple[str, Dims, str], ...]
    attributes: Mapping[str, float | str]
    accumulate: bool = False
    in_place: bool = False
    fused: bool = False
    tag: str = ""
    operator: str = "sum"  # how shards of a contracted dim combine; "": each rank keeps what it found
    dtype: str = MATMUL  # the role of what it multiplies in


def part_of(weight: str) -> str:
    """The name of what a micro_batch adds to the gradient of a weight, where no kernel does both."""
    return f"d_{weight}@part"


def forward(block: Block) -> list[KernelCall]:
    """One call an op."""
    return [_forward(op, summed=op.outputs[0] in block.totals) for op in block.ops]


def _forward(op: Op, *, summed: bool) -> KernelCall:
    ins, outs = op.terms
    kind = KINDS[op.kind]
    return KernelCall(
        op.name,
        kind.kernel,
        tuple(zip(op.inputs, ins, strict=True)),
        tuple(zip(op.outputs, outs, op.dtypes, strict=True)),
        dict(op.attributes),
        accumulate=summed,
        in_place=op.in_place,
        fused=op.fused,
        tag=op.tag,
        operator=kind.operator,
    )


def backward(block: Block, fusions: tuple[str, ...]) -> tuple[list[KernelCall], str]:
    """Calls of the backward pass in issue order, and the name of the gradient of the block's input."""
    derivation = _Derivation(block, fusions)
    calls = list(derivation.run())
    return calls, derivation.gradients.get(block.input, "")


class _Derivation(Struct):
    """The state of one derivation: the gradient of each tensor so far, and the weight gradients that wait."""

    block: Block
    fusions: tuple[str, ...]
    gradients: dict[str, str] = field(default_factory=dict)
    waiting: list[KernelCall] = field(default_factory=list)
    waiting_for: str = ""  # the input whose gradient is to be settled first
    dims: dict[str, tuple[Dims, str]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # of a gradient that a relabel may leave where it lies: that one's name
    asked: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)  # weights that have had a part of their gradient: a table that several ops use

    def run(self) -> Iterator[KernelCall]:
        for op in self.block.ops:
            ins, outs = op.terms
            self.dims.update({n: (d, COMPUTE) for n, d in zip(op.inputs, ins, strict=True) if n not in self.dims})
            self.dims.update({n: (d, t) for n, d, t in zip(op.outputs, outs, op.dtypes, strict=True)})
        self.asked = self.block.asked
        if self.block.output:
            self.gradients[self.block.output] = f"d_{self.block.output}"
        self.gradients |= {each.name: f"d_{each.name}" for each in self.block.passing if each.asks and each.use != "follows"}
        for op in reversed(self.block.ops):
            if op.gradients is None and op.outputs[0] not in self.gradients:
                continue  # nothing flows back here: masks, tokens, the steps of the loss
            is_relabel = op.kind == "relabel"
            if not is_relabel and op.inputs[:1] != (self.waiting_for,):
                yield from self.flush()
            for row in KINDS[op.kind].gradients if op.gradients is None else op.gradients:
                yield from self.row(op, row)
            if op.outputs[0] != self.block.input:
                self.gradients.pop(op.outputs[0], None)  # nobody reads it any more but weight gradients that wait
            if is_relabel:
                yield from self.flush()
        yield from self.flush()

    def flush(self) -> Iterator[KernelCall]:
        yield from self.waiting
        self.waiting, self.waiting_for = [], ""

    def row(self, op: Op, row: Gradient) -> Iterator[KernelCall]:
        """The calls of one gradient rule."""
        roles = {"dy": self.gradients.get(op.outputs[0], "")}
        roles.update({f"x{i}": name for i, name in enumerate(op.inputs)})
        roles.update({f"y{i}": name for i, name in enumerate(op.outputs)})
        targets = [roles.get(role, role) for role in row.of.split()]
        if self.asked.isdisjoint(targets):
            return
        if not row.kernel:
            yield from self.pass_through(op, targets[0], roles["dy"])
            return
        read = [roles.get(role, role) for role in row.reads]
        inputs = tuple((name, op.terms[1][0] if name == roles["dy"] else self.dims_in(op, name)) for name in read)
        if targets[0] in self.block.weights:
            self.waiting_for = op.inputs[0]
            self.waiting += self.weight_gradient(op, row, inputs, targets[0])
            return
        yield from self.activation_gradient(op, row, inputs, targets)

    def dims_in(self, op: Op, name: str) -> Dims:
        """Dims under which the op itself sees a tensor, or those it was made with."""
        return op.terms[0][op.inputs.index(name)] if name in op.inputs else self.dims[name][0]

    def pass_through(self, op: Op, target: str, d_out: str) -> Iterator[KernelCall]:
        """The output's gradient is the input's too; a relabel changes its dims and may move it."""
        before, after = op.terms[1][0], op.terms[0][op.inputs.index(target)]
        if op.kind == "relabel":
            known = target in self.gradients  # where a norm comes last, the residual add has given it one
            part = self.name_of(op, target)
            yield KernelCall(f"{op.name}.d", "relabel", ((d_out, before),), ((part, after, COMPUTE),), {})
            self.sources[part] = d_out
            if known:
                yield from self.flush()  # the weight gradients do not wait for the collective
                yield self.grow(op, target, part, after)
                return
            self.gradients[target] = part
        elif target not in self.gradients:
            self.gradients[target] = d_out
        else:
            yield self.grow(op, target, d_out, after)

    def activation_gradient(self, op: Op, row: Gradient, inputs: tuple[tuple[str, Dims], ...], targets: list[str]) -> Iterator[KernelCall]:
        kernel, name = row.kernel, f"{op.name}.d_{targets[0]}"
        attributes = dict(op.attributes if row.attributes is None else row.attributes)
        known = self.gradients.get(targets[0], "")
        if known and kernel in GEMMS and not self.is_shared(targets[0]):  # a GEMM adds into its output at no cost (beta = 1)
            output = (known, self.dims_in(op, targets[0]), COMPUTE)
            yield KernelCall(name, kernel, inputs, (output,), attributes, accumulate=True, tag=op.tag)
            return
        outputs = tuple((self.name_of(op, t), self.dims_in(op, t), self.dims[t][1]) for t in targets)
        yield KernelCall(name, kernel, inputs, outputs, attributes, tag=op.tag)
        for target, output in zip(targets, outputs, strict=True):
            if target not in self.asked:
                continue
            if target in self.gradients:
                yield self.grow(op, target, *output)
            else:
                self.gradients[target] = output[0]

    def weight_gradient(self, op: Op, row: Gradient, inputs: tuple[tuple[str, Dims], ...], weight: str) -> Iterator[KernelCall]:
        """Into the step's gradient buffer: inside the GEMM where the stack fuses it, else through a part of its own."""
        dims, name, into = self.dims_in(op, weight), f"{op.name}.d_{weight}", f"d_{weight}"
        kernel, attributes = row.kernel, dict(op.attributes if row.attributes is None else row.attributes)
        if "gradient_accumulation" in self.fusions and kernel in (*GEMMS, "lookup_grad"):
            yield KernelCall(name, kernel, inputs, ((into, dims, GRADIENT),), attributes, accumulate=True, tag=op.tag)
            return
        part = (part_of(weight) + f"@{op.name}" * (weight in self.added), dims, COMPUTE)
        self.added.add(weight)
        yield KernelCall(name, kernel, inputs, (part,), attributes, tag=op.tag)
        yield self.add(op, into, part[0], dims, GRADIENT)

    def grow(self, op: Op, target: str, part: str, dims: Dims, dtype: str = COMPUTE) -> KernelCall:
        """A part more of a tensor's gradient: in place, but for one that another still reads as it is.

        Source: PyTorch, torch/csrc/autograd/input_buffer.cpp (can_accumulate_inplace).
        """
        call = self.add(op, self.gradients[target], part, dims, dtype)
        if not self.is_shared(target):
            return call
        self.gradients[target] = f"d_{target}"
        return replace(call, outputs=((f"d_{target}", dims, dtype),), in_place=False)

    def name_of(self, op: Op, target: str) -> str:
        """What an op gives to the gradient of a tensor: all of it so far, or a part."""
        return f"d_{target}@{op.name}" if target in self.gradients else f"d_{target}"

    def is_shared(self, target: str) -> bool:
        """Whether the gradient of a tensor, as far as it is known, is that of another, too, or weight gradients that wait read it."""
        others = [own for name, own in self.gradients.items() if name != target]
        return self.source(self.gradients[target]) in map(
            self.source, (*others, *(name for call in self.waiting for name, _ in call.inputs))
        )

    def source(self, gradient: str) -> str:
        """The gradient whose buffer one may lie in."""
        return self.source(self.sources[gradient]) if gradient in self.sources else gradient

    def add(self, op: Op, into: str, part: str, dims: Dims, dtype: str = COMPUTE) -> KernelCall:
        inputs, outputs = ((into, dims), (part, dims)), ((into, dims, dtype),)
        return KernelCall(f"{op.name}.accumulate_{into}", "add", inputs, outputs, {}, in_place=True, tag=op.tag)
