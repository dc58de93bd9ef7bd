"""Layers of Gemma 4 keep the contract: heads of two kinds, values of normed keys, unscaled scores, a factor behind; mutants of each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim.cost import count
from parsim.model import blocks
from parsim.model.op import Gradient, Op
from parsim.model.op_kinds import KINDS
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from support import MOE, STACK, forget_steps, scenario

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
FUSED = replace(STACK, attention="flash", fusions=("swiglu", "rms_norm", "dropout_add", "gradient_accumulation"))
STACKS = {"flash": FUSED, **{name: replace(STACK, attention=name) for name in ("unfused", "fused_softmax")}}
PLANS: dict[str, Plan] = {
    "tp and sp": Plan(tensor_parallel=2, sequence_parallel=True, recompute="selective", micro_batch=2),
    "tp, pp and dp": Plan(tensor_parallel=2, sequence_parallel=True, pipeline_parallel=2, data_parallel=2, zero_stage=1, micro_batch=2),
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full", micro_batch=2),
    **{kind: Plan(context_parallel=2, context_kind=kind, micro_batch=2) for kind in ("ring", "ulysses", "all_gather")},
}


def failures(plan: Plan, stack: str = "flash", model: str = "two kinds of heads") -> set[str]:
    toy = scenario(model=MODELS[model], batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", [name if name == "tp and sp" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS])
def test_layers_of_gemma_4_keep_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_they_do_on_every_attention(stack: str) -> None:
    assert not failures(PLANS["tp and sp"], stack, "wider heads")


@pytest.mark.slow
def test_kv_heads_are_copied_where_both_kinds_have_as_many() -> None:
    assert not failures(Plan(tensor_parallel=4, sequence_parallel=True, micro_batch=2), model="wider heads")


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


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    _values_are_what_keys_are: "loss, by hand",
    _scores_are_scaled: "loss, by hand",
    _full_layers_turn_all: "loss, by hand",
    _a_layer_is_not_scaled_back: "weight gradients, by hand",
    _pairs_are_as_wide_everywhere: "FLOPs",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_of_gemma_4_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        assert MUTANTS[mutate] in failures(Plan(micro_batch=2))
    finally:
        forget_steps()
