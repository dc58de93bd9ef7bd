"""Scales by row: what is cast, gathered and kept, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from narrow_toys import FUSED, LLAMA, kept_bytes, tasks
from parsim.cluster.accelerator import ElementwiseLaw
from parsim.estimator.estimate import stages_of
from parsim.model.dims import COMPUTE, LINEAR, MATMUL
from parsim.parallel.plan import Batch, Plan
from parsim.parallel.precision import RECIPES
from parsim.schedules.phase import Phase
from parsim.step.task import Collective, Compute
from parsim_kernels import KERNELS
from support import CLUSTER, NODE, TOY, scenario


def rounded_by_row(how: dict[str, float | str]) -> list[list[list[float]]]:
    """By row, and by column; e4m3 holds 2^-9 to 448."""
    layouts, _ = KERNELS["quantise"]((np.array([[1, 2.0**-10], [2.0**10, 2.0**10]]),), {**how, "rows": 1, "layouts": "row col"})
    return [each.tolist() for each in layouts]


def test_a_row_that_has_a_scale_keeps_what_one_of_larger_numbers_loses() -> None:
    """2^-10 beside 1 becomes 2^-2 beside 2^8; beside 2^10, which becomes 2^8, it is 2^-12 and no more."""
    how = RECIPES["fp8_rowwise"].narrows
    assert how is not None
    kept, lost = [[1, 2**-10], [2**10, 2**10]], [[1, 0], [2**10, 2**10]]
    assert rounded_by_row(how.attributes()) == rounded_by_row(how.attributes(weight=True)) == [kept, lost]
    assert rounded_by_row(replace(how, by_row=False).attributes()) == [lost, lost]  # the mutant: one scale


def test_by_row_all_is_gathered_and_kept_wide_and_made_narrow_for_each_gemm() -> None:
    """Of 7 matrices with 4 inputs: 4 and 7 casts in forward; in backward 7 of matrices, 4 of inputs, 7 of gradients each way."""
    sent = [task for phase in (Phase.F, Phase.B) for task in tasks("fp8_rowwise", phase) if isinstance(task, Collective)]
    assert {task.source.dtype for task in sent} == {COMPUTE}
    assert kept_bytes("fp8_rowwise") == kept_bytes("bf16")
    for phase, num_casts in ((Phase.F, 4 + 7), (Phase.B, 7 + 4 + 7)):
        made = [task for task in tasks("fp8_rowwise", phase, plan=Plan()) if isinstance(task, Compute) and task.kernel == "quantise"]
        assert len(made) == num_casts


def test_gradients_of_weights_may_be_multiplied_wide() -> None:
    """Then of backward's casts those of matrices and, by row, of gradients are left."""
    every = [task for task in tasks("fp8_rowwise_gw_hp", Phase.B, plan=Plan()) if isinstance(task, Compute)]
    gemms = [task for task in every if task.kernel == "einsum"]
    assert sum(task.dtype == LINEAR for task in gemms) == sum(task.dtype == MATMUL for task in gemms) == 7
    assert [task.attributes["layouts"] for task in every if task.kernel == "quantise"] == ["row"] * 14


def seconds_by_row(layout: str) -> float:
    """Nanoseconds an element of such a cast, on a device that moves 1e9 bytes a second at no other cost."""
    device = replace(TOY, hbm_bandwidth_bytes_per_s=1e9, elementwise=ElementwiseLaw(1.0, 0.0))
    case = scenario(
        model=LLAMA, batch=Batch(4, 8, "fp8_rowwise"), stack=FUSED, cluster=replace(CLUSTER, node=replace(NODE, accelerator=device))
    )
    stages = stages_of(case, Plan())
    every = (task for phase in (Phase.F, Phase.B) for task in stages.workload.step.segments["layer"].phases[phase])
    own = next(each for each in every if isinstance(each, Compute) and each.kernel == "quantise" and each.attributes["layouts"] == layout)
    return int(stages.workload.ps(own)[0]) / int(stages.workload.sizes.num_bytes(own.outputs[0])[0]) / 1e3  # type: ignore[arg-type]


def test_a_cast_by_column_takes_longer_than_one_by_row() -> None:
    """2 bytes are read and 1 written at 1.4 times, 4 and 1 at 1.83 times, what the elementwise law says of these."""
    assert seconds_by_row("row") == pytest.approx(1.4 * 3, rel=1e-6)
    assert seconds_by_row("col") == pytest.approx(1.83 * 5, rel=1e-6)
