"""`simulate`: the streams of every pipeline rank as simpy processes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from parsim.errors import PlanError
from parsim.parallel.plan import Plan
from parsim.schedules import Action
from parsim.simulator.gate import Gate
from parsim.simulator.memory import peak_bytes
from parsim.simulator.program import Program
from parsim.simulator.shards import Shards
from parsim.simulator.trace import Span, Trace
from parsim.step.timing import Market

if TYPE_CHECKING:
    import simpy

    from parsim.scenario import Scenario

    Events = Generator[simpy.Event, Any, None]


MOST_EVENTS: Final = 20_000_000  # simpy runs some 300 thousand of them a second


def simulate(scenario: Scenario, plan: Plan | str) -> Trace:
    """One simulated step of a plan.

    Raises:
        ScenarioError: the scenario has no plan of that name.
    """
    chosen = scenario.plan(plan) if isinstance(plan, str) else plan
    market = Market(scenario.cluster, scenario.stack, scenario.batch)
    program = Program.of(scenario.model, market, chosen, dict(scenario.itemsize_bytes))
    return run(program)


def run(program: Program) -> Trace:
    """One simulated step of a program.

    Raises:
        PlanError: it would run too many events.
    """
    events = program.num_events()
    if events > MOST_EVENTS:
        raise PlanError(
            f"a simulated step would run about {events:,} events, above the {MOST_EVENTS:,} that take minutes",
            remedy="Ask the estimate, which gives the same step time, or raise micro_batch.",
        )
    import simpy  # imported here: the command line must start without it

    env = simpy.Environment()
    world = _World(program, env)
    for rank in range(program.num_ranks):
        _Rank(rank, world).start()
    env.run()
    peaks = tuple(peak_bytes(program, rank) for rank in range(program.num_ranks))
    return Trace(int(env.now), tuple(sorted(world.spans)), world.num_events, peaks, tuple(world.flops))


@dataclass(slots=True)
class _World:
    """What the ranks share: messages, meetings across the pipeline, and what was seen."""

    program: Program
    env: simpy.Environment
    spans: list[Span] = field(default_factory=list)
    arrived: dict[Action, simpy.Event] = field(default_factory=dict)
    meetings: dict[str, list[simpy.Event]] = field(default_factory=dict)
    num_events: int = 0
    flops: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flops = [0] * self.program.num_ranks

    def arrival(self, action: Action) -> simpy.Event:
        """The event of the message that an action sends."""
        if action not in self.arrived:
            self.arrived[action] = self.env.event()
        return self.arrived[action]

    def meet(self, name: str, num_members: int) -> Events:
        """Wait until all members have come; they go on in the order in which they came."""
        present = self.meetings.setdefault(name, [])
        event = self.env.event()
        present.append(event)
        if len(present) == num_members:
            for each in present:
                each.succeed()
        yield event


class _Rank:
    """The five streams of one pipeline rank."""

    def __init__(self, number: int, world: _World) -> None:
        self.number, self.world, self.env = number, world, world.env
        self.program = world.program
        self.issued, self.settled = Gate(world.env), Gate(world.env)
        self.reduced, self.summed = Gate(world.env), Gate(world.env)
        self.posted = {"F": Gate(world.env), "B": Gate(world.env)}
        self.shards = Shards(world.program, Gate(world.env), Gate(world.env))
        self.actions = world.program.order.by_rank[number]

    def start(self) -> None:
        processes = [self.compute(), *(self.sending(kind) for kind in "FB")]
        if self.program.step.structure.tensor_overlap:
            processes.append(self.beside())
        structure = self.program.step.structure
        if structure.per_pass and structure.gradient_overlap:
            processes.append(self.shards.beside(self))
        elif structure.gradient_overlap:
            processes.append(self.gradients())
        for process in processes:
            self.env.process(process)

    def spend(self, ps: int, stream: str, name: str) -> Events:
        start = int(self.env.now)
        yield self.env.timeout(ps)
        self.world.num_events += 1
        self.world.spans.append(Span(start, start + ps, self.number, stream, name))

    def last_backwards(self) -> set[Action]:
        """The last backward of each stage."""
        last = {action.stage: action for action in self.actions if action.kind == "B"}
        return set(last.values())

    def compute(self) -> Events:
        last = self.last_backwards()
        done = 0
        for action in self.actions:
            stage, kind, _ = action
            if self.program.receives(stage, kind):
                source = action._replace(stage=stage + (-1 if kind == "F" else 1))
                yield self.world.arrival(source)
                if self.program.step.structure.scatter_gather:
                    yield from self.spend(int(self.program.prices.gather[0]), "compute", "tp:gather")
            segments = self.program.segments(stage, kind)
            if self.program.step.structure.per_pass:
                done = yield from self.shards.action(self, action, segments, done)
            else:
                for segment in segments:
                    done = yield from self.one_pass(segment.name, action, done)
                    if action in last:
                        self.reduced.open()
            if self.program.sends(stage, kind):
                self.posted[kind].open()
        yield from self.finish()

    def one_pass(self, segment: str, action: Action, done: int) -> Generator[simpy.Event, Any, int]:
        each, start = self.program.passes[segment, action.kind], int(self.env.now)
        self.world.flops[self.number] += each.flops
        label = f"{action} {segment}"
        for kind, ps, name in each.items:
            if kind == "run":
                yield from self.spend(ps, "compute", name if name.startswith("tp:") else label)
            elif kind == "issue":
                self.issued.open()
            else:
                yield from self.settled.until(done + ps)
        done += each.num_issued
        yield from self.settled.until(done)
        left = each.floor_ps - (int(self.env.now) - start)
        if left > 0:
            yield from self.spend(left, "compute", "host")
        return done

    def beside(self) -> Events:
        """Collectives that run while compute goes on, in the order of their issue."""
        count = 0
        for stage, kind, _ in self.actions:
            for segment in self.program.segments(stage, kind):
                for item in self.program.passes[segment.name, kind].items:
                    if item.kind == "issue":
                        count += 1
                        yield from self.issued.until(count)
                        yield from self.spend(item.ps, "tp", item.name)
                        self.settled.open()

    def sending(self, kind: str) -> Events:
        """Messages to one neighbour, one after another."""
        count = 0
        for action in self.actions:
            if action.kind == kind and self.program.sends(action.stage, kind):
                count += 1
                yield from self.posted[kind].until(count)
                yield from self.spend(int(self.program.prices.send[0]), f"send_{kind}", str(action))
                self.world.arrival(action).succeed()

    def gradients(self) -> Events:
        """Each segment's gradients, summed over dp once its last backward has ended."""
        last, count = self.last_backwards(), 0
        for action in self.actions:
            if action in last:
                for segment in self.program.segments(action.stage, "B"):
                    count += 1
                    yield from self.reduced.until(count)
                    yield from self.spend(int(self.program.prices.reduce[segment.name][0]), "dp", segment.name)
                    self.summed.open()

    def finish(self) -> Events:
        structure = self.program.step.structure
        if structure.gradient_overlap and not structure.per_pass:
            yield from self.summed.until(self.reduced.count)
        self.world.flops[self.number] += self.program.finish_flops(self.number)
        prices, ends = self.program.finish_prices(self.number), {0, self.program.num_ranks - 1}
        for work, ps in zip(self.program.step.finish, prices, strict=True):
            if work.axis == "pp":
                members = ends if work.bucket == "tied" else set(range(self.program.num_ranks))
                if self.number not in members:
                    continue
                yield from self.world.meet(work.name, len(members))
            yield from self.spend(ps, "compute", work.name)
