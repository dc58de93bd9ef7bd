"""Tables of integers by which an axis cuts a dim into parts that are not equal: of each kind of plan once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from parsim.cluster.scalars import Ints, distinct_rows
from parsim.errors import PlanError
from parsim.model.dims import FREE, PLACEMENTS, dim_of_loads
from parsim.parallel.dimensions import EXPERT, UnevenShare, axis_of, rules, switched_on, view_of
from parsim.parallel.plan import MESH
from parsim.parallel.plans import Plans


class Table(NamedTuple):
    """The extent that each position of an axis has of a dim."""

    kinds: Ints  # that some plans have, [kind, position]
    which: Ints  # of them each plan has

    @property
    def parts(self) -> Ints:
        """Of each plan, [plan, position]."""
        return np.asarray(self.kinds[self.which])

    @property
    def worst(self) -> Ints:
        """The position that has the most; of several, the first."""
        return np.asarray(np.argmax(self.kinds, axis=1)[self.which])

    def at(self, position: int | Ints) -> Ints:
        """What a position of each plan has."""
        return np.asarray(self.kinds[self.which, position])

    def take(self, rows: Ints | slice) -> Table:
        """The same of some of the plans."""
        return Table(self.kinds, self.which[rows])


def of_loads(loads: int, shares: Iterable[UnevenShare]) -> Iterator[UnevenShare]:
    """The shares of slots in layers whose experts have these loads."""
    return ((dim_of_loads(dim, loads), axis, share) for dim, axis, share in shares)


def tables_of(
    plans: Plans, dims: Mapping[str, Ints], degrees: Mapping[str, Ints], known: tuple[UnevenShare, ...]
) -> dict[tuple[str, str], Table]:
    """The tables of dimensions that are on, by each name that a relabel may give their dims; a position that a plan lacks has nothing.

    Raises:
        PlanError: a table does not share out its dim, or its axis cuts the same extent otherwise under another name.
    """
    found: dict[tuple[str, str], Table] = {}
    on = set(plans.each(MESH, switched_on)[0]) if known else set()
    cut = {(dim, axis) for names in on for dim, over in rules(names).items() for axis in over}
    for dim, axis, share in known:
        if (dim[0], axis) not in cut or dim not in dims:
            continue
        first, which = distinct_rows([dims[dim], degrees[axis]], len(dims[dim]))
        extents, parts = dims[dim][first], np.zeros((len(first), int(degrees[axis].max())), dtype=np.int64)
        for kind, (extent, degree) in enumerate(zip(extents, degrees[axis][first], strict=True)):
            parts[kind, :degree] = share(int(extent), int(degree))
        if np.any(parts.sum(axis=1) != extents) or np.any(parts < 0):
            raise PlanError(f"the table of {axis} does not share out dim {dim}: {parts.tolist()} of {extents.tolist()}")
        found[dim, axis] = Table(parts, which)
        if other := {"B": "T", "T": "B"}.get(dim):
            tokens = Table(parts[which] * dims[other][:, None], np.arange(len(which)))
            found |= {(name, axis): tokens for name in FREE}
    shared = {axis for names in on if view_of(map(axis_of, names)) == EXPERT for dim in FREE for axis in rules(names).get(dim, ())}
    if dealt := sorted(axis for dim, axis in found if dim in FREE and axis in shared):
        raise PlanError(f"the table of {dealt[0]} deals out tokens, which all ranks of a stage share evenly on their way to experts")
    for (dim, axis), table in [*found.items()]:
        for other in (name for names in PLACEMENTS if dim[0] in names for name in names):
            own = found.get((other + dim[1:], axis))
            if (other, axis) in cut and (own is None or np.any(own.parts != table.parts)):
                raise PlanError(f"{axis} cuts dim {dim} by a table, and otherwise dim {other}, which is the same extent elsewhere")
            found[other + dim[1:], axis] = table
    return found
