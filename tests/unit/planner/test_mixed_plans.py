"""What the planner does on nodes of several kinds: bounds stay bounds, memory is each stage's own, and uneven splits go by speed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cluster.cluster import Cluster, NodeGroup
from parsim.errors import PlanError
from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Batch, Plan
from parsim.planner import pareto, size
from parsim.planner.bounded import Bounded
from parsim.planner.space import candidates
from parsim.planner.whatif import improve
from parsim.scenario import Scenario
from parsim.scenario.rows import read
from support import FABRIC, GPT, NODE, TOY, scenario

BIG, SMALL = replace(TOY, hbm_capacity_bytes=105_000), replace(TOY, name="small", hbm_capacity_bytes=36_000)
OLD = replace(
    NODE,
    name="old node",
    accelerator=replace(
        SMALL, peak_flops_per_s={dtype: rate / 3 for dtype, rate in TOY.peak_flops_per_s.items()}, hbm_bandwidth_bytes_per_s=5e8
    ),
)
AXES = {"tensor_parallel": 4, "pipeline_parallel": "auto", "recompute": ["none", "full"], "layers_per_stage": "auto"}


def two_kinds() -> Scenario:
    cluster = Cluster.of_groups([NodeGroup(replace(NODE, accelerator=BIG), 1), NodeGroup(OLD, 2)], FABRIC)
    chosen = scenario(model=replace(GPT, num_layers=13), batch=Batch(24, 8), cluster=cluster)
    return Scenario(**{name: getattr(chosen, name) for name in chosen.__struct_fields__})


def test_bounds_are_below_steps_and_memory_is_that_of_the_fullest_device() -> None:
    chosen = two_kinds()
    bounded = Bounded.of(chosen, AXES)
    rows = np.arange(len(bounded.plans))
    assert len(rows) > 6 and (bounded.bounds(rows) <= bounded.finish(rows)).all()
    found = [estimate(chosen, plan) for plan in bounded.plans]
    assert [each.peak_bytes for each in found] == bounded.peaks.tolist()
    assert [each.capacity_bytes for each in found] == bounded.holds.tolist()
    assert [each.fits for each in found] == bounded.fits.tolist()
    assert len({*bounded.holds.tolist()}) == 2 and {*bounded.fits.tolist()} == {True, False}


def test_the_best_plan_is_the_quickest_that_fits_of_all_that_are_legal() -> None:
    chosen = two_kinds()
    ranking = parsim.plan(chosen, space=AXES, contention=False)
    found = [estimate(chosen, plan) for plan in candidates(chosen, parsim.planner.space.space_named(chosen, AXES)).plans]
    assert ranking.rows[0].step_s == min(each.step_s for each in found if each.fits)
    assert all(each.plan.pipeline_parallel in (3, 6, 12) for each in found)  # a stage lies on one node of 4, or on a part of it
    layers = ranking.rows[0].layers
    assert layers[0] > max(layers[1:])


REAL = {
    "model": "llama3-8b",
    "cluster": {"nodes": [{"node": "hgx-h100-80gb", "count": 2}, {"node": "dgx-a100-80gb", "count": 2}], "fabric": "ib-hdr-8rail"},
    "batch": {"global_batch": 64, "sequence_length": 4096},
    "stack": "megatron-core",
    "plans": {"a": {"tensor_parallel": 8, "pipeline_parallel": 4}},
}


def test_splits_by_speed_are_near_the_best_of_all() -> None:
    chosen = parsim.from_mapping(REAL)
    plan = chosen.plans["a"]
    tried = parsim.plan(chosen, space={"tensor_parallel": 8, "pipeline_parallel": 4, "layers_per_stage": "auto"}, contention=False)
    every = [split for split in product(range(9, 15), range(9, 15), range(2, 7), range(2, 7)) if sum(split) == 32]
    best = parsim.estimates(chosen, [replace(plan, layers_per_stage=split) for split in every]).step_s.min()
    even = estimate(chosen, plan).step_s
    assert tried.rows[0].step_s < 0.75 * even and tried.rows[0].step_s < 1.03 * best


def test_what_is_not_built_of_several_kinds_is_refused() -> None:
    chosen = two_kinds()
    with pytest.raises(PlanError, match="how many nodes is not built for nodes of several kinds"):
        size(chosen, "1B", within="1 day")
    with pytest.raises(PlanError, match="energy as an objective is not built for nodes of several kinds"):
        parsim.plan(chosen, space=AXES, objective="energy")
    with pytest.raises(PlanError, match="other numbers of nodes are not built for nodes of several kinds"):
        pareto(chosen, num_nodes=[6], space=AXES)
    with pytest.raises(PlanError, match="optimizer = paged_adamw_8bit keeps states on hosts"):
        estimate(chosen, Plan(pipeline_parallel=3, tensor_parallel=4, optimizer="paged_adamw_8bit"))


def test_twice_as_fast_hardware_of_all_kinds_halves_the_step() -> None:
    chosen, plan = two_kinds(), Plan(pipeline_parallel=3, tensor_parallel=4)
    twice = improve(chosen, dict.fromkeys(parsim.planner.whatif.RESOURCES, 2.0))
    assert estimate(twice, plan).step_s == pytest.approx(estimate(chosen, plan).step_s / 2, rel=1e-6)
    assert [each.node.name for each in twice.cluster.groups] == ["toy node", "old node"]


def test_a_scenario_made_in_python_is_held_to_what_a_file_is() -> None:
    chosen = parsim.from_mapping(REAL)
    assert replace(chosen, seed=chosen.seed).misfits() == []
    wrong = replace(chosen.cluster.groups[1].node, devices_per_node=8, num_nics=-1)
    groups = (chosen.cluster.groups[0], NodeGroup(wrong, 2))
    cluster = Cluster.of_groups(groups, read("fabrics", "ib-hdr-8rail"))
    assert any("num_nics" in said for said in replace(chosen, cluster=cluster).misfits())
