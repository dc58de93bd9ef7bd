"""`simulate`: one step of a plan by events, action by action, or stream by stream with the links that communications share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.asynchrony.protocol import Terms
from parsim.asynchrony.service import ServedWeights, service_of
from parsim.asynchrony.simulation import ComputePs, simulate_servers
from parsim.cost.cost_model import CostModel
from parsim.cost.workload import Workload
from parsim.cost.workloads import workload_of
from parsim.errors import PlanError
from parsim.parallel.plan import Plan
from parsim.simulator.memory import host_bytes, num_trained, peak_bytes
from parsim.simulator.program import Program, StreamItem, Walks
from parsim.simulator.trace import Trace
from parsim.step.task import Send

if TYPE_CHECKING:
    from parsim.scenario import Scenario
    from parsim.simulator.demand import Legs
    from parsim.simulator.rank import World

MOST_EVENTS: Final = 20_000_000  # simpy runs some 300 thousand of them a second, 50 thousand where links are shared


@check_arguments
def simulate(scenario: Scenario, plan: Plan | str, *, contention: bool = False, spans: bool = False) -> Trace:
    """One simulated step of a plan.

    Args:
        plan: one of its plans, or another.
        contention: whether different collectives that overlap on a link share it, max-min fair.  Groups that are alike share theirs
            in any case: that is part of their price.  Kernels then pay for the collectives that they meet in time, in an
            estimate for those that the order of issue has them meet: a step may be shorter, by a tenth of a percent in known cases.
        spans: whether to note every event on every stream; with contention they are noted in any case.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there, or would run too many events.

    >>> import parsim
    >>> scenario = parsim.load("scenarios/table5-22b.yaml")
    >>> simulate(scenario, "full").step_s == parsim.estimate(scenario, "full").step_s
    True
    """
    chosen = scenario.legal_plan(plan)
    workload = workload_in(scenario, chosen)
    found = run(workload, contention=contention, spans=spans)
    if workload.step.quiet and chosen.local_steps > 1:
        return replace(found, quiet_ps=run(workload.quiet, contention=contention).step_ps, num_steps=chosen.local_steps)
    return with_servers(found, workload, chosen) if chosen.is_served else found


def with_servers(found: Trace, workload: Workload, plan: Plan, compute_ps: ComputePs | None = None) -> Trace:
    """What a worker does by itself, with parameter servers: the step is that of all workers, once they have fallen into step.

    `compute_ps`: how long each gradient of each worker takes, where that is not as long as in the trace.
    """
    service = service_of(
        workload.model.cluster, Terms.of(plan), ServedWeights.of(workload.step.structure, workload.sizes, num_trained(workload))
    )
    served = simulate_servers(service, compute_ps or (lambda worker, number: found.step_ps))
    return replace(found, step_ps=served.step_ps, num_events=found.num_events + served.num_events, served=served)


def workload_in(scenario: Scenario, plan: Plan) -> Workload:
    """A plan's work in a scenario."""
    model = CostModel(scenario.cluster, scenario.stack, scenario.trained_by(plan).batch)
    return workload_of(scenario.model, model, plan, dict(scenario.itemsize_bytes))


def run(workload: Workload, *, contention: bool = False, spans: bool = False) -> Trace:
    """One simulated step of one plan; arguments and errors as in `simulate`."""
    program = Program(workload, shared=contention)
    walks = program.walks() if contention or spans else None
    events = program.num_events(walks)
    if events > MOST_EVENTS:
        raise PlanError(
            f"a simulated step would run about {events:,} events, above the {MOST_EVENTS:,} that take minutes",
            remedy="Ask the estimate, which gives the step time without contention, or raise micro_batch.",
        )
    world = play(program, walks, contention=contention)
    seen, network = () if walks is None else tuple(sorted(world.spans)), world.network
    solved, of_links = (network.num_solved, (network.links(), network.losses())) if network else (0, ())
    return Trace(world.end_ps, seen, world.num_events + solved, peak_bytes(program), host_bytes(program), program.flops, *of_links)


def play(program: Program, walks: Walks | None, *, contention: bool, noted: bool = True, legs: Legs | None = None) -> World:
    """The world after all ranks have run: action by action, or what their streams do.

    `noted`: whether spans are; `legs`: those of the program, where they are known.
    """
    import simpy  # imported here, and by what is: the command line must start without it

    from parsim.simulator.demand import Legs
    from parsim.simulator.network import SharedLinks
    from parsim.simulator.rank import RankStreams, World

    env = simpy.Environment()
    world = World(program, env, legs or Legs(program), walks, SharedLinks(env) if contention else None, noted)
    starts = np.searchsorted(program.columns.rank, np.arange(program.workload.num_ranks + 1)).tolist()
    for number in range(program.workload.num_ranks):
        rank = RankStreams(number, world, range(starts[number], starts[number + 1]))
        env.process(rank.actions(program.folds) if walks is None else rank.streams())
    env.run()
    return world


def items_ps(program: Program, items: Iterable[StreamItem], legs: Legs, row: int) -> int:
    """Picoseconds of items of an action, from its message to its own, if all its links are its own, while kernels and collectives meet."""
    import simpy

    from parsim.simulator.network import SharedLinks
    from parsim.simulator.rank import RankStreams, World

    env = simpy.Environment()
    world = World(program, env, legs, network=SharedLinks(env), noted=False)
    world.send(int(program.columns.awaits[row]), 0)
    own = (item for item in items if not isinstance(item.task, Send))
    env.run(env.process(RankStreams(int(program.columns.rank[row]), world, range(row, row + 1)).walk(own, row)))
    return int(env.now)
