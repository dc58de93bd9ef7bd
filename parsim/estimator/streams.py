"""The streams of a rank: when each task starts and ends, and what compute waited for.  One rule for passes and for the end of a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parsim.cost.sizes import Ints
from parsim.step.task import COMPUTE_STREAM, HOST, Collective, Compute, HostCopy, Launches, Task, Wait, reads


def exposure(name: str) -> str:
    """The charge of compute that waits for a link, or for the streams of a group."""
    return f"exposed_{name}"


class Streams:
    """Ends of what was issued so far, and charges of the compute stream; `work` is what its kernels are charged to."""

    def __init__(self, start: Ints, work: str) -> None:
        self.compute, self.work = start, work
        self.meet: Callable[[Task, Ints], Ints] | None = None  # when all who start a task together are there, where they are not alike
        self.ends: dict[str, Ints] = {}
        self.pending: dict[str, list[tuple[str, Ints]]] = {}  # by stream, of what compute has not waited for: charge and end
        self.ready: dict[str, tuple[str, Ints]] = {}  # buffers that a stream beside compute wrote
        self.charges: dict[str, Ints] = {}

    def begin(self, stream: str, end: Ints) -> None:
        """A stream that was busy before."""
        self.ends[stream], self.pending[stream] = end, [(exposure(stream), end)]

    def issue(self, task: Task, ps: Ints) -> None:
        """The next task; a message is the schedule's, and a buffer that comes to life takes no time."""
        match task:
            case Wait():
                for stream in task.streams:
                    for charge, end in self.pending.pop(stream, ()):
                        self.wait(end, charge)
                self._await(task)
            case Compute() | Collective() | HostCopy() | Launches() if task.stream != COMPUTE_STREAM:
                self._beside(task, ps)
            case Compute() | Collective() | Launches():
                self._await(task)
                if self.meet and isinstance(task, Collective):
                    self.wait(self.meet(task, self.compute), "bubble")
                self._charge(self._name(task), ps)
                self.compute = self.compute + ps

    def wait(self, end: Ints, charge: str) -> None:
        """Compute goes on no sooner than `end`."""
        later = np.maximum(self.compute, end)
        self._charge(charge, later - self.compute)
        self.compute = later

    def _await(self, task: Task) -> None:
        for name in reads(task) if self.ready else ():
            if name in self.ready:
                charge, end = self.ready[name]
                self.wait(end, charge)

    def _beside(self, task: Compute | Collective | HostCopy | Launches, ps: Ints) -> None:
        start = np.maximum(self.compute, self.ends.get(task.stream, self.compute))
        for name in reads(task):
            if name in self.ready:
                start = np.maximum(start, self.ready[name][1])
        end = self.ends[task.stream] = (self.meet(task, start) if self.meet else start) + ps
        charge = self._name(task)
        self.pending.setdefault(task.stream, []).append((charge, end))
        if isinstance(task, Collective):
            self.ready[task.target.name] = charge, end

    def _name(self, task: Compute | Collective | HostCopy | Launches) -> str:
        match task:
            case Compute():
                return self.work
            case Collective():
                return exposure(task.group.name)
            case HostCopy():
                return exposure(HOST)
        return "other"

    def _charge(self, name: str, ps: Ints) -> None:
        self.charges[name] = self.charges[name] + ps if name in self.charges else ps
