"""The processes of a session: what memory they hold together, and which of them are left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

_KIB: Final = re.compile(r"^(RssAnon|RssShmem):\s+(\d+) kB", re.MULTILINE)
_GRACE_S: Final = 3.0  # for those whose parent has ended to end, too


class Session(Struct):
    """A session, and the most that its processes have held, what they share counted once."""

    leader: int
    peak_bytes: int = 0

    def look(self) -> None:
        """Take note of what they hold now."""
        held = [{name: int(kib) * 1024 for name, kib in _KIB.findall(_text(pid, "status"))} for pid in self._pids()]
        own, shared = (sum(each.get("RssAnon", 0) for each in held), max((each.get("RssShmem", 0) for each in held), default=0))
        self.peak_bytes = max(self.peak_bytes, own + shared)

    def end(self) -> list[int]:
        """The processes that are still there when the leader has long ended; they are killed."""
        until = time.monotonic() + _GRACE_S
        while (left := [*self._pids()]) and time.monotonic() < until:
            time.sleep(0.02)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _pids(self) -> Iterator[int]:
        for name in filter(str.isdecimal, os.listdir("/proc")):
            state, _, _, session = (_text(int(name), "stat").rpartition(") ")[2].split() or ["Z", "", "", ""])[:4]
            if session == str(self.leader) and state not in "ZX":
                yield int(name)


def _text(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # it has ended
        return ""
