"""How a collective cuts its tensor where a table says what each rank has: extents along the dim, and elements of each chunk.

All readers of a Step ask here: estimate and simulate count and price these chunks, and execute cuts its buffers so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from parsim.collectives import ChunkTable
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.tables import Table
from parsim.parallel.sharding import Sharding
from parsim.step.task import Collective, Operand


def chunks_of(task: Collective, sizes: Sizes) -> ChunkTable:
    """Elements of each chunk [plan, position], of an all_to_all [plan, source, destination]; None where no table cuts what moves."""
    sides = [side for side in (_source_side(task), _target_side(task)) if side]
    tables = [table for side in sides if (table := side.table(sizes))]
    if not tables:
        return None
    first, width = sides[0].sharding, tables[0].parts.shape[1]
    others = [at for at, dim in enumerate(first.dims) if dim not in {side.dim for side in sides}]
    rest = sizes.elements(Sharding(tuple(first.dims[at] for at in others), tuple(first.axes[at] for at in others), loads=first.loads))
    parts = [side.parts(sizes, width) for side in sides]
    if task.operation == "all_to_all":
        return parts[0][:, :, None] * parts[1][:, None, :] * rest[:, None, None]
    return parts[0] * rest[:, None]


def extents_of(task: Collective, sizes: Sizes) -> Ints | None:
    """What each position gets of the dim that a reduce_scatter or an all_to_all cuts [plan, position]; None where all get the same."""
    side = _target_side(task)
    table = side.table(sizes) if side else None
    return side.parts(sizes, table.parts.shape[1]) if side and table else None


def tensor_elements(chunks: np.ndarray, position: int | Ints) -> Ints:
    """Elements of the tensor that such chunks make up; of an all_to_all those that the rank at a position has at first, its row."""
    rows = chunks[np.arange(len(chunks)), position] if chunks.ndim > 2 else chunks
    return np.asarray(rows.sum(axis=-1))


class _Side(NamedTuple):
    """A dim that lies in parts before or after a collective, a part a rank along the axis."""

    sharding: Sharding
    dim: str
    axis: str

    def table(self, sizes: Sizes) -> Table | None:
        return sizes.tables.get((self.sharding.sized_dim(self.dim), self.axis))

    def parts(self, sizes: Sizes, width: int) -> Ints:
        """Extents of so many positions [plan, position]; one that a plan lacks has nothing."""
        if table := self.table(sizes):
            others = tuple(axis for axis in self.sharding.axes[self.sharding.dims.index(self.dim)] if axis != self.axis)
            whole, own = sizes.dims[self.sharding.sized_dim(self.dim)], Sharding((self.dim,), (others,), loads=self.sharding.loads)
            return table.parts * sizes.local(own, self.dim)[:, None] // whole[:, None]
        return np.where(np.arange(width) < sizes.degrees[self.axis][:, None], sizes.local(self.sharding, self.dim)[:, None], 0)


def _source_side(task: Collective) -> _Side | None:
    if task.operation in ("all_gather", "all_to_all") and isinstance(task.source, Operand):
        return _Side(task.source.sharding, task.source.dims[task.dim], *task.group.axes)
    return None


def _target_side(task: Collective) -> _Side | None:
    if task.operation in ("reduce_scatter", "all_to_all") and isinstance(task.target, Operand):
        dim = task.split if task.operation == "all_to_all" else task.dim
        return _Side(task.target.sharding, task.target.dims[dim], *task.group.axes)
    return None
