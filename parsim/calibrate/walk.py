"""Times every kernel call where it happens: in steps of small models that one process really trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from parsim.calibrate.gate import Gate, pace_s
from parsim.calibrate.samples import Samples
from parsim.cost.buckets import weight_elements
from parsim.cost.count import bucket_of, element_bytes
from parsim.cost.work import Work, law_name, works_of
from parsim.executor import program
from parsim.executor.bind import Bound
from parsim.executor.clock import Clock
from parsim.executor.job import Job, RunRequest
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.model.dims import COMPUTE
from parsim.model.op_kinds import COSTS
from parsim.step.task import Compute
from parsim_kernels import Channel, Machine

_NS_PER_S: Final = 1e9
_TURN: Final = (False, True, True)  # which steps of a model's turn are timed: the first warms the caches
_TURNS: Final = 3  # of every model, if the time can be stretched to so many times what was asked for:
MOST_STRETCH: Final = 3.0
_EMPTY_CALLS: Final = 200
_ENDLESS: Final = 10**9  # steps; the time budget ends the walk


class TimedCall(NamedTuple):
    """What a law is asked: its name, and the work of one call."""

    kernel: str
    flops: float
    moved_bytes: float
    written_bytes: float = 0.0
    num_matrices: float = 0.0

    @classmethod
    def of(cls, task: Compute, work: Work) -> TimedCall:
        """The call of a task of a single plan."""
        parts = (work.flops, work.moved_bytes, work.written_bytes, work.num_matrices)
        return cls(law_name(task), *(float(np.ravel(part)[0]) for part in parts))


class Walk(Struct):
    """What one model's steps took: seconds of calls, and between the calls; how many calls a step has."""

    calls: dict[TimedCall, Samples] = field(default_factory=dict)
    between: dict[str, Samples] = field(default_factory=dict)  # first | calls | keep | last: see Recorder
    num_calls: int = 0  # of a step
    parameter_bytes: int = 0
    overhead_s: float = 0.0  # of the timing itself, between two calls

    def at_pace(self, least_s: float) -> Walk:
        """What was seen at about the least pace."""
        calls = {call: each.at_pace(least_s) for call, each in self.calls.items()}
        return replace(self, calls=calls, between={gap: each.at_pace(least_s) for gap, each in self.between.items()})


class Recorder(Struct):
    """Times calls while it is `on`, and what lies between them; a call within a timed one is part of it.

    Before a step's first call gradients are cleared, and before the first `clip` they are kept for whoever looks at them.
    """

    gate: Gate
    walk: Walk
    on: bool = False
    _inside: bool = False
    _clipped: bool = False
    _num_calls: int = 0
    _wait_ns: int = 0
    _end_ns: int = 0
    _pace_s: float = 0.0  # when the step began
    _pending: list[tuple[Samples, float, float]] = field(default_factory=list)  # of this step: where to, wall and wait [s]

    @property
    def times(self) -> bool:
        """Whether it would time a call."""
        return self.on and not self._inside

    def begin(self) -> None:
        """A step begins."""
        self._clipped, self._num_calls, self._pace_s = False, 0, pace_s()
        self._wait_ns, self._end_ns = self.gate.wait_ns(), time.perf_counter_ns()

    def finish(self) -> None:
        """It has ended: its samples have the slower pace of its begin and its end."""
        end_ns = time.perf_counter_ns()
        self._sample(self.walk.between.setdefault("last", Samples()), end_ns - self._end_ns, self.gate.wait_ns() - self._wait_ns)
        self.walk.num_calls = self._num_calls
        pace = max(self._pace_s, pace_s())
        for samples, wall_s, wait_s in self._pending:
            samples.add(wall_s, wait_s, pace)
        self._pending.clear()

    def time(self, call: TimedCall, act: Callable[[], None]) -> None:
        """Run a call, and keep how long it took."""
        if not self.times:
            act()
            return
        self._inside = True
        waited, start_ns = self.gate.wait_ns(), time.perf_counter_ns()
        act()
        end_ns, wait_ns = time.perf_counter_ns(), self.gate.wait_ns()
        self._sample(self.walk.calls.setdefault(call, Samples()), end_ns - start_ns, wait_ns - waited)
        gap = "first" if not self._num_calls else "keep" if call.kernel == "clip" and not self._clipped else "calls"
        self._sample(self.walk.between.setdefault(gap, Samples()), start_ns - self._end_ns, waited - self._wait_ns)
        self._clipped |= call.kernel == "clip"
        self._inside, self._wait_ns, self._end_ns = False, wait_ns, time.perf_counter_ns()
        self._num_calls += 1

    def _sample(self, samples: Samples, wall_ns: int, wait_ns: int) -> None:
        self._pending.append((samples, wall_ns / _NS_PER_S, wait_ns / _NS_PER_S))


