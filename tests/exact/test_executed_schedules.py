"""Zero-bubble schedules beyond H1, and V-shaped ones, executed: every rank's counts, gradients and clocks are those predicted."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from support import GPT, every_other, scenario

SCHEDULES = {"zero_bubble_h2": 1, "zero_bubble_v": 2, "dual_pipe_v": 2, "v_half": 2, "v_min": 2}
TIED = replace(GPT, num_layers=6, tied_embedding=True)
PLANS = {
    "three ranks": Plan(pipeline_parallel=3, recompute="selective"),
    "sharded": Plan(data_parallel=2, pipeline_parallel=2, zero_stage=2),
    "split": Plan(tensor_parallel=2, pipeline_parallel=2, sequence_parallel=True, recompute="full"),
}


@pytest.mark.parametrize("case", every_other(SCHEDULES, PLANS, "{}-{}".format, 3))
def test_ranks_do_what_is_predicted(case: tuple[str, str]) -> None:
    name, plan = case[0], PLANS[case[1]]
    chosen = replace(plan, schedule=name, virtual_pipeline=SCHEDULES[name])
    held = scenario(model=TIED, batch=Batch(6 * plan.data_parallel, 4))
    assert [check for check in verify_plan(held, chosen, name) if not check.ok] == []
