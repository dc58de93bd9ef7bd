"""Which samples count on a machine that others use too: those whose threads hardly waited for a core, and had all of it.

A virtual core may share a physical one with a core of another guest: then it runs at half its speed, and no queue inside this guest is
longer.  So a fixed piece of work, the pace, is timed beside each sample, and the sample counts where it took about as long as it ever did.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from parsim.errors import ParsimError

MOST_WAIT: Final = 0.01  # of a sample's wall time, in the queue of runnable threads
MOST_PACE: Final = 1.2  # of the least pace; a core that is shared with another guest takes 1.8 to 2
_PACE_LOOPS: Final = 1500  # tens of microseconds: short beside what is timed, long beside reading a clock
_TASKS: Final = Path("/proc/self/task")


class Gate:
    """Reads how long this process's threads have waited for a core, in the second field of their schedstat.

    Source: Linux, Documentation/scheduler/sched-stats.rst: time spent waiting on a runqueue, in nanoseconds.
    """

    def __init__(self, tasks: Path = _TASKS) -> None:
        """Opens the file of every thread that there is now.

        Raises:
            ParsimError: the kernel keeps no such statistics.
        """
        self._waited_ns: dict[int, int] = {}  # by file, as last read
        for path in sorted(tasks.glob("*/schedstat")):
            try:
                self._waited_ns[os.open(path, os.O_RDONLY)] = 0
            except (FileNotFoundError, ProcessLookupError):
                continue  # the thread has ended since it was listed
            except OSError as error:
                raise ParsimError(f"cannot read {error.filename}: {error.strerror}", remedy=_REMEDY) from error
        if not self._waited_ns:
            raise ParsimError(f"no schedstat below {tasks}", remedy=_REMEDY)

    def wait_ns(self) -> int:
        """Nanoseconds that the threads have waited since they began; one that has ended stays at what it had waited when last read."""
        for file in self._waited_ns:
            try:
                self._waited_ns[file] = int(os.pread(file, 128, 0).split()[1])
            except ProcessLookupError:
                continue  # were its wait forgotten, the others' would seem to be less
        return sum(self._waited_ns.values())

    def close(self) -> None:
        """Close the files."""
        for file in self._waited_ns:
            os.close(file)
        self._waited_ns = {}


def pace_s() -> float:
    """Seconds of a fixed piece of work on this core now: the less of two, so that an interrupt does not count."""
    found = []
    for _ in range(2):
        start, total = time.perf_counter(), 0
        for number in range(_PACE_LOOPS):
            total += number & 3
        found.append(time.perf_counter() - start)
    return min(found)


def is_clean(wall_s: float, wait_s: float) -> bool:
    """Whether a sample waited so little that its wall time is its own.

    >>> is_clean(1e-3, 0.0), is_clean(1e-3, 2e-5)
    (True, False)
    """
    return wait_s <= MOST_WAIT * wall_s


_REMEDY: Final = "Timing needs Linux with scheduler statistics (CONFIG_SCHED_INFO): without them nobody can tell a clean sample."
