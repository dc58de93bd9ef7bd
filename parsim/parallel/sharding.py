"""Where a tensor lies on the mesh, and `reshard`: the one place that chooses a collective.

Two rules keep gradients right, and both have a test that fails without them.  The axes of one dim always nest in mesh order.
Only the innermost axis of a dim can be gathered or scattered: anything else would interleave the shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from parsim.errors import PlanError
from parsim.model.op import Dims
from parsim.parallel.dimensions import axes as mesh_axes

Rules = Mapping[str, tuple[str, ...]]  # dim -> the axes that shard it, outermost first


@dataclass(frozen=True, slots=True)
class Sharding:
    """The dims of a tensor, the mesh axes over each, and the axes over which it is still a partial result."""

    dims: Dims
    axes: tuple[tuple[str, ...], ...]
    partial: Mapping[str, str] = field(default_factory=dict)  # axis -> sum | max

    def __post_init__(self) -> None:
        for dim, axes in zip(self.dims, self.axes, strict=True):
            if len(axes) > 1 and list(axes) != sorted(axes, key=mesh_axes().index):
                raise PlanError(f"dim {dim} is sharded over {axes}, but axes nest in mesh order {mesh_axes()}")

    @classmethod
    def of(cls, dims: Dims, rules: Rules, partial: Mapping[str, str] | None = None) -> Sharding:
        """Where the rules put a tensor of these dims."""
        return cls(dims, tuple(rules.get(dim, ()) for dim in dims), dict(partial or {}))

    def with_dims(self, dims: Dims) -> Sharding:
        """The same placement under other dim names."""
        return Sharding(dims, self.axes, self.partial)


Operation = Literal["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "slice"]


class Move(NamedTuple):
    """One resharding operation over one axis; `dim` is the index it gathers or scatters, `split` the one it cuts for that; -1: none."""

    operation: Operation
    axis: str
    dim: int
    operator: str
    after: Sharding
    split: int = -1


def reshard(have: Sharding, want: Sharding) -> list[Move]:
    """The operations that bring a tensor from `have` to `want`, in order.

    partial -> whole is all_reduce, partial -> sharded reduce_scatter, sharded -> whole all_gather, whole -> sharded slice; an axis that
    goes from one dim to another is all_to_all.

    Raises:
        PlanError: `want` asks for a partial result, or a move would touch an axis that is not innermost.

    >>> [m.operation for m in reshard(Sharding(("T",), ((),), {"tp": "sum"}), Sharding(("T",), (("tp",),)))]
    ['reduce_scatter']
    """
    if want.partial:
        raise PlanError(f"nothing can be resharded to a partial result over {tuple(want.partial)}")
    moves: list[Move] = []
    order, axes, partial = mesh_axes(), [list(a) for a in have.axes], dict(have.partial)

    def move(operation: Operation, axis: str, dim: int, op: str, split: int = -1) -> None:
        moves.append(Move(operation, axis, dim, op, Sharding(have.dims, tuple(tuple(a) for a in axes), dict(partial)), split))

    for dim, wanted in enumerate(want.axes):  # gather from the inside out what is not wanted
        for axis in reversed([a for a in axes[dim] if a not in wanted]):
            if axes[dim][-1] != axis:
                raise PlanError(f"cannot gather {axis} of dim {have.dims[dim]}: {axes[dim][-1]} nests inside it")
            axes[dim].pop()
            to = next((i for i, others in enumerate(want.axes) if axis in others and _innermost(axis, axes[i], order)), None)
            if to is None:
                move("all_gather", axis, dim, "sum")
            else:
                axes[to].append(axis)
                move("all_to_all", axis, dim, "sum", to)
    for axis in [a for a in order if a in have.partial]:
        operator = partial.pop(axis)
        target = next((i for i, wanted in enumerate(want.axes) if axis in wanted), None)
        if target is None or operator != "sum" or not _innermost(axis, axes[target], order):
            move("all_reduce", axis, -1, operator)
            continue
        axes[target].append(axis)
        move("reduce_scatter", axis, target, operator)
    for dim, wanted in enumerate(want.axes):
        for axis in [a for a in wanted if a not in axes[dim]]:
            if not _innermost(axis, axes[dim], order):
                raise PlanError(f"cannot slice dim {have.dims[dim]} over {axis}: {axes[dim]} would have to nest inside it")
            axes[dim].append(axis)
            move("slice", axis, dim, "sum")
    return moves


def _innermost(axis: str, others: Sequence[str], order: Sequence[str]) -> bool:
    """Whether an axis may shard a dim that the others shard already."""
    return all(order.index(other) < order.index(axis) for other in others)
