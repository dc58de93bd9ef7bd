"""A wrong cost of any kernel that Llama or Nemotron adds turns `verify` red."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.model import op_kinds
from parsim.parallel.plan import Plan
from parsim.verify import verify_plan
from support import GPT, STACKS, enough, scenario

LLAMA = replace(GPT, num_kv_heads=2, activation="swiglu", dropout=0.0, norm="rms_norm", positions="rotary", bias=False, qkv_bias=False)
FUSED = ("rms_norm", "rms_norm_grad_x", "rms_norm_grad_gamma", "swiglu", "swiglu_grad", "cross_entropy_grad")
STEPS = ("rms_normalize", "rms_normalize_grad", "gain", "gain_grad", "silu", "silu_grad", "multiply", "nll_loss_grad")
KERNELS = (*FUSED, *STEPS, "rotary", "rotary_grad")


@pytest.mark.parametrize("kernel", [*KERNELS, "squared_relu", "squared_relu_grad"])
def test_a_kernel_that_costs_one_flop_more_is_noticed(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LLAMA if kernel in KERNELS else replace(LLAMA, activation="squared_relu")
    right = op_kinds.COSTS[kernel]
    monkeypatch.setitem(op_kinds.COSTS, kernel, replace(right, per_element=right.per_element + 1))
    stack = replace(STACKS[2], fusions=() if kernel in STEPS else ("rms_norm", "swiglu", "loss_in_place"))
    checks = verify_plan(scenario(model=model, batch=enough(Plan()), stack=stack), Plan(), "toy")
    assert {check.quantity for check in checks if not check.ok} >= {"FLOPs", "FLOPs, simulated"}
