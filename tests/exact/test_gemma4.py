"""Layers of Gemma 4 keep the contract: heads of two kinds, values of normed keys, unscaled scores, a factor behind; mutants of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from test_gemma import FUSED, PLANS, STACKS

from parsim.cost import count
from parsim.model import blocks
from parsim.model.adapters import SINGLE
from parsim.model.op import Gradient, Op
from parsim.model.op_kinds import COSTS, KINDS
from parsim.model.tuning import Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import KERNELS
from support import MOE, forget_steps, scenario

GEMMA = replace(
    MOE, name="toy gemma 4", num_experts=0, num_dense_layers=0, shared_ffn_hidden_size=0, num_layers=4, activation="geglu",
    sandwich_norm=True, sliding_window=3, full_attention_every=2, tied_embedding=True, qk_norm=True, norm_in_float32=True,
    num_heads=8, num_kv_heads=4, full_kv_heads=2, full_head_dim=6, full_rotary_dim=2, keys_as_values=True, values_normed=True,
    scores_scaled=False, layer_scale=0.5,
)  # fmt: skip
MODELS = {
    "two kinds of heads": GEMMA,
    "wider heads": replace(GEMMA, full_kv_heads=0, full_rotary_dim=0, keys_as_values=False, num_kv_heads=2, qkv_bias=True),
}
MODELS["experts beside an mlp"] = replace(
    GEMMA, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=8, experts_beside_mlp=True, gates="softmax", load_skew=0.0
)


def failures(plan: Plan, stack: str = "flash", model: str = "two kinds of heads") -> set[str]:
    toy = scenario(model=MODELS[model], batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", [name if name == "tp and sp" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS])
def test_layers_of_gemma_4_keep_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])


EXPERTS: dict[str, Plan] = {
    "ep": Plan(tensor_parallel=2, sequence_parallel=True, expert_parallel=2, micro_batch=2),
    "etp": Plan(tensor_parallel=2, expert_tensor_parallel=2, recompute="selective", micro_batch=2),
    "ep and zero3": Plan(data_parallel=4, expert_parallel=2, zero_stage=3, micro_batch=2),
    "pp": Plan(pipeline_parallel=2, recompute="full", micro_batch=2),
}


@pytest.mark.parametrize("plan", [name if name == "ep" else pytest.param(name, marks=pytest.mark.slow) for name in EXPERTS])
def test_experts_beside_an_mlp_keep_the_contract(plan: str) -> None:
    assert not failures(EXPERTS[plan], "flash" if plan == "pp" else "unfused", model="experts beside an mlp")


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_they_do_on_every_attention(stack: str) -> None:
    assert not failures(PLANS["tp and sp"], stack, "wider heads")


@pytest.mark.slow
def test_kv_heads_are_copied_where_both_kinds_have_as_many() -> None:
    assert not failures(Plan(tensor_parallel=4, sequence_parallel=True, micro_batch=2), model="wider heads")


TUNINGS = {
    "lora": Tuning(("base",), 2, 4.0, lora_targets=SINGLE),
    "qlora": Tuning(("base",), 2, 4.0, lora_targets=SINGLE, quantization="nf4"),
    "frozen": Tuning(("embedding", "attention")),
}


@pytest.mark.slow
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("model", ["two kinds of heads", "experts beside an mlp"])
def test_parts_of_them_may_be_frozen(model: str, tuning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, model, replace(MODELS[model], tuning=TUNINGS[tuning]))
    assert not failures(EXPERTS["ep"] if model == "experts beside an mlp" else PLANS["tp and sp"], model=model)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp8_current", "fp8_rowwise"])
def test_they_keep_the_contract_in_8_bits(dtype: str) -> None:
    model = replace(GEMMA, hidden_size=16, full_head_dim=8)
    toy = scenario(model=model, batch=Batch(4, 8, dtype), stack=FUSED)
    assert not {check.quantity for check in verify_plan(toy, PLANS["tp and sp"], "toy") if not check.ok}


def test_more_ranks_than_kv_heads_of_one_kind_are_told_which_are_legal() -> None:
    found = faults(Plan(tensor_parallel=4), GEMMA, Batch(4, 8), 4)
    assert ["does not divide both full_kv_heads = 2 and num_kv_heads = 4" in each.message for each in found] == [True]
    assert "Legal: 1, 2" in found[0].remedy


def _values_are_what_keys_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        blocks,
        "plain_rms_norm",
        lambda name, x, fusions, *, out, dims: iter([Op(name, f"{dims} -> {dims}", (x,), (out,), "scale", attributes=(("scale", 1.0),))]),
    )


def _scores_are_scaled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "_UNSCALED", (("scale", 0.5),))


def _full_layers_turn_all(patch: pytest.MonkeyPatch) -> None:
    own = blocks._projections
    patch.setattr(blocks, "_projections", lambda form, kind, fusions: own(form, replace(kind, partly_turned=False), fusions))


def _a_layer_is_not_scaled_back(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "scale", replace(KINDS["scale"], gradients=(Gradient("x0"),)))


def _pairs_are_as_wide_everywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(count, "head_widths", lambda task, sizes: (sizes.dims["C"], sizes.dims["C"]))


def _routers_read_unscaled_tokens(patch: pytest.MonkeyPatch) -> None:
    own, same = blocks._beside_experts, (("scale", 1.0),)

    def unscaled(*given: Any) -> list[Op]:
        return [replace(op, attributes=same) if op.name == "router_scale" else op for op in own(*given)]

    patch.setattr(blocks, "_beside_experts", unscaled)


def _factors_of_experts_learn_all(patch: pytest.MonkeyPatch) -> None:
    own = KERNELS["expert_scale_grad"]
    wrong = {"expert_scale_grad": lambda inputs, told, out: own((np.ones_like(inputs[0]), inputs[1]), told, out)}
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, **wrong})


def _factors_of_experts_cost_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "expert_scale", replace(COSTS["expert_scale"], per_element=0))


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    _values_are_what_keys_are: "loss, by hand",
    _scores_are_scaled: "loss, by hand",
    _full_layers_turn_all: "loss, by hand",
    _a_layer_is_not_scaled_back: "weight gradients, by hand",
    _pairs_are_as_wide_everywhere: "FLOPs",
    _routers_read_unscaled_tokens: "loss, by hand",
    _factors_of_experts_learn_all: "weight gradients, by hand",
    _factors_of_experts_cost_nothing: "FLOPs",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_of_gemma_4_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        assert MUTANTS[mutate] in failures(Plan(micro_batch=2), model="experts beside an mlp")
    finally:
        forget_steps()
