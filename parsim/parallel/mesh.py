"""The device mesh: where a rank stands on the axes of a plan.  The axes are those of the parallelism dimensions.

Ranks are numbered with the last dense axis fastest, as Megatron-LM's default order `tp-cp-ep-dp-pp` reads from right to left.  Where
ranks lie on nodes is the plan's `rank_order`, which prices see and results do not.  The expert view numbers the ranks of a stage anew,
in that order and with its innermost axis fastest.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from msgspec import Struct

from parsim.parallel.dimensions import DENSE, EXPERT, axes, axes_of, view_of
from parsim.parallel.group import Group


class Mesh(Struct, frozen=True, dict=True):
    """The ranks of one plan.

    >>> mesh = Mesh({"pp": 2, "dp": 2, "tp": 2}, ("tp", "dp", "pp"))
    >>> mesh.coordinates(5), mesh.members(5, Group(("pp", "tp")))
    ({'pp': 1, 'dp': 0, 'tp': 1}, (0, 1, 4, 5))
    """

    degrees: Mapping[str, int]  # outermost first
    order: tuple[str, ...]  # of the dense view: neighbours on nodes first

    @functools.cached_property
    def _numbered(self) -> tuple[str, ...]:
        """As ranks are, outermost first."""
        return tuple(axis for axis in self.degrees if axis not in axes_of(EXPERT))

    @functools.cached_property
    def _stage(self) -> tuple[str, ...]:
        """Of a stage in the dense view, fastest first."""
        return tuple(axis for axis in self.order if axis in self.degrees and axis in axes_of(DENSE))

    @functools.cached_property
    def _experts(self) -> tuple[str, ...]:
        """Of a stage in the view of experts, fastest first."""
        return tuple(axis for axis in reversed(axes_of(EXPERT)) if axis in self.degrees)

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where `rank` stands on every axis, in both views."""
        found = self._split(rank, reversed(self._numbered))
        found |= self._split(self._number(found, self._stage), self._experts)
        return {axis: found[axis] for axis in self.degrees}

    def rank_at(self, at: Mapping[str, int]) -> int:
        """The rank at these coordinates of the dense view; inverse of `coordinates`."""
        return self._number(at, self._numbered[::-1])

    def order_at_experts(self, moved: Sequence[str]) -> tuple[int, ...]:
        """The ranks of the first stage in the order in which experts have their tokens: those of the axis that moved last lie outermost.

        >>> mesh = Mesh({"pp": 1, "dp": 4, "tp": 2, "edp": 2, "ep": 2, "etp": 2}, ("tp", "dp", "pp"))
        >>> mesh.order_at_experts(("ep", "etp")), mesh.order_at_experts(())
        ((0, 2, 1, 3, 4, 6, 5, 7), (0, 1, 2, 3, 4, 5, 6, 7))
        """
        fastest_first = (*moved, *(axis for axis in self._experts if axis not in moved))
        places = [self.coordinates(rank) for rank in range(prod(self.degrees[axis] for axis in self._stage))]
        return tuple(sorted(range(len(places)), key=lambda rank: self._number(places[rank], fastest_first)))

    def members(self, rank: int, group: Group, stages: Sequence[int] = ()) -> tuple[int, ...]:
        """The ranks of a rank's group, those that differ along its axes only, in order of their coordinates.

        `stages`: the only places along the pipeline that take part; none: all of them.
        """
        at = self.coordinates(rank)
        found = []
        is_expert = view_of(group.axes) == EXPERT
        for place in itertools.product(*(stages or range(self.degrees[axis]) for axis in group.axes)):
            there = {**at, **dict(zip(group.axes, place, strict=True))}
            if is_expert:
                there |= self._split(self._number(there, self._experts), self._stage)
            found.append(self.rank_at(there))
        return tuple(found)

    def position(self, at: Mapping[str, int], group: Group) -> int:
        """Where the rank at these coordinates stands among those of its group."""
        return self._number(at, group.axes[::-1])

    def _number(self, at: Mapping[str, int], fastest_first: Sequence[str]) -> int:
        number = 0
        for axis in reversed(fastest_first):
            number = number * self.degrees[axis] + at[axis]
        return number

    def _split(self, number: int, fastest_first: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for axis in fastest_first:
            number, found[axis] = divmod(number, self.degrees[axis])
        return found


def fastest_first(rank_order: str) -> tuple[str, ...]:
    """The axes of the dense view, neighbours on nodes first: those that `rank_order` names, each other one behind the axis that it nests
    around.

    >>> fastest_first("dp-tp-pp")
    ('dp', 'dp_replicate', 'tp', 'cp_group', 'cp', 'pp')
    """
    return _fastest_first(rank_order, tuple(axis for axis in reversed(axes()) if axis not in axes_of(EXPERT)))


@functools.lru_cache(maxsize=1024)
def _fastest_first(rank_order: str, inner: tuple[str, ...]) -> tuple[str, ...]:
    found = rank_order.split("-")
    for place, axis in enumerate(inner):
        if axis not in found:
            found.insert(found.index(inner[place - 1]) + 1 if place else 0, axis)
    return tuple(found)


def order_of(view: str, order: Sequence[str]) -> tuple[str, ...]:
    """The axes of a view and around it, neighbours on nodes first: where the dense ones stand in `order`, the expert view has its own."""
    if view == DENSE:
        return tuple(order)
    dense = axes_of(DENSE)
    first = min(order.index(axis) for axis in dense)
    return (*order[:first], *reversed(axes_of(EXPERT)), *(axis for axis in order[first:] if axis not in dense))
