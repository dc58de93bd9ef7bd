"""What would fit: each change is legal, fits, and costs what it says; the cluster that is named is the first that holds a plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim import Remedies, Shortage, estimate, estimates, plan, remedies, smallest_cluster
from parsim.errors import NoFeasiblePlan
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner import Ranking, changes
from parsim.scenario import PlanSpace, Scenario
from support import CLUSTER, GPT, STACK, scenario

PLAIN = Plan(data_parallel=8, micro_batch=2)


def toy(capacity: int = 10**9, num_nodes: int = 2, **others: object) -> Scenario:
    """Four devices a node, of that many bytes."""
    node = replace(CLUSTER.node, accelerator=replace(CLUSTER.node.accelerator, hbm_capacity_bytes=capacity))
    cluster = replace(CLUSTER, node=node, num_nodes=num_nodes)
    return replace(scenario(model=replace(GPT, num_layers=8), batch=Batch(32, 8), cluster=cluster), **others)  # type: ignore[arg-type]


def need(chosen: Plan) -> int:
    return estimate(toy(), chosen).peak_bytes


def test_a_plan_that_does_not_fit_has_one_typed_reason_with_its_parts() -> None:
    found = estimate(toy(need(PLAIN) - 1), PLAIN)
    assert found.shortage is not None and (found.shortage.memory, found.shortage.stage, found.shortage.lacks_bytes) == ("device", 0, 1)
    assert sum(found.shortage.parts.values()) == found.peak_bytes == found.shortage.needs_bytes
    assert Shortage.from_dict(found.shortage.to_dict()) == found.shortage
    assert estimate(toy(need(PLAIN)), PLAIN).shortage is None


def test_a_plan_of_uneven_chunks_is_changed_in_what_leaves_them_alone() -> None:
    uneven = Plan(data_parallel=4, pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b")
    model = replace(GPT, num_layers=7)
    found = remedies(toy(estimate(toy(model=model), uneven).peak_bytes - 1, model=model), uneven)
    assert {("recompute",), ("zero_stage",)} <= {each.axes for each in found.changes}


def test_a_plan_without_a_neighbour_has_no_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_neighbours", lambda *_: iter(()))
    found = remedies(toy(need(PLAIN) - 1), PLAIN)
    assert (found.changes, found.not_enough) == ((), ())


def test_the_host_is_a_reason_of_its_own() -> None:
    offloaded = replace(PLAIN, offload_optimizer=True)
    chosen = toy()
    held = estimate(chosen, offloaded).host_peak_bytes
    small = replace(chosen, cluster=replace(chosen.cluster, node=replace(chosen.cluster.node, host_memory_bytes=held - 1)))
    found = estimate(small, offloaded).shortage
    assert found is not None and (found.memory, found.stage, found.lacks_bytes) == ("host", None, 1) and "fullest host needs" in str(found)
    assert estimates(small, [PLAIN, offloaded]).short_of.tolist() == ["", "host"]
    space = PlanSpace("a", {"offload_optimizer": (False, True), "tensor_parallel": (1,)})
    ranking = plan(replace(small, spaces={"a": space}))
    assert (ranking.num_over_memory, ranking.num_over_host) == (1, 1)
    assert replace(offloaded, offload_optimizer=False) in [each.plan for each in remedies(small, offloaded).changes]


def test_changes_of_one_axis_fit_and_cost_what_they_say() -> None:
    chosen = toy(need(replace(PLAIN, recompute="full", micro_batch=1)) + 1)
    found = remedies(chosen, PLAIN)
    assert found.plan == estimate(chosen, PLAIN) and {len(each.axes) for each in found.changes} == {1}
    for each in (*found.changes, *found.not_enough):
        alone = estimate(chosen, each.plan)
        assert (each.step_s, each.peak_bytes, each.fits) == (alone.step_s, alone.peak_bytes, alone.fits)
        assert not faults(each.plan, chosen.model, chosen.batch, 8, stack=STACK)
        follow = {"data_parallel", "schedule", "sequence_parallel", "virtual_pipeline", "layers_per_stage"} - set(each.axes)
        fields = [name for name in PLAIN.to_dict() if getattr(each.plan, name) != getattr(PLAIN, name)]
        assert set(each.axes) == set(fields) - follow
    assert all(each.fits for each in found.changes) and not any(each.fits for each in found.not_enough)
    steps, fills = [each.step_s for each in found.changes], [each.peak_bytes for each in found.not_enough]
    assert (
        steps == sorted(steps) and fills == sorted(fills) and not {each.axes for each in found.changes} & {e.axes for e in found.not_enough}
    )
    assert Remedies.from_dict(found.to_dict()) == found and len(found.records()) == len(steps) + len(fills)


def test_of_each_axis_the_fastest_change_that_fits_is_told() -> None:
    whole = need(PLAIN) - 1
    degrees = [estimate(toy(whole), replace(PLAIN, tensor_parallel=tp, data_parallel=8 // tp)) for tp in (2, 4)]
    best = min((each for each in degrees if each.fits), key=lambda each: each.step_s)
    (mine,) = (each for each in remedies(toy(whole), PLAIN).changes if each.axes == ("tensor_parallel",))
    assert mine.plan == best.plan


def test_two_axes_are_changed_where_one_is_not_enough() -> None:
    alone = remedies(toy(1000), PLAIN)
    assert not alone.changes
    least = min(each.peak_bytes for each in alone.not_enough)
    found = remedies(toy(least - 1), PLAIN)
    assert {len(each.axes) for each in found.changes} == {2} and all(each.fits for each in found.changes)
    assert all(len(each.axes) == 1 for each in found.not_enough)


def test_a_plan_that_fits_needs_no_change() -> None:
    assert remedies(toy(), PLAIN).changes == remedies(toy(), PLAIN).not_enough == ()


def test_what_the_stack_cannot_run_is_no_remedy_of_what_it_can() -> None:
    capacity = need(PLAIN) - 1
    limited = toy(capacity, stack=replace(STACK, limits=("no_zero", "no_tensor_parallel")))
    axes = {axis for each in remedies(limited, PLAIN).changes for axis in each.axes}
    assert axes and not axes & {"zero_stage", "tensor_parallel"}


def test_the_smallest_cluster_is_the_first_that_holds_a_plan() -> None:
    smallest: dict[str, object] = {"model": replace(GPT, num_layers=2), "batch": Batch(8, 8)}
    space = {"all": PlanSpace("all", {**SPLIT, "micro_batch": (1,), "recompute": ("full",)})}

    def least(num_nodes: int) -> int:
        nearest = plan(toy(1, num_nodes, spaces=space, **smallest)).nearest
        assert nearest is not None
        return nearest.peak_bytes

    capacity = least(2)
    assert capacity < least(1)
    found = smallest_cluster(toy(capacity, 1, **smallest))
    assert found is not None and found.fits and found.plan.num_devices == 8
    assert smallest_cluster(toy(1000, 1, **smallest)) is None
    alone = toy(capacity, 1, **smallest)
    assert smallest_cluster(replace(alone, cluster=replace(alone.cluster, fabric=None))) is None


SPLIT = {axis: ("auto",) for axis in ("tensor_parallel", "pipeline_parallel", "sequence_parallel", "zero_stage")}


def test_nothing_feasible_is_an_error_that_carries_the_ranking() -> None:
    ranking = plan(toy(1000, spaces={"a": PlanSpace("a", SPLIT)}))
    with pytest.raises(NoFeasiblePlan, match=r"none of [0-9,]+ legal plans fits; the nearest: stage [0-9]+ needs") as error:
        _ = ranking.best
    assert error.value.ranking is ranking
    assert Ranking.from_dict(ranking.to_dict()) == ranking


def _over_the_edge(patch: pytest.MonkeyPatch) -> None:
    right = changes.Bounded
    patch.setattr(changes, "Bounded", lambda *args: right(replace(args[0], cluster=toy().cluster), *args[1:]))


def _replicas_stay(patch: pytest.MonkeyPatch) -> None:
    right = changes._with_values
    patch.setattr(changes, "_with_values", lambda plan, *others: replace(right(plan, *others), data_parallel=1))


@pytest.mark.parametrize("mutate", [_over_the_edge, _replicas_stay])
def test_a_wrong_change_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        test_changes_of_one_axis_fit_and_cost_what_they_say()
        test_of_each_axis_the_fastest_change_that_fits_is_told()
