"""From calls to placed tasks: every operand gets its sharding, and `reshard` says which collectives stand between.

A contraction over a sharded dim leaves a partial result.  It is settled where the value changes its name (a relabel) or is
first used by a kernel that needs it whole; weight gradients stay partial until the step ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.model.dims import COMPUTE, GRADIENT, PACKED, QUANTISED, TOKENS
from parsim.model.op import OF_PARTS, Dims
from parsim.parallel.dimensions import DENSE, EXPERT, OUTSIDE, axes_of, view_of
from parsim.parallel.dimensions import axes as mesh_axes
from parsim.parallel.group import Group
from parsim.parallel.precision import LAYOUTS
from parsim.parallel.sharding import Rules, Sharding, reshard
from parsim.step.gradient import KernelCall
from parsim.step.quantise import LinearWeight
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Operand, Task

_IN_PLACE = ("all_reduce",)
_ELEMENTWISE = ("add", "join", "dropout")
_LINEAR = (*_ELEMENTWISE, "relative_biases_grad")  # of partial sums they are one


def _keeps_parts(call: KernelCall) -> bool:
    return call.kernel in _LINEAR or OF_PARTS in call.attributes


class Placer(Struct):
    """Places calls one after another; remembers which buffer bears each tensor's name, and where it lies."""

    rules: Rules
    axes: tuple[str, ...]  # that are on
    beside: tuple[str, ...] = ()  # the axes whose collectives may run beside compute
    known: dict[str, Operand] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()  # weights that are stored in 4 bits

    def know(self, weights: Mapping[str, LinearWeight]) -> None:
        """Where weights lie, and their narrow layouts with them, which no call may have made."""
        for name, weight in weights.items():
            held = self.operand(name, weight.dims)
            self.known |= {name + layout: replace(held, name=name + layout, dtype=QUANTISED) for layout in LAYOUTS}

    def place(self, calls: Iterable[KernelCall]) -> list[Task]:
        """The tasks of these calls, in order."""
        return [task for call in calls for task in self.one(call)]

    def one(self, call: KernelCall) -> Iterator[Task]:
        """The tasks of one call: what settles its operands, then the call."""
        if call.kernel == "relabel":
            yield from self.relabel(call)
            return
        inputs: list[Operand] = []
        for name, dims in call.inputs:
            operand = self.operand(name, dims)
            if operand.sharding.partial and not _keeps_parts(call):
                yield from self.settle(call, operand, name, operand.name, Sharding.of(dims, self.rules))
                operand = self.operand(name, dims)
            inputs.append(operand)
        if call.kernel == "add":
            inputs[0] = replace(inputs[0], dtype=call.outputs[0][2])
            if inputs[0].sharding.partial != inputs[1].sharding.partial:
                yield from self.to_common_partial(call, inputs)
        outputs = tuple(self.output(call, inputs, *out) for out in call.outputs)
        modes = (call.accumulate, call.in_place, call.fused)
        yield Compute(call.name, call.kernel, tuple(inputs), outputs, call.attributes, *modes, tag=call.tag, dtype=call.dtype)

    def operand(self, name: str, dims: Dims) -> Operand:
        """The buffer that bears `name`, seen under these dims; one not met before lies where the rules put it (a weight)."""
        if name not in self.known:
            self.known[name] = Operand(name, Sharding.of(dims, self.rules), PACKED if name in self.packed else COMPUTE)
        found = self.known[name]
        return found if found.dims == dims else replace(found, sharding=found.sharding.with_dims(dims))

    def output(self, call: KernelCall, inputs: list[Operand], name: str, dims: Dims, dtype: str) -> Operand:
        """Where a result lies: as the rules say, partial over the axes of what was contracted."""
        partial: Mapping[str, str] = {}
        if _keeps_parts(call):
            partial = inputs[0 if call.kernel in ("dropout", "scale", "scale_grad") else 1].sharding.partial
        if call.kernel not in _ELEMENTWISE and OF_PARTS not in call.attributes:
            contracted = {a for o in inputs for d, axes in zip(o.dims, o.sharding.axes, strict=True) if d not in dims for a in axes}
            left = contracted - {a for axes in Sharding.of(dims, self.rules).axes for a in axes}  # dims that merge into one are no sum
            partial = {axis: call.operator for axis in mesh_axes() if (axis in left or axis in partial) and call.operator}
        sharding = Sharding.of(dims, self.rules, partial)
        if call.accumulate and name in self.known and self.known[name].sharding.partial != partial:
            raise PlanError(f"{call.name} adds a result partial over {tuple(partial)} to one that is not")
        buffer = inputs[0].name if call.in_place else self.known[name].name if call.accumulate and name in self.known else name
        self.known[name] = Operand(buffer, sharding, dtype)
        return self.known[name]

    def to_common_partial(self, call: KernelCall, inputs: list[Operand]) -> Iterator[Task]:
        """Addends that are partial over different axes are first reduced to the axes they share."""
        if call.outputs[0][2] == GRADIENT and not inputs[0].sharding.partial:
            # The first contribution to a gradient buffer: zeros are partial over any axes.
            inputs[0] = replace(inputs[0], sharding=replace(inputs[0].sharding, partial=inputs[1].sharding.partial))
            return
        common = inputs[0].sharding.partial.keys() & inputs[1].sharding.partial.keys()
        for index in (0, 1):
            own = inputs[index].sharding.partial
            for axis in [a for a in mesh_axes() if a in own and a not in common]:
                before = inputs[index]
                after = {a: op for a, op in before.sharding.partial.items() if a != axis}
                target = replace(before, sharding=replace(before.sharding, partial=after))
                name, operator = f"{call.name}.all_reduce", own[axis]
                yield Collective(name, "all_reduce", Group((axis,)), before, target, operator=operator, fresh=False, tag=call.tag)
                inputs[index] = target
                self.known[call.inputs[index][0]] = target

    def relabel(self, call: KernelCall) -> Iterator[Task]:
        """Another name for the dims of a tensor; where the rules place it elsewhere, it moves."""
        ((source, before),) = call.inputs
        ((target, after, _),) = call.outputs
        operand = self.operand(source, before)
        if view_of(self.axes) == EXPERT and (TOKENS in before) != (TOKENS in after):
            yield from self.change_view(call, operand, f"{target}~{TOKENS}", (before if TOKENS in before else after).index(TOKENS))
            operand = self.known[f"{target}~{TOKENS}"]
        operand = replace(operand, sharding=operand.sharding.with_dims(after))
        yield from self.settle(call, operand, target, target, Sharding.of(after, self.rules))

    def change_view(self, call: KernelCall, operand: Operand, name: str, place: int) -> Iterator[Task]:
        """Tokens, the dim at `place`, between the views of the mesh: where all ranks of a stage share them out, both views lie alike."""
        dims, order = operand.dims, (DENSE, EXPERT) if operand.dims[place] == TOKENS else (EXPERT, DENSE)
        around = set(self.rules.get(TOKENS, ())) & set(axes_of(OUTSIDE))
        over = [tuple(axis for axis in self.axes if axis in around or axis in axes_of(view)) for view in order]
        before, after = (Sharding(dims, tuple(axes if i == place else () for i in range(len(dims)))) for axes in over)
        yield from self.settle(call, operand, name, name, before)
        self.known[name] = replace(self.known[name], sharding=after)

    def settle(self, call: KernelCall, operand: Operand, name: str, buffer: str, want: Sharding) -> Iterator[Task]:
        """Brings `operand` to `want` and calls the result `name`; new buffers are named after `buffer`."""
        moves = reshard(operand.sharding, want)
        fresh = [m for m in moves if m.operation not in _IN_PLACE]
        for move in moves:
            last = not fresh or move is fresh[-1]
            new = operand.name if move.operation in _IN_PLACE else buffer if last else f"{buffer}~{move.axis}"
            target = Operand(new, move.after, operand.dtype)
            yield Collective(
                f"{call.name}.{move.operation}",
                move.operation,
                Group((move.axis,)),
                operand,
                target,
                move.dim,
                move.split,
                move.operator,
                fresh=new != operand.name,
                tag=call.tag,
                stream=move.axis if move.axis in self.beside else COMPUTE_STREAM,
            )
            operand = target
        self.known[name] = replace(operand, sharding=want)
