"""The device mesh: where a rank stands on the axes of a plan.  The axes are those of the parallelism dimensions.

Ranks are numbered with the last axis fastest, as Megatron-LM's default order `tp-cp-ep-dp-pp` reads from right to left.  Where
ranks lie on nodes is the plan's `rank_order`, which prices see and results do not.
"""

from __future__ import annotations

from collections.abc import Mapping

from parsim.parallel.dimensions import axes


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


def group(rank: int, axis: str, degrees: Mapping[str, int]) -> tuple[int, ...]:
    """The ranks that differ from `rank` along `axis` only, in order of their coordinate."""
    at = coordinates(rank, degrees)
    return tuple(rank_at({**at, axis: i}, degrees) for i in range(degrees[axis]))


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
