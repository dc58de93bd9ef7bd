"""Where a tensor lies on the mesh, and `reshard`: the one place that chooses a collective.

Two rules keep gradients right, and both have a test that fails without them.  The axes of one dim always nest in mesh order.
Only the innermost axis of a dim can be gathered or scattered: anything else would interleave the shards.  Tokens that leave for experts
have no order, so any axis of theirs can, if they come back as they went.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.errors import PlanError
from parsim.model.dims import FREE, dim_of_loads
from parsim.model.op import Dims
from parsim.parallel.dimensions import DENSE, EXPERT, axes_of, nest_order
from parsim.parallel.dimensions import axes as mesh_axes

Rules = Mapping[str, tuple[str, ...]]  # dim -> the axes that shard it, outermost first


class Sharding(Struct, frozen=True):
    """The dims of a tensor, the mesh axes over each, and the axes over which it is still a partial result."""

    dims: Dims
    axes: tuple[tuple[str, ...], ...]
    partial: Mapping[str, str] = field(default_factory=dict)  # axis -> sum | max
    loads: int = 0  # of the experts whose slots it has: see LayerForm

    def __post_init__(self) -> None:
        every = [axis for axes in self.axes for axis in axes]
        if len(every) < 2:
            return
        if len(set(every)) < len(every):
            raise PlanError(f"{' '.join(self.dims)} is sharded over {tuple(every)}, an axis of which cuts two of its dims")
        if set(every) & set(axes_of(DENSE)) and set(every) & set(axes_of(EXPERT)):
            raise PlanError(f"{' '.join(self.dims)} is sharded over {tuple(every)}, which are of two views of the mesh")
        for dim, axes in zip(self.dims, self.axes, strict=True):
            if len(axes) > 1 and axes != nest_order(dim, axes):
                raise PlanError(f"dim {dim} is sharded over {axes}, but axes nest in mesh order {nest_order(dim, mesh_axes())}")

    @classmethod
    def of(cls, dims: Dims, rules: Rules, partial: Mapping[str, str] | None = None) -> Sharding:
        """Where the rules put a tensor of these dims."""
        return cls(dims, tuple(rules.get(dim, ()) for dim in dims), dict(partial or {}))

    def with_dims(self, dims: Dims) -> Sharding:
        """The same placement under other dim names."""
        return replace(self, dims=dims)

    def sized_dim(self, dim: str) -> str:
        """What sizes call a dim of it."""
        return dim_of_loads(dim, self.loads)

    @property
    def sized_dims(self) -> Dims:
        """All its dims by these names."""
        return tuple(map(self.sized_dim, self.dims)) if self.loads else self.dims


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
    goes from one dim to another is all_to_all.  Tokens may leave in any order and come back in the opposite one.

    Raises:
        PlanError: `want` asks for a partial result, or a move would touch an axis that is not innermost.

    >>> [m.operation for m in reshard(Sharding(("T",), ((),), {"tp": "sum"}), Sharding(("T",), (("tp",),)))]
    ['reduce_scatter']
    """
    if want.partial:
        raise PlanError(f"nothing can be resharded to a partial result over {tuple(want.partial)}")
    found = _Resharding(have.dims, [list(axes) for axes in have.axes], dict(have.partial), want.axes)
    found.reduce()
    found.slice(only_free=True)
    for dim in range(len(have.dims)):
        found.gather(dim)
    found.slice()
    return found.moves


class _Resharding(Struct):
    """A tensor on its way to the axes that are wanted over its dims."""

    dims: Dims
    axes: list[list[str]]
    partial: dict[str, str]
    wanted: tuple[tuple[str, ...], ...]
    moves: list[Move] = field(default_factory=list)

    def move(self, operation: Operation, axis: str, dim: int, operator: str = "sum", split: int = -1) -> None:
        after = Sharding(self.dims, tuple(map(tuple, self.axes)), dict(self.partial))
        self.moves.append(Move(operation, axis, dim, operator, after, split))

    def may_take(self, dim: int, axis: str) -> bool:
        """Whether an axis may shard a dim as it lies: inside all others, or anywhere where order means nothing."""
        return self.dims[dim] in FREE or nest_order(self.dims[dim], (*self.axes[dim], axis))[-1] == axis

    def take(self, dim: int, axis: str) -> None:
        self.axes[dim] = [*nest_order(self.dims[dim], (*self.axes[dim], axis))]

    def reduce(self) -> None:
        """Partial sums are settled first: no move makes them smaller."""
        for axis in [axis for axis in mesh_axes() if axis in self.partial]:
            operator = self.partial.pop(axis)
            target = next((dim for dim, wanted in enumerate(self.wanted) if axis in wanted), None)
            if target is None or operator != "sum" or not self.may_take(target, axis):
                self.move("all_reduce", axis, -1, operator)
            else:
                self.take(target, axis)
                self.move("reduce_scatter", axis, target, operator)

    def gather(self, dim: int) -> None:
        """Axes that are not wanted leave a dim from the inside out; of tokens, those that go to another dim before the others."""
        leaving = [(axis, self.goal(axis)) for axis in reversed(self.axes[dim]) if axis not in self.wanted[dim]]
        for axis, goal in sorted(leaving, key=lambda each: each[1] is None) if self.dims[dim] in FREE else leaving:
            if self.axes[dim][-1] != axis and self.dims[dim] not in FREE:
                raise PlanError(f"cannot gather {axis} of dim {self.dims[dim]}: {self.axes[dim][-1]} nests inside it")
            self.axes[dim].remove(axis)
            if goal is None:
                self.move("all_gather", axis, dim)
            else:
                self.take(goal, axis)
                self.move("all_to_all", axis, dim, split=goal)

    def goal(self, axis: str) -> int | None:
        """The dim that an axis goes to."""
        return next((dim for dim, wanted in enumerate(self.wanted) if axis in wanted and self.may_take(dim, axis)), None)

    def slice(self, *, only_free: bool = False) -> None:
        held = {axis for axes in self.axes for axis in axes}
        for dim, wanted in enumerate(self.wanted):
            for axis in [axis for axis in wanted if axis not in held and (self.dims[dim] in FREE or not only_free)]:
                if not self.may_take(dim, axis):
                    raise PlanError(f"cannot slice dim {self.dims[dim]} over {axis}: {self.axes[dim]} would have to nest inside it")
                self.take(dim, axis)
                self.move("slice", axis, dim)
