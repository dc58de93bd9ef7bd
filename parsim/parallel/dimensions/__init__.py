"""Parallelism dimensions, one small file each: which named dims a mesh axis shards.  Everything else is derived from that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parsim.parallel.mesh import AXES
from parsim.registry import Registry


@dataclass(frozen=True, slots=True)
class Dimension:
    """A parallelism dimension: the named dims its mesh axis shards."""

    name: str  # 'tensor_parallel', as in a scenario file
    axis: str  # 'tp'
    shards: tuple[str, ...]  # ('K', 'F', 'V')
    source: str


DIMENSIONS: Registry[Dimension] = Registry("parallelism dimension")


def rules(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """dim -> the axes that shard it, outermost first, under these dimensions.

    >>> rules(["tensor_parallel", "sequence_parallel"])["T"]
    ('tp',)
    """
    DIMENSIONS.discover(__name__)
    found: dict[str, set[str]] = {}
    for name in names:
        dimension = DIMENSIONS.get(name)
        for dim in dimension.shards:
            found.setdefault(dim, set()).add(dimension.axis)
    return {dim: tuple(a for a in AXES if a in axes) for dim, axes in found.items()}
