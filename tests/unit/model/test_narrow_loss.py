"""A loss whose kernels store what they make of logits in their own dtype."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cost.count import hbm_bytes
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.step.task import Compute
from parsim.verify import verify_plan
from support import GPT, STACK, scenario

IN_PLACE = ("loss_in_place",)
# Cast, max, exponentials, sum, quotients and gradient of a logit of 2 bytes, of which the second and the fourth write none.
WIDE, NARROW = (2 + 4) + 4 + (4 + 4) + 4 + (4 + 4) + (4 + 2), (2 + 2) + 2 + (2 + 2) + 2 + (2 + 2) + (2 + 2)
KERNELS = ("cast", "row_max", "shifted_exp", "row_sum", "normalize", "cross_entropy_grad")


@pytest.mark.parametrize(("fusions", "bytes_a_logit"), [(IN_PLACE, WIDE), ((*IN_PLACE, "narrow_loss"), NARROW)])
def test_the_loss_moves_so_many_bytes_a_logit(fusions: tuple[str, ...], bytes_a_logit: int) -> None:
    workload = stages_of(scenario(model=GPT, batch=Batch(2, 8, "bf16"), stack=replace(STACK, fusions=fusions)), Plan()).workload
    tasks = [task for phase in workload.phases for task in workload.step.segments["head"].phases[phase]]
    moved = sum(int(hbm_bytes(task, workload.sizes)[0]) for task in tasks if isinstance(task, Compute) and task.kernel in KERNELS)
    logits, rows = 8 * 64, 8  # the vocabulary of 60 is padded to 64
    assert moved // logits == bytes_a_logit and moved - bytes_a_logit * logits < 100 * rows


def test_it_is_executed_as_predicted() -> None:
    case = scenario(model=GPT, batch=Batch(8, 8), stack=replace(STACK, fusions=(*IN_PLACE, "narrow_loss")))
    assert not [str(each) for each in verify_plan(case, Plan(2, 2), "toy") if not each.ok]
