"""`simulate`: the streams of every pipeline rank as simpy processes, and with contention the links that they share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final

from parsim.cluster.price import Price
from parsim.errors import PlanError
from parsim.parallel.plan import Plan
from parsim.schedules import Action
from parsim.simulator.demand import Placement
from parsim.simulator.gate import Gate
from parsim.simulator.memory import peak_bytes
from parsim.simulator.network import Leg, Network
from parsim.simulator.program import Program
from parsim.simulator.shards import Shards
from parsim.simulator.trace import Span, Trace
from parsim.step.task import Communicate
from parsim.step.timing import Market, boundary_prices, communicate_price, finish_price, gather_weights_price, reduce_price

if TYPE_CHECKING:
    import simpy

    from parsim.scenario import Scenario

    Events = Generator[simpy.Event, Any, None]


MOST_EVENTS: Final = 20_000_000  # simpy runs some 300 thousand of them a second


def simulate(scenario: Scenario, plan: Plan | str, *, contention: bool = False) -> Trace:
    """One simulated step of a plan.

    Args:
        scenario: what to simulate.
        plan: one of its plans, or another.
        contention: whether different collectives that overlap on a link share it, max-min fair.  Groups that are alike share theirs
            in any case: that is part of their price.

    Raises:
        ScenarioError: the scenario has no plan of that name.
    """
    chosen = scenario.plan(plan) if isinstance(plan, str) else plan
    market = Market(scenario.cluster, scenario.stack, scenario.batch)
    program = Program.of(scenario.model, market, chosen, dict(scenario.itemsize_bytes))
    return run(program, contention=contention)


def run(program: Program, *, contention: bool = False) -> Trace:
    """One simulated step of a program.

    Raises:
        PlanError: it would run too many events.
    """
    events = program.num_events()
    if events > MOST_EVENTS:
        raise PlanError(
            f"a simulated step would run about {events:,} events, above the {MOST_EVENTS:,} that take minutes",
            remedy="Ask the estimate, which gives the step time without contention, or raise micro_batch.",
        )
    import simpy  # imported here: the command line must start without it

    env = simpy.Environment()
    world = _World(program, env, Network(env) if contention else None)
    for rank in range(program.num_ranks):
        _Rank(rank, world).start()
    env.run()
    peaks = tuple(peak_bytes(program, rank) for rank in range(program.num_ranks))
    spans, flops, network = tuple(sorted(world.spans)), tuple(world.flops), world.network
    if network is None:
        return Trace(world.end_ps, spans, world.num_events, peaks, flops)
    return Trace(world.end_ps, spans, world.num_events + network.num_solved, peaks, flops, network.links(), network.losses())


def _communications(program: Program) -> Iterator[tuple[str, Price]]:
    """The name of each communication of a step, and its price."""
    step, sizes, market = program.step, program.sizes, program.market
    for segment in step.segments:
        tasks = (task for task in (*segment.forward, *segment.backward) if isinstance(task, Communicate))
        yield from ((task.name, communicate_price(task, sizes, market)) for task in tasks)
        yield segment.name, reduce_price(step, segment, sizes, market)
        yield segment.name, gather_weights_price(step, segment, sizes, market)
    yield from zip(("send", "gather"), boundary_prices(step, sizes, market), strict=True)
    for holding in map(program.holding, range(program.num_ranks)):
        yield from ((work.name, finish_price(step, work, sizes, holding, market)) for work in step.finish if work.operation)


@dataclass(slots=True)
class _World:
    """What the ranks share: messages, meetings across the pipeline, and what was seen."""

    program: Program
    env: simpy.Environment
    network: Network | None = None  # with contention
    placement: Placement = field(init=False)
    prices: dict[tuple[str, int], Price] = field(default_factory=dict)  # of communications, by name and picoseconds
    end_ps: int = 0  # of the last span; a timer that nobody waits for any more may come later
    spans: list[Span] = field(default_factory=list)
    arrived: dict[Action, simpy.Event] = field(default_factory=dict)
    meetings: dict[str, list[simpy.Event]] = field(default_factory=dict)
    num_events: int = 0
    flops: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flops = [0] * self.program.num_ranks
        sizes = self.program.sizes
        used_devices = prod(int(degree[0]) for degree in sizes.degrees.values())
        stride = int(sizes.group("pp")[1][0])
        self.placement = Placement(self.program.market.cluster, self.program.num_ranks, stride, used_devices)
        for name, price in _communications(self.program) if self.network else ():
            self.prices.setdefault((name, int(price.ps[0])), price)

    def legs(self, rank: int, task: str, ps: int, to: int | None) -> tuple[Leg, ...]:
        """How a communication of a rank loads links."""
        return self.placement.legs(rank, to, self.prices[task, ps])

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

    def spend(self, ps: int, stream: str, name: str, *, to: int | None = None) -> Events:
        """Time on a stream, and its span; to: the rank that a message goes to."""
        start = int(self.env.now)
        if self.world.network is None:
            yield self.env.timeout(ps)
        else:
            yield from self.share(self.world.network, ps, stream, name, to)
        end = self.world.end_ps = int(self.env.now)
        self.world.num_events += 1
        self.world.spans.append(Span(start, end, self.number, stream, name))

    def share(self, network: Network, ps: int, stream: str, name: str, to: int | None) -> Events:
        """The same time, stretched while others are on the links of a communication."""
        axis, _, task = name.rpartition(":")
        if stream == "compute" and not axis:
            yield self.env.timeout(ps)
        else:
            task = task if to is None else "send"
            yield from network.carry(self.world.legs(self.number, task, ps, to), axis if stream == "compute" else stream, task)

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
                yield from self.spend(int(self.program.prices.send[0]), f"send_{kind}", str(action), to=self.receiver(action))
                self.world.arrival(action).succeed()

    def receiver(self, action: Action) -> int:
        return self.program.rank_of(action.stage + (1 if action.kind == "F" else -1))

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
            yield from self.spend(ps, "compute", work.name if not work.operation else f"{work.axis}:{work.name}")
            if work.axis == "pp" and self.world.network is not None:  # shared links may hold up one of the members
                yield from self.world.meet(f"{work.name} ends", len(members))
