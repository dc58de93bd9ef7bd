"""The device mesh: where a rank stands on the axes of a plan.  The axes are those of the parallelism dimensions.

Ranks are numbered with the last axis fastest, as Megatron-LM's default order `tp-cp-ep-dp-pp` reads from right to left.  Where
ranks lie on nodes is the plan's `rank_order`, which prices see and results do not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from parsim.parallel.dimensions import axes
from parsim.parallel.group import Group


def coordinates(rank: int, degrees: Mapping[str, int]) -> dict[str, int]:
    """Where `rank` stands on every axis; `degrees` names them outermost first.

    >>> coordinates(5, {"pp": 2, "dp": 2, "tp": 2})
    {'pp': 1, 'dp': 0, 'tp': 1}
    """
    found: dict[str, int] = {}
    for axis in reversed(list(degrees)):
        rank, found[axis] = divmod(rank, degrees[axis])
    return {axis: found[axis] for axis in degrees}


def rank_at(at: Mapping[str, int], degrees: Mapping[str, int]) -> int:
    """The rank with these coordinates; inverse of `coordinates`."""
    rank = 0
    for axis, degree in degrees.items():
        rank = rank * degree + at[axis]
    return rank


def members(rank: int, group: Group, degrees: Mapping[str, int], stages: Sequence[int] = ()) -> tuple[int, ...]:
    """The ranks of a rank's group, those that differ along its axes only, in order of their coordinates.

    `stages`: the only places along the pipeline that take part, where the group has homes.

    >>> members(5, Group(("pp", "tp")), {"pp": 2, "dp": 2, "tp": 2})
    (0, 1, 4, 5)
    """
    at = coordinates(rank, degrees)
    places = itertools.product(*(stages if group.homes else range(degrees[axis]) for axis in group.axes))
    return tuple(rank_at({**at, **dict(zip(group.axes, place, strict=True))}, degrees) for place in places)


def fastest_first(rank_order: str) -> tuple[str, ...]:
    """All axes, neighbours on nodes first: those that `rank_order` names, each other one behind the axis that it nests around.

    >>> fastest_first("dp-tp-pp")
    ('dp', 'dp_replicate', 'tp', 'pp')
    """
    found, inner = rank_order.split("-"), tuple(reversed(axes()))
    for place, axis in enumerate(inner):
        if axis not in found:
            found.insert(found.index(inner[place - 1]) + 1 if place else 0, axis)
    return tuple(found)
