"""Layers of Gemma and OLMo 2 keep the contract: GeGLU, norms behind branches, soft caps, a scaled embedding; mutants of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.model.op import Gradient
from parsim.model.op_kinds import KINDS
from parsim.model.transformer import TransformerArchitecture
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, attention, gated
from support import MOE, STACK, every_other, forget_steps, scenario

GEMMA = replace(
    MOE, name="toy gemma", num_experts=0, num_dense_layers=0, shared_ffn_hidden_size=0, num_layers=4, activation="geglu",
    sandwich_norm=True, embedding_scale=3.0, attn_logit_softcapping=0.5, final_logit_softcapping=0.25, sliding_window=3,
    full_attention_every=2, tied_embedding=True, qk_norm=True, norm_in_float32=True,
)  # fmt: skip
MODELS = {
    "gemma": GEMMA,
    "norms after": replace(GEMMA, sandwich_norm=False, norm_after=True),
    "experts": replace(MOE, activation="geglu", sandwich_norm=True, embedding_scale=2.0, shared_expert_gate=True),
}
FUSED = replace(STACK, attention="flash", fusions=("swiglu", "rms_norm", "dropout_add", "gradient_accumulation"))
STACKS = {"flash": FUSED, **{name: replace(STACK, attention=name) for name in ("unfused", "fused_softmax")}}
PLANS: dict[str, Plan] = {
    "tp and sp": Plan(tensor_parallel=2, sequence_parallel=True, recompute="selective", micro_batch=2),
    "tp, pp and dp": Plan(tensor_parallel=2, sequence_parallel=True, pipeline_parallel=2, data_parallel=2, zero_stage=1, micro_batch=2),
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full", micro_batch=2),
    **{kind: Plan(context_parallel=2, context_kind=kind, micro_batch=2) for kind in ("ring", "ulysses", "all_gather")},
}


def failures(plan: Plan, stack: str = "flash", model: str = "gemma") -> set[str]:
    toy = scenario(model=MODELS[model], batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("case", every_other(PLANS, MODELS, "{}-{}".format))
def test_layers_of_gemma_keep_the_contract(case: tuple[str, str]) -> None:
    assert not failures(PLANS[case[0]], model=case[1])


@pytest.mark.parametrize("stack", STACKS)
def test_they_do_on_every_attention(stack: str) -> None:
    assert not failures(PLANS["tp and sp"], stack)


def test_a_capped_score_is_within_its_cap_and_no_masked_key_is_seen() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=shape) for shape in ((1, 3, 1, 2, 4), (1, 3, 1, 4), (1, 3, 1, 4)))
    (o, _), _ = attention.flash_attention((q, k, v), {"scale": 2.0, "cap": 0.5})
    scores = 0.5 * np.tanh(2.0 * np.einsum("bskrc,bzkc->bkrsz", q, k) / 0.5)
    odds = np.exp(scores) * np.tri(3)
    assert np.allclose(o, np.einsum("bkrsz,bzkc->bskrc", odds / odds.sum(-1, keepdims=True), v), rtol=1e-14)


def test_three_places_of_norms_are_one_too_many() -> None:
    assert "give one" in replace(GEMMA, norm_after=True).misfit({})


def _caps_are_straight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attention.Factor, "slope", lambda self, scores: self.scale)


def _later_keys_are_not_capped(patch: pytest.MonkeyPatch) -> None:
    own = attention.flash_attention_more
    wrong = {"flash_attention_more": lambda inputs, told, out: own(inputs, {**told, "cap": 9.0}, out)}
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, **wrong})


def _caps_of_logits_are_straight(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "softcap", replace(KINDS["softcap"], gradients=(Gradient("x0"),)))


def _embeddings_get_unscaled_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "scale", replace(KINDS["scale"], gradients=(Gradient("x0"),)))


def _gates_are_relu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated, "gelu_tanh", lambda x, t, scratch: np.sign(x, out=t))


def _shared_gates_are_straight(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "sigmoid", replace(KINDS["sigmoid"], gradients=(Gradient("x0"),)))


def _no_norms_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransformerArchitecture, "norms_branches", False)


ALONE = Plan(micro_batch=2)
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Plan, str]] = {
    _caps_are_straight: (ALONE, "weight gradients, by hand"),
    _later_keys_are_not_capped: (PLANS["ring"], "weight gradients"),
    _caps_of_logits_are_straight: (ALONE, "weight gradients, by hand"),
    _embeddings_get_unscaled_gradients: (ALONE, "weight gradients, by hand"),
    _shared_gates_are_straight: (ALONE, "weight gradients, by hand"),
    _gates_are_relu: (ALONE, "loss, by hand"),
    _no_norms_behind: (ALONE, "loss, by hand"),
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, noticed = MUTANTS[mutate]
    forget_steps()
    mutate(monkeypatch)
    try:
        assert noticed in failures(plan, model="experts" if mutate is _shared_gates_are_straight else "gemma")
    finally:
        forget_steps()
