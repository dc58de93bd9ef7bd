"""What a rank's program yields: that a step begins, a collective it has reached, a message it awaits, or that a step has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parsim.executor.values import Array


@dataclass(frozen=True, slots=True)
class Begun:
    """This rank begins a step; it goes on at once."""

    step: int


@dataclass(frozen=True, slots=True)
class Meeting:
    """A collective that this rank has reached; it goes on when all of `members` have."""

    key: tuple[object, ...]
    members: tuple[int, ...]
    operation: str
    axis: str
    names: tuple[str, ...]  # this rank's buffers
    target: str | None
    dim: int
    operator: str
    itemsize: int
    ps: int
    stream: str  # compute | beside | gradients
    shards: tuple[str, ...] = ()  # own parts of the buffers in `names`, where flat buffers are scattered or gathered
    add: bool = False  # a scattered sum is added to the shards


@dataclass(frozen=True, slots=True)
class Awaited:
    """A message that this rank needs before it can go on."""

    name: str
    itemsize: int
    src: int


@dataclass(frozen=True, slots=True)
class Ended:
    """This rank has ended a step; it goes on at once."""

    step: int
    loss: float | None  # its part of the sum over ranks; None: it has none
    weights: Mapping[str, Array] | None = None  # its parts after the update, in steps that are evaluated


Need = Begun | Meeting | Awaited | Ended
