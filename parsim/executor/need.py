"""What a rank's program yields: a collective it has reached, or a message it awaits."""

from __future__ import annotations

from dataclasses import dataclass


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


Need = Meeting | Awaited
