"""What a collective and the compute beside it cost one another, by arithmetic on the page: max(C + aX, X + aC) between two joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from parsim import estimate, simulate
from parsim.cost import beside
from parsim.cost.beside import together_ps
from parsim.estimator.estimate import stages_of
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import lower_bound
from parsim.estimator.streams import Streams
from parsim.model.dims import COMPUTE
from parsim.parallel.group import Group
from parsim.parallel.plan import Plan
from parsim.parallel.sharding import Sharding
from parsim.simulator.demand import Leg, LinkAt
from parsim.simulator.network import SharedLinks
from parsim.simulator.program import fold, items
from parsim.step import program
from parsim.step.task import COMPUTE_STREAM, Collective, Compute, Operand, Task, Wait
from support import CLUSTER, FREE_NODE, STACK, scenario

A = 0.125
SHARES = {"all_reduce": A, "all_gather": 0.5}
END = Wait("end", streams=("tp", "dp"))


def buffer(name: str) -> Operand:
    return Operand(name, Sharding((), ()), COMPUTE)


def kernel(reads: str = "x") -> Compute:
    return Compute("kernel", "add", (buffer(reads),), (buffer("y"),), {})


def collective(target: str = "sum", stream: str = "tp", operation: str = "all_reduce") -> Collective:
    return Collective("collective", operation, Group(("tp",)), buffer("d"), buffer(target), stream=stream)


def took(tasks: Sequence[tuple[Task, int]], before: Sequence[tuple[Collective, int]] = (), shares: Mapping[str, float] = SHARES) -> int:
    """Picoseconds of a list by the streams of an estimate, which are those of an action of a simulation."""
    alone = {id(task): np.array([ps]) for task, ps in (*tasks, *before)}
    ps = beside.together_ps([task for task, _ in tasks], tuple(task for task, _ in before), lambda task: alone[id(task)], shares)
    streams = Streams(np.array([0]), "compute")
    for (task, _), each in zip(tasks, ps, strict=True):
        streams.issue(task, each)
    assert fold(items([task for task, _ in tasks], [int(each[0]) for each in ps])).ps == int(streams.compute[0])
    return int(streams.compute[0])


def pair(compute: int, other: int, shares: Mapping[str, float] = SHARES) -> int:
    """A collective, and compute until it is waited for."""
    return took([(collective(), other), (kernel(), compute), (END, 0)], shares=shares)


def check_pairs() -> None:
    """Picoseconds of pairs, both ways round: 800 + 400 / 8, as 400 + 800 / 8 is less."""
    assert [pair(800, 400), pair(400, 800), pair(800, 800), pair(800, 0), pair(0, 800)] == [850, 850, 900, 800, 800]


def test_a_pair_takes_the_longer_and_its_share_of_the_shorter() -> None:
    check_pairs()


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.integers(0, 10**6), st.floats(0, 1))
def test_a_pair_is_no_faster_than_the_longer_and_no_slower_than_one_after_the_other_and_more_work_never_ends_sooner(
    compute: int, other: int, more: int, share: float
) -> None:
    shares = {"all_reduce": share}
    found = pair(compute, other, shares)
    assert max(compute, other) <= found <= compute + other
    assert found == pair(other, compute, shares)
    assert abs(found - max(compute + share * other, other + share * compute)) <= 0.5 + 1e-15 * found
    assert found <= min(pair(compute + more, other, shares), pair(compute, other + more, shares))


def check_nothing_overlaps() -> None:
    """What compute waits for at once, what is waited for before, what comes last, and what stands on the stream of compute itself."""
    first, second = collective(), collective("other")
    assert took([(first, 400), (END, 0), (kernel(), 800)]) == 1200
    assert took([(first, 400), (kernel("sum"), 800)]) == 1200
    assert took([(kernel(), 800), (first, 400)]) == 800
    assert took([(collective(stream=COMPUTE_STREAM), 400), (kernel(), 800)]) == 1200
    assert took([(first, 400), (second, 100), (kernel("other"), 800)]) == 1300  # what is before it on its stream has ended, too
    assert took([(collective(operation="all_to_all"), 400), (kernel(), 800), (END, 0)]) == 800  # it costs nothing


def test_where_nothing_overlaps_nothing_is_charged() -> None:
    check_nothing_overlaps()


def check_several() -> None:
    """One after the other on a stream: 400 of the first kernel, 100 of it and 60 of the second.  Each on its own stream: both at once."""
    gathered = collective("g", operation="all_gather")
    assert took([(collective(), 400), (gathered, 160), (kernel(), 500), (kernel(), 1000), (END, 0)]) == 1500 + 50 + 50 + 30
    gathered = collective("g", "dp", "all_gather")
    assert took([(collective(), 400), (gathered, 160), (kernel(), 500), (kernel(), 1000), (END, 0)]) == 1500 + 50 + 80
    # What the list before left running goes on for 300 beside the first kernel, and delays the next of its stream, which is longer.
    left = collective("left")
    assert took([(kernel(), 800), (collective(), 0), (END, 0)], [(left, 300)]) == round(800 + A * 300) + round(A * 300)


def test_several_collectives_are_met_in_their_order_and_each_stream_apart() -> None:
    check_several()


def one_sided(tasks, before, ps_of, shares):  # type: ignore[no-untyped-def]
    """Compute pays, and collectives go on as if they were alone."""
    ps = together_ps(tasks, before, ps_of, shares)
    return tuple(ps_of(task) if isinstance(task, Collective) else each for task, each in zip(tasks, ps, strict=True))


MUTANTS = {
    "is free": (lambda *args: together_ps(*args[:3], {}), check_pairs),
    "costs compute alone": (one_sided, check_pairs),
    "costs all compute of a list": (None, check_nothing_overlaps),
    "is met by each stream at once": (None, check_several),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_a_collective_beside_compute(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, check = MUTANTS[name]
    if wrong:
        monkeypatch.setattr(beside, "together_ps", wrong)
    elif check is check_nothing_overlaps:
        monkeypatch.setattr(beside, "_not_awaited", lambda running, task: running)
    else:
        monkeypatch.setattr(beside, "_overlap", lambda running, ps: [(each, np.minimum(ps, each.left)) for each in running])
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(("compute", "other"), [(800, 400), (400, 800), (800, 800)])
def test_a_pair_that_shares_its_device_freely_ends_when_the_price_says(compute: int, other: int) -> None:
    env, ends, device = simpy.Environment(), [], LinkAt("device", "")
    network = SharedLinks(env)

    def process(leg: Leg, stream: str):  # type: ignore[no-untyped-def]
        yield from network.carry(leg, stream, "task")
        ends.append(int(env.now))

    env.process(process(Leg(0, compute, 0.0, (), device), "compute"))
    env.process(process(Leg(0, other, 1.0, ((LinkAt("link", ""), 1.0),), device, A), "tp"))
    env.run()
    assert max(ends) == pair(compute, other)
    assert {(loss.stream, loss.other): loss.lost_ps for loss in network.losses()} == {
        ("compute", "tp"): pytest.approx(A * min(compute, other)),
        ("tp", "compute"): pytest.approx(A * min(compute, other)),
    }


OVERLAPPED = replace(STACK, gradient_overlap=True, tensor_overlap=True)
PLANS = [
    Plan(data_parallel=2, tensor_parallel=2, pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b"),
    Plan(data_parallel=2, tensor_parallel=2, pipeline_parallel=2, schedule="zero_bubble_h1"),
    Plan(data_parallel=4, zero_stage=2, pipeline_parallel=2),
    Plan(data_parallel=4, zero_stage=3),
]


def check_readers() -> None:
    """Estimate and simulation agree on gradients summed, scattered and parameters gathered beside compute; a bound stays below."""
    for plan in PLANS:
        chosen = scenario(stack=OVERLAPPED)
        found = simulate(chosen, plan).step_ps
        assert round(estimate(chosen, plan).step_s * 1e12) == found == simulate(chosen, plan, spans=True).step_ps
        assert int(lower_bound(stages_of(chosen, plan))[0]) <= found


def test_estimate_and_simulation_charge_the_same() -> None:
    check_readers()


@pytest.mark.parametrize("where", ["late_ps", "before"])
def test_mutant_the_last_passes_or_their_lists_lack_the_cost(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "late_ps":
        monkeypatch.setattr(Stages, "late_ps", lambda self, kind, phase: self.total_ps(kind, phase) * 0)
        with pytest.raises(AssertionError):
            check_readers()
    else:
        before = [estimate(scenario(stack=OVERLAPPED), plan).step_s for plan in PLANS]
        monkeypatch.setattr(program, "left_running", lambda *which, **closes: ())
        assert all(estimate(scenario(stack=OVERLAPPED), plan).step_s < step_s for plan, step_s in zip(PLANS, before, strict=True))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_step_is_longer_only_where_its_stack_runs_collectives_beside_compute(plan: Plan) -> None:
    free = replace(CLUSTER, node=FREE_NODE)
    for stack, is_longer in ((OVERLAPPED, True), (STACK, False)):
        without, with_cost = (estimate(scenario(stack=stack, cluster=cluster), plan).step_s for cluster in (free, CLUSTER))
        assert (with_cost > without) == is_longer and with_cost >= without
