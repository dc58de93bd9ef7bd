"""What is seen of sharing without a simulation, and with a short one, is what the whole simulation says, to the picosecond."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from msgspec.structs import replace
from test_contention import contended, crowded

from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.simulator import shared, simulate, timeline
from parsim.simulator.program import Program, fold
from parsim.simulator.run import workload_in
from parsim.simulator.shared import SharedStep
from parsim.simulator.timeline import passages
from parsim.step.task import Collective
from support import STACK, TOY, examples, hold

SEEN: list[bool] = []


@examples(20, 120)
def test_a_step_overlaps_where_its_simulation_loses_time_and_takes_its_estimate_elsewhere(num_examples: int) -> None:
    SEEN.clear()
    hold(as_simulated, contended(), num_examples)
    assert {*SEEN} == {True, False}, "both are drawn"


def as_simulated(drawn: tuple[Scenario, Plan]) -> None:
    """Sharing is seen, and counted, as the whole simulation does."""
    short, whole = SharedStep(workload_in(*drawn)), simulate(*drawn, contention=True)
    SEEN.append(short.overlaps)
    assert short.overlaps == any(each.link != TOY.name for each in whole.losses)
    assert short.step_ps() == whole.step_ps
    if not short.overlaps and not drawn[0].cluster.node.accelerator.beside:
        assert whole.step_ps == round(estimate(*drawn).step_s * 1e12)


@examples(20, 120)
def test_so_it_is_where_collectives_cost_the_kernels_beside_them(num_examples: int) -> None:
    SEEN.clear()
    hold(lambda drawn: as_simulated(costly(drawn)), contended(), num_examples)
    assert {*SEEN} == {True, False}, "both are drawn"


def costly(drawn: tuple[Scenario, Plan]) -> tuple[Scenario, Plan]:
    """The same on accelerators on which they do."""
    chosen, plan = drawn
    node = replace(chosen.cluster.node, accelerator=TOY)
    return replace(chosen, cluster=replace(chosen.cluster, node=node)), plan


def test_an_action_whose_collectives_slow_its_kernels_and_meet_nobody_is_one_event() -> None:
    check_one_event()


def check_one_event() -> None:
    """Fewer events than all that streams do, and the step of these."""
    chosen, plan = costly(crowded())
    plan = replace(plan, tensor_parallel=2)
    workload, whole = workload_in(chosen, plan), simulate(chosen, plan, contention=True)
    short = SharedStep(workload)
    assert short.num_events < Program(workload).num_events(Program(workload).walks())
    assert short.step_ps() == whole.step_ps
    assert ("toy", "tp") in {(each.link, each.stream) for each in whole.losses}


def test_mutant_collectives_that_cost_kernels_nothing_within_an_action_end_the_step_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "items_ps", lambda program, items, *_: fold(items).ps)
    with pytest.raises(AssertionError):
        check_one_event()


@examples(10, 60)
def test_communications_start_when_the_simulation_without_contention_starts_them(num_examples: int) -> None:
    hold(starts_alike, contended(), num_examples)


def starts_alike(drawn: tuple[Scenario, Plan]) -> None:
    """Each passage is a span."""
    spans = [each for each in simulate(*drawn, spans=True).spans if each.stream not in ("host", "launch")]
    sent = [each for each in spans if each.stream != "compute" or ":" in each.name]
    found = Counter[tuple[int, str, int]]()
    for task, rank, _, starts in passages(Program(workload_in(*drawn))):
        stream = task.stream if isinstance(task, Collective) else "send"
        found.update((rank, stream, start) for start in starts.tolist())
    assert found == Counter((each.rank, "send" if each.stream.startswith("send") else each.stream, each.start_ps) for each in sent)


def test_gradients_beside_messages_overlap_and_one_stream_alone_does_not() -> None:
    chosen, plan = crowded()
    assert SharedStep(workload_in(chosen, plan)).overlaps
    alone = replace(plan, pipeline_parallel=1, virtual_pipeline=1, schedule="1f1b", data_parallel=4)
    assert not SharedStep(workload_in(replace(chosen, stack=STACK), alone)).overlaps


def test_actions_that_meet_nobody_are_one_event_each() -> None:
    chosen, plan = crowded()
    workload = workload_in(chosen, replace(plan, tensor_parallel=2))
    assert SharedStep(workload).num_events < Program(workload).num_events(Program(workload).walks())


@pytest.mark.parametrize("what", ["links carry more", "nothing is disturbed", "messages leave early"])
def test_mutants_of_sharing_are_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match what:
        case "links carry more":
            monkeypatch.setattr(shared, "_WHOLE", 4.0)
        case "nothing is disturbed":
            monkeypatch.setattr(SharedStep, "_undisturbed", property(lambda self: np.ones_like(self.program.pass_index, dtype=bool)))
        case _:
            right = timeline._actions
            monkeypatch.setattr(timeline, "_actions", lambda program: (*right(program)[:2], right(program)[0]))
    with pytest.raises(AssertionError):
        (starts_alike if what == "messages leave early" else as_simulated)(crowded())
