"""Experts whose squared ReLU and gates are one kernel (Megatron Core's use_fused_weighted_squared_relu) keep the contract."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.model.op_kinds import COSTS
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.step.task import Compute
from parsim.verify import verify_plan
from parsim_kernels.kernels import KERNELS
from support import MOE, STACKS, forget_steps, scenario

APART: Stack = replace(STACKS[2], fusions=("gradient_accumulation",))
FUSED: Stack = replace(APART, fusions=(*APART.fusions, "squared_relu"))
MODEL: TransformerSpec = replace(MOE, activation="squared_relu", num_dense_layers=0, shared_ffn_hidden_size=0)
PLANS = {
    "alone": Plan(),
    "moe_act": Plan(recompute_modules=("moe_act",)),
    "ep zero3": Plan(data_parallel=2, expert_parallel=2, zero_stage=3),
    "etp": Plan(tensor_parallel=2, expert_tensor_parallel=2),
}


def red(plan: Plan, stack: Stack = FUSED) -> set[str]:
    toy = scenario(model=MODEL, batch=Batch(2 * plan.data_parallel, 8), stack=stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


def kernels(stack: Stack) -> set[str]:
    step = stages_of(scenario(model=MODEL, batch=Batch(2, 8), stack=stack), Plan()).workload.step
    tasks = [task for segment in step.segments.values() for of_phase in segment.phases.values() for task in of_phase]
    return {task.kernel for task in tasks if isinstance(task, Compute)}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_squared_relu_with_its_gates_keeps_the_contract(plan: Plan) -> None:
    assert not red(plan)


def test_it_is_one_kernel_where_the_stack_fuses_it_and_two_elsewhere() -> None:
    assert {"squared_relu", "squared_relu_grad", "weigh", "weigh_grad"} <= kernels(APART)
    assert {"weighted_squared_relu", "weighted_squared_relu_grad"} <= kernels(FUSED)
    assert kernels(FUSED).isdisjoint({"squared_relu", "weigh", "weigh_grad"})


def test_its_results_are_those_of_two_kernels() -> None:
    x, gates = np.linspace(-2, 3, 24).reshape(2, 3, 4), np.linspace(0.1, 0.9, 6).reshape(2, 3)
    d_y = np.cos(np.arange(24.0)).reshape(2, 3, 4)
    ((plain,), _), ((d_plain,), _) = KERNELS["squared_relu"]((x,), {}), KERNELS["squared_relu_grad"]((x, d_y * gates[..., None]), {})
    (y,), _ = KERNELS["weighted_squared_relu"]((x, gates), {})
    (d_x, d_gates), _ = KERNELS["weighted_squared_relu_grad"]((x, gates, d_y), {})
    assert np.array_equal(y, plain * gates[..., None]) and np.array_equal(d_x, d_plain)
    assert np.allclose(d_gates, (plain * d_y).sum(-1))


def test_verify_notices_a_gradient_of_gates_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()

    def wrong(inputs, attributes, out=None):  # type: ignore[no-untyped-def]
        given = (inputs, attributes) if out is None else (inputs, attributes, out)
        (d_x, d_gates), flops = KERNELS["weighted_squared_relu_grad"](*given)
        return (d_x, 2 * d_gates), flops

    monkeypatch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, "weighted_squared_relu_grad": wrong})
    assert any("by hand" in quantity for quantity in red(Plan()))


def test_verify_notices_flops_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    monkeypatch.setitem(COSTS, "weighted_squared_relu", replace(COSTS["weighted_squared_relu"], per_element=2))
    assert "FLOPs" in red(Plan())
    forget_steps()