def overhead_s(gate: Gate) -> float:
    """What the timing itself adds between two calls [s]."""
    empty = Recorder(gate, Walk(), on=True)
    empty.begin()
    for _ in range(_EMPTY_CALLS):
        empty.time(TimedCall("", 0.0, 0.0), lambda: None)
    empty.finish()
    return float(np.median(empty.walk.between["calls"].seconds or [0.0]))


class TimedRank(Rank):
    """A rank whose tasks of a pass are timed, with all that it does around a kernel."""

    recorder: Recorder
    calls: dict[int, TimedCall]  # by the identity of the task

    def compute(self, bound: Bound) -> None:
        """As Rank has it, timed; the machine times those of a step's end, one a weight."""
        task = bound.task
        assert isinstance(task, Compute)
        if bucket_of(task) is not None:
            Rank.compute(self, bound)
            return
        if id(task) not in self.calls:
            self.calls[id(task)] = TimedCall.of(task, next(works_of(task, self.job.sizes)))
        self.recorder.time(self.calls[id(task)], lambda: Rank.compute(self, bound))


class TimedMachine(Machine):
    """A machine whose kernels are timed where no task is: those of a step's end."""

    def __init__(self, recorder: Recorder, element_bytes: dict[str, int]) -> None:
        """`element_bytes`: what each kernel of a step's end moves for an element."""
        super().__init__(1)
        self.recorder, self.element_bytes = recorder, element_bytes

    def compute(self, rank: int, kernel: str, inputs: Sequence[str], *args: Any, **flags: Any) -> None:
        """As Machine has it, timed."""
        call = partial(Machine.compute, self, rank, kernel, inputs, *args, **flags)
        if not self.recorder.times:
            call()
            return
        elements = self.get(rank, inputs[0]).size
        work = float(COSTS[kernel].per_element * elements), float(self.element_bytes[kernel] * elements)
        self.recorder.time(TimedCall(kernel, *work), call)


class Trainer:
    """One model that trains on one rank, step by step."""

    def __init__(self, gate: Gate, job: Job) -> None:
        self.walk = Walk()
        self.recorder = Recorder(gate, self.walk)
        moved_bytes = {task.kernel: element_bytes(task, job.sizes) for task in job.step.finish if isinstance(task, Compute)}
        machine = TimedMachine(self.recorder, moved_bytes)
        rank = TimedRank(0, job, machine, Clock(), _Nobody())
        rank.recorder, rank.calls = self.recorder, {}
        self._phases = program.run(rank, _ENDLESS, Record(machine.ledgers[0]))
        held = ((copies, weight) for name, copies in job.workload.copies_on(0).items() for weight in job.step.segments[name].own_weights)
        elements = sum((copies * weight_elements(weight, "whole", job.sizes) for copies, weight in held), start=job.sizes.zero)
        self.walk.parameter_bytes = int(elements[0]) * job.itemsize(COMPUTE)

    def step(self, *, timed: bool) -> None:
        """One step, to warm up or with its calls timed."""
        self.recorder.on = timed
        next(self._phases)  # it begins
        self.recorder.begin()
        next(self._phases)
        if timed:
            self.recorder.finish()


def sample_kernels(channel: Channel, runs: Sequence[RunRequest], seconds: float) -> list[Walk]:
    """What the steps of each run took, in turns, for about so many seconds; a target for `launch`.  Reports the share that is done.

    Several ranks train at the same time, each by itself and from another model on, so that every call meets all others.
    """
    gate, start, trainers = Gate(), time.perf_counter(), list[Trainer]()
    for run in runs:
        trainer = Trainer(gate, run.job())
        trainer.step(timed=False)
        trainer.walk.overhead_s = overhead_s(gate)
        trainers.append(trainer)
        if time.perf_counter() - start > MOST_STRETCH * seconds:
            break  # too few samples anyway, and whoever asked for a second does not wait for a minute
    first = len(trainers) * channel.rank // channel.num_ranks
    channel.barrier()
    start = time.perf_counter()
    for number, trainer in enumerate(cycle([*trainers[first:], *trainers[:first]]), start=1):
        for timed in _TURN:
            trainer.step(timed=timed)
        done = (time.perf_counter() - start) / seconds
        channel.report(min(done, 1.0))
        if done >= (1.0 if number >= _TURNS * len(trainers) else MOST_STRETCH):
            break
    gate.close()
    return [trainer.walk for trainer in trainers]


class _Nobody:
    """The wire of a single rank."""

    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        """Nobody is there."""
        raise AssertionError("a single rank sends nothing")
