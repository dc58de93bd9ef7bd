"""A queue: what it serves one after another, in the order in which they come."""

from __future__ import annotations


class Line:
    """A port or a server, at work without a pause while anybody waits: Lindley's recursion over integer picoseconds.

    First come, first served, a message at a time.  A fair share would carry as many bytes a second, and end all messages of a round
    at its end.
    """

    __slots__ = ("busy_ps", "free_ps")

    def __init__(self) -> None:
        self.free_ps = 0  # when all that have come are served
        self.busy_ps = 0

    def enter(self, now_ps: int, work_ps: int) -> int:
        """When work that comes now will be done; nobody may come earlier than those before.

        >>> line = Line()
        >>> line.enter(0, 10), line.enter(4, 5), line.enter(20, 5)
        (10, 15, 25)
        """
        start = self.free_ps if self.free_ps > now_ps else now_ps
        self.free_ps = start + work_ps
        self.busy_ps += work_ps
        return self.free_ps
