"""Parallelism dimensions, one small file each: which named dims a mesh axis shards.  Everything else is derived from that.

The mesh has two views of the same ranks of a stage: dense axes, and expert axes of the same product, which number the ranks anew.

A dimension without a field of its own in Plan is asked for by its name in `Plan.dimensions`, `dimensions: {NAME: 2}` in a scenario.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from parsim.model.dims import FULL, REVERSED, TOKENS
from parsim.registry import Registry


class Degrees(Protocol):
    """What a plan says of its dimensions, as far as files of this package ask; a plan has a field for each dimension of its name, too."""

    def __hash__(self) -> int:
        """Plans that say the same lie alike."""

    @property
    def data_parallel(self) -> int:
        """Replicas."""

    @property
    def zero_group(self) -> int | None:
        """Ranks over which ZeRO shards; None: all replicas."""

    @property
    def context_parallel(self) -> int:
        """Ranks that split each sequence."""

    @property
    def context_group(self) -> int | None:
        """Neighbours among them that form a group, where the kind has another rule inside groups; None: no groups."""

    @property
    def context_kind(self) -> str:
        """What attention does where context parallelism splits sequences."""

    @property
    def dimensions(self) -> tuple[tuple[str, int], ...]:
        """Degrees of dimensions that have no field, by name."""


UnevenShare = tuple[str, str, Callable[[int, int], Sequence[int]]]  # dim, axis, and the extent of each rank by that of all and their number
DENSE, EXPERT, OUTSIDE = "dense", "expert", "outside"


class Dimension(Struct, frozen=True, eq=False):
    """A parallelism dimension: the named dims its mesh axis shards.  Equal to itself only."""

    name: str  # 'tensor_parallel', as in a scenario file
    axis: str  # 'tp'
    shards: tuple[str, ...]  # ('K', 'F', 'V')
    source: str
    nesting: int | None = 50  # places its axis on the mesh, the outermost lowest; None: on or off, over the axis of another dimension
    degree: Callable[[Degrees], int] | None = None  # ranks along the axis, or whether it is on; None: the plan's value of this name
    waits_for: str = "collectives that no compute hides"  # what compute waits for where its axis is exposed; after "it waits for "
    share: Callable[[int, int], Sequence[int]] | None = None  # (extent, ranks) -> the extent of each rank; None: equal parts
    chunks: Callable[[int], Sequence[int]] | None = (
        None  # ranks -> equal chunks of a sequence as they lie from rank to rank; None: in order
    )
    replicates: bool = False  # its ranks hold the same weights: gradients are summed over it step by step, and ZeRO shards over it
    view: str = DENSE  # of the ranks of a stage; OUTSIDE: its axis stands around both views
    fills: bool = False  # takes the ranks that other axes of the expert view leave


DIMENSIONS: Registry[Dimension] = Registry("parallelism dimension")


def names() -> tuple[str, ...]:
    """All known dimensions."""
    DIMENSIONS.discover(__name__)
    return DIMENSIONS.names()


def all_dimensions() -> tuple[Dimension, ...]:
    """The same themselves."""
    DIMENSIONS.discover(__name__)
    return DIMENSIONS.values()


def axes() -> tuple[str, ...]:
    """The mesh axes, outermost first: a dim that several axes shard nests in this order.

    >>> axes()
    ('pp', 'dp_replicate', 'dp', 'edp', 'ep', 'cp', 'cp_group', 'tp', 'etp')
    """
    return tuple(_by_axis(all_dimensions()))


def axes_of(view: str) -> tuple[str, ...]:
    """The mesh axes of one view, outermost first.

    >>> axes_of(OUTSIDE), axes_of(DENSE)
    (('pp', 'dp_replicate'), ('dp', 'cp', 'cp_group', 'tp'))
    """
    return _axes_of(all_dimensions(), view)


@functools.lru_cache(maxsize=64)
def _axes_of(every: tuple[Dimension, ...], view: str) -> tuple[str, ...]:
    return tuple(axis for axis, each in _by_axis(every).items() if each.view == view)


@functools.lru_cache(maxsize=16)
def _by_axis(every: tuple[Dimension, ...]) -> Mapping[str, Dimension]:
    own = [each for each in every if each.nesting is not None]
    return {each.axis: each for each in sorted(own, key=lambda each: (each.nesting, each.axis))}


def view_of(over: Iterable[str]) -> str:
    """The view to which axes belong; the dense one where all stand around both."""
    return EXPERT if set(over) & set(axes_of(EXPERT)) else DENSE


def axis_of(name: str) -> str:
    """The axis of a dimension."""
    names()
    return DIMENSIONS.get(name).axis


def waits() -> dict[str, str]:
    """What compute waits for, by axis."""
    own = _by_axis(all_dimensions())
    return {axis: own[axis].waits_for for axis in reversed(axes())}


def replica_axes() -> tuple[str, ...]:
    """The axes over which weights are replicated and ZeRO may shard, outermost first."""
    own = {each.axis for each in all_dimensions() if each.replicates}
    return tuple(axis for axis in axes() if axis in own)


def uneven() -> tuple[UnevenShare, ...]:
    """Dim, axis and rule of each dimension that does not cut its dims into equal parts."""
    return tuple((dim, each.axis, each.share) for each in all_dimensions() if each.share for dim in each.shards)


class _Laid(NamedTuple):
    """How the ranks of a plan lie."""

    degrees: Mapping[str, int]
    on: tuple[str, ...]
    rules: Mapping[str, tuple[str, ...]]


def degrees(plan: Degrees) -> Mapping[str, int]:
    """Ranks along each axis, in mesh order."""
    return _laid(plan, all_dimensions()).degrees


def switched_on(plan: Degrees) -> tuple[str, ...]:
    """Names of the dimensions that are on, in mesh order: an axis of degree 1 is off."""
    return _laid(plan, all_dimensions()).on


@functools.lru_cache(maxsize=2**14)
def _laid(plan: Degrees, every: tuple[Dimension, ...]) -> _Laid:
    own, experts = _by_axis(every), _axes_of(every, EXPERT)
    found = {axis: _degree_of(plan, each) for axis, each in own.items()}
    others = math.prod(found[axis] for axis in experts)
    if others > 1 or {own[axis].name for axis in experts} & dict(plan.dimensions).keys():
        left = math.prod(found[axis] for axis in _axes_of(every, DENSE)) // others
        found |= {axis: max(1, left) for axis in experts if own[axis].fills}
    there = (each for each in _in_mesh_order(every) if found.get(each.axis, 1) > 1)
    on = tuple(each for each in there if each.nesting is not None or _degree_of(plan, each) != 0)
    return _Laid(found, tuple(each.name for each in on), _rules(on, every))


def num_ranks(found: Mapping[str, int]) -> int:
    """Ranks of a mesh of these degrees; the expert view numbers the same ones as the dense."""
    experts = axes_of(EXPERT)
    return math.prod(degree for axis, degree in found.items() if axis not in experts)


def split(plan: Degrees, dim: str) -> int:
    """Parts into which a plan cuts a named dim."""
    laid = _laid(plan, all_dimensions())
    return math.prod(laid.degrees[axis] for axis in laid.rules.get(dim, ()))


def chunks(plan: Degrees) -> tuple[int, ...]:
    """The equal chunks of a sequence as they lie from its first rank to its last; () where tokens lie in their own order."""
    found = degrees(plan)
    laid = (each for name in switched_on(plan) if (each := DIMENSIONS.get(name)).chunks)
    return next((tuple(each.chunks(found[each.axis])) for each in laid if each.chunks), ())


@functools.lru_cache(maxsize=16)
def _in_mesh_order(every: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    order = (*_by_axis(every), *(each.axis for each in every))
    return tuple(sorted(every, key=lambda each: (order.index(each.axis), each.nesting is None, each.name)))


def _degree_of(plan: Degrees, dimension: Dimension) -> int:
    """What the plan says of a dimension; where it says nothing, 1 rank, or off for one that has no ranks of its own."""
    if dimension.degree:
        return int(dimension.degree(plan))
    if (stated := getattr(plan, dimension.name, None)) is not None:
        return int(stated)
    return int(dict(plan.dimensions).get(dimension.name, 0 if dimension.nesting is None else 1))


def rules(on: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """dim -> the axes that shard it, outermost first, under these dimensions.

    Tokens lie where their batch and sequence do; those inside experts likewise but for axes that shard the experts, unless a dimension
    of the expert view shards them.

    >>> rules(["tensor_parallel", "sequence_parallel"])["T"]
    ('tp',)
    """
    return _rules(tuple(map(DIMENSIONS.get, on)), all_dimensions())


@functools.lru_cache(maxsize=1024)
def _rules(on: tuple[Dimension, ...], every: tuple[Dimension, ...]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for dimension in on:
        for dim in dimension.shards:
            found.setdefault(dim, set()).add(dimension.axis)
    found |= {own: found[dim] for dim, own in FULL.items() if dim in found}
    tokens = found.get("B", set()) | found.get("T", set())
    around = tokens & set(_axes_of(every, OUTSIDE))
    is_expert = any(dimension.view == EXPERT for dimension in on)
    inside = found.get("G", set()) | around if is_expert else tokens - found.get("E", set())
    found |= {TOKENS: tokens, "G": inside}
    return {dim: nest_order(dim, over, every) for dim, over in found.items() if over}


def nest_order(dim: str, over: Iterable[str], every: tuple[Dimension, ...] | None = None) -> tuple[str, ...]:
    """Axes as they nest over a dim, outermost first.

    >>> nest_order("F", ("tp", "cp")), nest_order("A", ("tp", "cp"))
    (('cp', 'tp'), ('tp', 'cp'))
    """
    order = tuple(_by_axis(every or all_dimensions()))
    return tuple(sorted(over, key=order.index, reverse=dim in REVERSED))
