"""A pass as a product of max-plus maps against the same tasks issued one by one, and stages measured once against each by itself."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.estimator import maxplus, pipeline
from parsim.estimator.estimate import estimate, estimates, stages_of
from parsim.estimator.streams import Streams
from parsim.parallel.plan import Batch, Plan
from support import GPT, STACK, scenario

OVERLAP = replace(STACK, gradient_overlap=True, tensor_overlap=True, host_launch_s=2e-6)
PLANS = [
    Plan(data_parallel=4, zero_stage=3),
    Plan(data_parallel=2, tensor_parallel=2, zero_stage=3, recompute="full"),
    Plan(data_parallel=4, zero_stage=2),
    Plan(data_parallel=2, tensor_parallel=2, pipeline_parallel=2),
    Plan(data_parallel=2, zero_stage=3, pipeline_parallel=2, reshard_after_forward=True, recompute="selective"),
]


def issued(plan: Plan, layers: int) -> list[tuple[int, int]]:
    """Picoseconds of each phase of each stage, by maps and task by task."""
    stages = stages_of(scenario(model=replace(GPT, num_layers=layers), batch=Batch(8, 8), stack=OVERLAP), plan)
    w, found = stages.workload, []
    for stage in range(w.num_stages):
        for phase in w.phases:
            streams = Streams(np.array([0]), "compute")
            for run in w.pass_of(stage, phase, closes=True).lists:
                for task, ps in [*zip(run.tasks, w.ps_of(run), strict=True)] * int(run.copies):
                    streams.issue(task, ps)
            number = int(w.shape.index[stage])
            kind = w.shape.classes[number].kind
            by_maps = stages.time(kind, phase, closes=True)
            (member,) = np.flatnonzero(stages.members[kind].classes == number)
            assert sum(int(ps[member]) for ps in stages.charges(kind, phase, closes=True).values()) == int(by_maps.total[member])
            found.append((int(by_maps.total[member]), int(streams.compute[0])))
            busy = streams.ends.get(w.step.structure.replica_stream)
            if busy is not None:
                found.append((int(np.maximum(by_maps.from_start, by_maps.from_busy)[member]), int(busy[0])))
    return found


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("layers", [4, 14])
def test_a_pass_takes_what_its_tasks_take_one_after_another(plan: Plan, layers: int) -> None:
    assert all(by_maps == one_by_one for by_maps, one_by_one in issued(plan, layers))


def test_a_map_that_forgets_a_stream_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = maxplus.product
    monkeypatch.setattr(
        maxplus, "product", lambda after, before: right(after, np.where(np.eye(before.shape[1]) > 0, before, maxplus.NEVER))
    )
    assert any(by_maps != one_by_one for by_maps, one_by_one in issued(PLANS[0], 4))


def test_plans_priced_together_are_those_priced_alone_and_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = scenario(model=replace(GPT, num_layers=8), batch=Batch(16, 8), stack=OVERLAP)
    plans = [
        Plan(data_parallel=dp, pipeline_parallel=pp, micro_batch=m, layers_per_stage=layers)
        for dp, m in ((1, 2), (2, 1), (2, 2))
        for pp, layers in ((2, None), (2, (3, 5)), (2, (7, 1)), (4, None))
    ]
    together, alone = estimates(chosen, plans), [estimate(chosen, plan) for plan in plans]
    assert together.step_s.tolist() == [each.step_s for each in alone]
    assert together.peak_bytes.tolist() == [each.peak_bytes for each in alone]
    monkeypatch.setattr(pipeline, "_MOST_BYTES", 1)  # one plan a portion
    assert estimates(chosen, plans).step_s.tolist() == together.step_s.tolist()
