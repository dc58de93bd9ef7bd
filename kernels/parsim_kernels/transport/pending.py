"""The messages that an exchange still waits for, and those that came too early."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import cast

from parsim_kernels.transport.channel import Incoming, Message
from parsim_kernels.transport.message import combine

Aside = dict[tuple[int, int], deque[Message]]  # by source and tag


class PendingReceives:
    """The receives of one exchange."""

    __slots__ = ("_after", "_aside", "_found", "_queues", "left", "missing", "receives")

    def __init__(self, receives: Sequence[Incoming], aside: Aside) -> None:
        """Take from `aside` what has come already."""
        self.receives, self.left, self._aside = receives, len(receives), aside
        self._found: list[Message | None] = [None] * len(receives)
        self._queues: dict[tuple[int, int], deque[int]] = {}
        self.missing: dict[int, int] = {}  # by source: messages to pull
        self._after: list[int] = []  # by receive: the one before it that goes into the same array, or -1
        last: dict[int, int] = {}
        for index, incoming in enumerate(receives):
            key = (incoming.src, incoming.tag)
            queue = self._queues.setdefault(key, deque())
            queue.append(index)
            here = len(queue) <= len(aside.get(key, ()))
            self.missing[incoming.src] = self.missing.get(incoming.src, 0) + (not here)
            self._after.append(-1 if incoming.into is None else last.get(id(incoming.into), -1))
            if incoming.into is not None:
                last[id(incoming.into)] = index
        if aside:
            self._settle()

    @property
    def messages(self) -> list[Message]:
        """All messages, in the order of the receives; `left` must be 0."""
        return cast("list[Message]", self._found)

    def match(self, src: int, tag: int) -> int | None:
        """The receive that a message from `src` goes to as it arrives, or None: it must be put aside."""
        queue = self._queues.get((src, tag))
        if not queue or self._aside.get((src, tag)) or not self._may_start(queue[0]):
            return None
        return queue.popleft()

    def accept(self, src: int, tag: int, index: int | None, message: Message) -> None:
        """Note a complete message, which was applied as receive `index` or put aside (None)."""
        if index is not None:
            self.missing[src] -= 1
            self._finish(index, message)
        elif len(self._aside[src, tag]) <= len(self._queues.get((src, tag), ())):
            self.missing[src] -= 1
        if self._aside:
            self._settle()

    def unmet(self) -> Iterator[tuple[int, int]]:
        """Source and tag of the messages that have not come."""
        return ((incoming.src, incoming.tag) for incoming, message in zip(self.receives, self._found, strict=True) if message is None)

    def _may_start(self, index: int) -> bool:
        before = self._after[index]
        return before < 0 or self._found[before] is not None

    def _finish(self, index: int, message: Message) -> None:
        self._found[index] = message
        self.left -= 1

    def _settle(self) -> None:
        """Apply, in the order of the list, what lies aside and may start."""
        for index, incoming in enumerate(self.receives):
            key = (incoming.src, incoming.tag)
            queue, waiting = self._queues[key], self._aside.get(key)
            if waiting and queue and queue[0] == index and self._may_start(index):
                queue.popleft()
                array, clock = waiting.popleft()
                if not waiting:
                    del self._aside[key]
                self._finish(index, Message(combine(incoming, array), clock))
