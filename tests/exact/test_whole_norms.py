"""Layers of OLMo 2, OLMoE and Granite keep the contract: norms over all heads of a token at once, which tensor-parallel ranks add up,
biases of attention or of the MLP alone, branches times a factor; mutants of each."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.model.op_kinds import KINDS
from parsim.model.transformer import TransformerSpec
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, whole_rows
from support import GPT, MOE, STACK, forget_steps, scenario

OLMO = replace(
    MOE, name="toy olmo", num_experts=0, num_dense_layers=0, shared_ffn_hidden_size=0, num_layers=4, qk_norm_whole=True, norm_after=True
)
ATTENTION = {"bias": True, "qkv_bias": True, "mlp_bias": False}
MODELS: dict[str, TransformerSpec] = {
    "olmo 2": OLMO,
    "olmo 2 in float32": replace(OLMO, norm_in_float32=True),
    "olmoe": replace(MOE, qk_norm_whole=True, **ATTENTION),
    "granite": replace(OLMO, norm_after=False, qk_norm=False, qk_norm_whole=False, residual_scale=0.5, **ATTENTION),
    "granite moe": replace(MOE, residual_scale=0.5, embedding_scale=3.0, logit_scale=0.25),
    "beside": replace(GPT, parallel_block=True, residual_scale=0.5, out_bias=False, qkv_bias=False),
    "attention alone": replace(GPT, mlp_bias=False, residual_scale=2.0),
}
FUSED = replace(STACK, attention="flash", fusions=("swiglu", "rms_norm", "dropout_add", "bias", "gelu", "gradient_accumulation"))
STACKS = {"flash": FUSED, "unfused": replace(STACK, attention="unfused")}
PLANS: dict[str, Plan] = {
    "tp": Plan(tensor_parallel=2, expert_tensor_parallel=2, micro_batch=2),
    "sp": Plan(tensor_parallel=4, sequence_parallel=True, recompute="selective", micro_batch=2),  # kv heads are held twice
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full", micro_batch=2),
    "pp": Plan(pipeline_parallel=2, schedule="zero_bubble_h1"),
    "ring": Plan(context_parallel=2, context_kind="ring", micro_batch=2),
}


def failures(model: TransformerSpec, plan: Plan, stack: str = "flash") -> set[str]:
    toy = scenario(model=model, batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    plan = plan if model.num_experts else replace(plan, expert_tensor_parallel=1)
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


_QUICK = (("olmo 2 in float32", "tp"), ("olmo 2", "sp"), ("olmoe", "tp"), ("granite", "pp"), ("beside", "tp"), ("attention alone", "zero3"))
_EACH = [pytest.param(*each, marks=() if each in _QUICK else pytest.mark.slow) for each in product(MODELS, PLANS)]


@pytest.mark.parametrize(("name", "plan"), _EACH)
def test_the_layers_of_each_keep_the_contract(name: str, plan: str) -> None:
    assert not failures(MODELS[name], PLANS[plan], "unfused" if plan in ("tp", "pp") else "flash")


def test_a_norm_over_all_heads_adds_an_all_reduce_of_a_number_a_token_forward_and_one_backward() -> None:
    plan = Plan(tensor_parallel=2, micro_batch=2)
    toys = (scenario(model=replace(OLMO, qk_norm_whole=whole), batch=Batch(2, 8), stack=FUSED) for whole in (True, False))
    sent = [estimate(toy, plan).sent_bytes[0]["tp"] for toy in toys]
    tokens, norms, layers, passes, ranks = 2 * 8, 2, 4, 2, 2
    each = 4 * tokens * 2 * (ranks - 1) // ranks  # bytes of float32
    # A weight that all heads share gets gradients on each rank, in float32; those of heads lie with their heads.
    of_shared = norms * layers * 4 * OLMO.head_dim * 2 * (ranks - 1) // ranks
    assert sent[0] - sent[1] == norms * layers * passes * each - of_shared


def _kernel(patch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, name: wrong})


def _ranks_keep_their_sums(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "square_sum", replace(KINDS["square_sum"], operator=""))


def _sums_flow_back_at_half(patch: pytest.MonkeyPatch) -> None:
    def wrong(inputs, told, out=whole_rows.fresh):  # type: ignore[no-untyped-def]
        (d_x,), flops = whole_rows.square_sum_grad(inputs, told, out)
        d_x *= 0.5
        return (d_x,), flops

    _kernel(patch, "square_sum_grad", wrong)


def _branches_flow_back_unscaled(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "scale", replace(KINDS["scale"], gradients=KINDS["add"].gradients[:1]))


ALONE = Plan(micro_batch=2)
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, Plan, str]] = {
    _ranks_keep_their_sums: ("olmo 2", PLANS["tp"], "loss"),
    _sums_flow_back_at_half: ("olmo 2", ALONE, "weight gradients, by hand"),
    _branches_flow_back_unscaled: ("granite", ALONE, "weight gradients, by hand"),
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan, noticed = MUTANTS[mutate]
    forget_steps()
    mutate(monkeypatch)
    try:
        assert noticed in failures(MODELS[model], plan)
    finally:
        forget_steps()
