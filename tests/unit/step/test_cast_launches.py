"""Kernels that make one tensor narrow, counted by their launches on a device whose memory costs nothing."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from narrow_toys import LLAMA
from parsim.cost import timing
from parsim.cost.cost_model import CostModel
from parsim.estimator.estimate import stages_of
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import Phase
from parsim.step.task import Compute
from support import CLUSTER, NODE, STACK, TOY, scenario

# By its own largest element: set to 0, found, made a scale, quantised; in 4 bits the last two are one.
# Source: NVIDIA/TransformerEngine@d0067d0d: common/recipe/current_scaling.cu, pytorch/csrc/quantizer.cpp.
KERNELS = {"fp8_delayed": 1, "fp8_current": 4, "nvfp4": 3, "mxfp8": 1, "fp8_blockwise": 1}


def num_kernels(precision: str) -> int:
    """That make the input of `down` narrow, which no norm does."""
    free = replace(TOY, hbm_bandwidth_bytes_per_s=1e30)
    case = scenario(
        model=LLAMA,
        batch=Batch(1, 8, precision),
        stack=replace(STACK, attention="flash"),
        cluster=replace(CLUSTER, node=replace(NODE, accelerator=free)),
    )
    work = stages_of(case, Plan()).workload
    model = CostModel(case.cluster, case.stack, case.batch)
    tasks = (each for each in work.step.segments["layer"].phases[Phase.F] if isinstance(each, Compute))
    casts = (each for each in tasks if each.name in ("active.absmax", "active.quantise"))
    seconds = sum(float(np.ravel(timing.compute_s(each, work.sizes, model))[0]) for each in casts)
    return round(seconds / free.elementwise.launch_s)


@pytest.mark.parametrize("precision", KERNELS)
def test_a_tensor_is_made_narrow_by_as_many_kernels_as_its_scales_take(precision: str) -> None:
    assert num_kernels(precision) == KERNELS[precision]
