"""What a rank's program yields: a step starts, a collective it has come to, a message it needs, a step has ended, or is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from parsim.executor.shards import ShardFile
from parsim.parallel.group import Group
from parsim_kernels import Operator
from parsim_kernels.signature import Array


class StepStart(Struct, frozen=True):
    """This rank starts a step; it goes on at once."""

    step: int


class CollectiveCall(Struct, frozen=True, kw_only=True):
    """A collective that this rank has come to; it goes on when all of `members` have."""

    key: tuple[object, ...]
    members: tuple[int, ...]
    operation: str
    group: Group
    names: tuple[str, ...]  # this rank's buffers
    target: str | None
    operator: Operator
    itemsize: int
    how: Mapping[str, Any]  # what the machine is told besides
    ps: int
    stream: str
    reads: tuple[str, ...]  # what it waits for, and what waits for it, on the clock
    writes: tuple[str, ...]
    shards: tuple[str, ...] = ()  # own parts of the buffers in `names`, where flat buffers are scattered or gathered


class MessageNeed(Struct, frozen=True):
    """A message that this rank needs before it can go on; it becomes the buffer `target`."""

    name: str
    target: str
    itemsize: int
    src: int


class StepEnd(Struct, frozen=True):
    """This rank has ended a step; it goes on at once."""

    step: int
    loss: float | None  # its part of the sum over ranks; None: it has none
    weights: Mapping[str, Array] | None = None  # its parts after the update, in steps that are evaluated


class Saved(Struct, frozen=True):
    """This rank has written its part of the checkpoint after so many steps; it goes on at once."""

    ended: int
    shard: ShardFile


Request = StepStart | CollectiveCall | MessageNeed | StepEnd | Saved
