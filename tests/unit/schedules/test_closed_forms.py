"""Bubbles and micro_batches in flight against the closed forms of the papers; and the three readers agree on any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume
from hypothesis import strategies as st
from msgspec.structs import replace

from parsim import schedules
from parsim.cluster.link import CollectiveLaw, Link
from parsim.estimator.estimate import estimate, stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.parallel.plan import Batch, Plan
from parsim.schedules import Action, Phase
from parsim.simulator import simulate
from parsim.verify import verify_plan
from schedule_orders import in_order, needs, states_of
from support import CLUSTER, GPT, NODE, STACK, examples, hold, scenario


def step_time(name: str, p: int, v: int, m: int, forward: int, backward: int) -> int:
    """The end of the last action, where each takes the time of its kind and messages none: a longest path, written out again here."""
    end: dict[Action, int] = {}
    free = [0] * p
    for action in in_order(name, p, v, m):
        rank = action.stage % p
        start = max([free[rank], *(end[each] for each in needs(action, p * v))])
        end[action] = free[rank] = start + (forward if action.phase is Phase.F else backward)
    return max(end.values())


@pytest.mark.parametrize(("p", "m"), [(1, 3), (2, 2), (2, 5), (4, 4), (4, 9), (8, 3)])
def test_the_bubble_of_gpipe_is_p_minus_1_over_m(p: int, m: int) -> None:
    """Huang et al. 2019, section 2.3: O((p - 1) / (m + p - 1)) of the step, so (p - 1) / m of the ideal; exact for equal stages."""
    ideal = m * (3 + 6)
    assert (step_time("gpipe", p, 1, m, 3, 6) - ideal) * m == (p - 1) * ideal


@pytest.mark.parametrize(("p", "v", "m"), [(2, 1, 2), (2, 2, 5), (4, 2, 4), (4, 3, 6), (8, 4, 8), (1, 3, 2)])
def test_the_bubble_of_breadth_first_is_p_minus_1_over_v_m(p: int, v: int, m: int) -> None:
    """Lamy-Poirier 2023: the bubble of a looping pipeline, for m >= p."""
    ideal = m * v * (3 + 6)
    assert (step_time("breadth_first", p, v, m, 3, 6) - ideal) * v * m == (p - 1) * ideal


def test_breadth_first_with_fewer_micro_batches_than_ranks_waits_between_chunks() -> None:
    # 4 ranks, 2 chunks, 1 micro batch: 8 stages one after another, forward and backward.
    assert step_time("breadth_first", 4, 2, 1, 3, 6) == 8 * 3 + 8 * 6


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 2), (4, 16)])
def test_gpipe_has_every_micro_batch_in_flight_at_the_turn(p: int, m: int) -> None:
    for states in states_of("gpipe", p, 1, m):
        assert max(in_flight[0] for in_flight, *_ in states) == m


@pytest.mark.parametrize(("p", "v", "m"), [(2, 2, 3), (4, 3, 8)])
def test_breadth_first_has_every_micro_batch_of_every_chunk_in_flight_at_the_turn(p: int, v: int, m: int) -> None:
    for states in states_of("breadth_first", p, v, m):
        assert max(in_flight for in_flight, *_ in states) == (m,) * v


def test_breadth_first_with_one_chunk_takes_the_time_of_gpipe() -> None:
    for p, m in [(2, 3), (4, 4), (4, 7)]:
        assert step_time("breadth_first", p, 1, m, 5, 7) == step_time("gpipe", p, 1, m, 5, 7)


def random_order(p: int, v: int, m: int, seed: int) -> tuple[str, ...]:
    """A legal schedule by chance: any action that has what it needs may come next."""
    draw, lines, done = random.Random(seed), [list[str]() for _ in range(p)], set[Action]()
    ready = [Action(0, Phase.F, k) for k in range(m)]
    left = {Action(s, phase, k) for s in range(p * v) for phase in (Phase.F, Phase.B) for k in range(m)}
    while ready:
        action = draw.choice(ready)
        done.add(action)
        left.discard(action)
        lines[action.stage % p].append(str(action))
        ready = sorted(each for each in left if needs(each, p * v) <= done)
    return tuple(" ".join(line) for line in lines)


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[object, Plan]:
    """A plan of any schedule, registered or written by chance, on stages and links of uneven speed."""
    p, v = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    m = draw(st.integers(1, 9))
    usual = [name for name in schedules.names() if not schedules.find(name, 1).needs_experts]
    name = draw(st.sampled_from([*usual, "written"]))
    assume(p > 1 or v == 1)
    schedule = random_order(p, v, m, draw(st.integers(0, 999))) if name == "written" else name
    assume(schedules.fault(schedule, p, v, m) is None)
    layers = tuple(draw(st.lists(st.integers(1, 5), min_size=p * v, max_size=p * v)))
    rate = draw(st.sampled_from([1e5, 1e7, 1e9]))
    link = Link("drawn", rate, draw(st.sampled_from([0.0, 1e-6, 1e-3])), "made up")
    cluster = replace(CLUSTER, node=replace(NODE, link=link, law=CollectiveLaw(1e-6, 1e-6, rate, rate, 0.0)))
    tp = draw(st.sampled_from([1, 2]))
    stack = replace(STACK, gradient_overlap=draw(st.booleans()), tensor_overlap=draw(st.booleans()), scatter_gather=draw(st.booleans()))
    dp = draw(st.sampled_from([1, 2]))
    plan = Plan(
        data_parallel=dp,
        tensor_parallel=tp,
        pipeline_parallel=p,
        virtual_pipeline=v,
        schedule=schedule,
        layers_per_stage=layers,
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
    )
    model = replace(GPT, num_layers=sum(layers))
    return scenario(model=model, stack=stack, cluster=cluster, batch=Batch(m * dp * plan.num_copies, 8)), plan


@examples(20, 120)
def test_estimate_equals_simulate_for_every_schedule_and_any_written_one(num_examples: int) -> None:
    hold(equal, pipelines(), num_examples)


def equal(drawn: tuple[object, Plan]) -> None:
    """Estimate and simulation of a plan are."""
    chosen, plan = drawn
    predicted, trace = estimate(chosen, plan), simulate(chosen, plan)  # type: ignore[arg-type]
    assert round(predicted.step_s * 1e12) == trace.step_ps
    assert list(trace.peak_bytes) == counted_peak_bytes(stages_of(chosen, plan))[:, 0].tolist()  # type: ignore[arg-type]


WRITTEN = ("0F0 0F1 0F2 0B1 0B0 0B2", "1F1 1F0 1B1 1B0 1F2 1B2")


@pytest.mark.parametrize(("schedule", "v", "m"), [("gpipe", 1, 3), ("breadth_first", 1, 4), ("breadth_first", 2, 3), (WRITTEN, 1, 3)])
def test_a_step_under_the_schedule_is_executed_to_the_byte_and_to_the_gradient(schedule: str | tuple[str, ...], v: int, m: int) -> None:
    plan = Plan(pipeline_parallel=2, virtual_pipeline=v, schedule=schedule)
    for stack in (STACK, replace(STACK, gradient_overlap=True, scatter_gather=True)):
        checks = verify_plan(scenario(batch=Batch(m, 8), stack=stack), plan, "p")
        assert checks and all(check.ok for check in checks), [check for check in checks if not check.ok]
