"""Plans of experts and schedules: ranked as if each were priced alone, from few lowered blocks and few exact steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim import estimate, plan
from parsim.estimator.estimate import Priced
from parsim.estimator.pipeline import lower_bound
from parsim.planner import bounded
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from parsim.step import lower
from support import forget_steps

MESH = {name: ("auto",) for name in ("tensor_parallel", "sequence_parallel", "expert_parallel", "expert_tensor_parallel")}
SCHEDULES = {
    "pipeline_parallel": (1, 2),
    "virtual_pipeline": (1, 2),
    "schedule": ("1f1b", "interleaved_1f1b", "zero_bubble_h1", "dual_pipe_v"),
}
AGAIN = {"recompute": ("none", "selective", "full")}


def toy(**axes: tuple[object, ...]) -> Scenario:
    """Four devices, four layers of four experts, and one space."""
    found = parsim.load(Path(__file__).parents[3] / "scenarios" / "tiny-moe.yaml")
    return replace(found, plans={}, spaces={"a": PlanSpace("a", {"zero_stage": (1,), **axes})})


def tight(chosen: Scenario, capacity: float) -> Scenario:
    node = chosen.cluster.node
    accelerator = replace(node.accelerator, hbm_capacity_bytes=int(capacity))
    return replace(chosen, cluster=replace(chosen.cluster, node=replace(node, accelerator=accelerator)))


def test_plans_of_experts_and_schedules_are_ranked_as_if_each_were_priced_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = toy(**MESH, **SCHEDULES)
    every = [estimate(chosen, each) for each in candidates(chosen, chosen.spaces["a"]).plans]
    capacity = float(np.median([each.peak_bytes for each in every]))
    fitting = sorted((each for each in every if each.peak_bytes <= int(capacity)), key=lambda each: (each.step_s, each.peak_bytes))

    asked: list[int] = []
    right = Priced.steps
    monkeypatch.setattr(Priced, "steps", lambda self, rows, **told: asked.append(len(rows)) or right(self, rows, **told))  # type: ignore[func-returns-value]
    bounds: list[int] = []

    def bound(stages: object) -> object:
        found = lower_bound(stages)  # type: ignore[arg-type]
        bounds.append(len(found))
        return found

    monkeypatch.setattr(bounded, "lower_bound", bound)
    ranking = plan(tight(chosen, capacity), top=4)
    assert [(row.step_s, row.peak_bytes) for row in ranking.rows] == [(each.step_s, each.peak_bytes) for each in fitting[:4]]
    assert sum(bounds) == ranking.num_fit == len(fitting) and 3 * sum(asked) <= len(fitting)


def placements(**axes: tuple[object, ...]) -> tuple[int, int]:
    """How many structures a space has, and how often a block is placed for them."""
    forget_steps()
    plan(toy(**axes), top=1)
    return lower.lower.cache_info().misses, lower._placement.cache_info().misses


@pytest.fixture
def fresh() -> Iterator[None]:
    yield
    forget_steps()


@pytest.mark.usefixtures("fresh")
def test_a_block_is_placed_once_whatever_runs_again_and_in_which_order() -> None:
    steps, placed = placements(**MESH)
    more, same = placements(**MESH, **AGAIN)
    assert more == 3 * steps and same == placed
    # No block knows of pipelines: what they add are axes that fewer ranks of a stage leave off.
    assert placements(**MESH, **SCHEDULES)[1] < placed + steps
