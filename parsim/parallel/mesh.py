"""The device mesh: the axes of a plan and where a rank stands on each.

Ranks are numbered with the last axis fastest, as Megatron-LM's default order `tp-cp-ep-dp-pp` reads from right to left.  Where
ranks lie on nodes is the plan's `rank_order`, which prices see and results do not.
"""

from __future__ import annotations

from typing import Final

AXES: Final = ("pp", "dp", "tp")  # outermost first: a dim that several axes shard nests in this order


def coordinates(rank: int, degrees: dict[str, int]) -> dict[str, int]:
    """Where `rank` stands on every axis.

    >>> coordinates(5, {"pp": 2, "dp": 2, "tp": 2})
    {'pp': 1, 'dp': 0, 'tp': 1}
    """
    found = {}
    for axis in reversed(AXES):
        rank, found[axis] = divmod(rank, degrees[axis])
    return {axis: found[axis] for axis in AXES}


def rank_at(at: dict[str, int], degrees: dict[str, int]) -> int:
    """The rank with these coordinates; inverse of `coordinates`."""
    rank = 0
    for axis in AXES:
        rank = rank * degrees[axis] + at[axis]
    return rank


def group(rank: int, axis: str, degrees: dict[str, int]) -> tuple[int, ...]:
    """The ranks that differ from `rank` along `axis` only, in order of their coordinate."""
    at = coordinates(rank, degrees)
    return tuple(rank_at({**at, axis: i}, degrees) for i in range(degrees[axis]))
