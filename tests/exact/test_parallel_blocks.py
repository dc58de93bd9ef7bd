"""MLPs beside attention, ALiBi, and what their models have beside these keep the contract: partly turned heads, norms and layers without
biases, a bias and a scale of logits, a norm behind the embedding, dropout of some places; mutants of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.model import op_kinds
from parsim.model.op_kinds import KINDS
from parsim.model.transformer import TransformerSpec
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import attention, by_head, lookup
from parsim_kernels.kernels import KERNELS
from support import GPT, STACK, every_other, forget_steps, scenario

NEOX = replace(GPT, name="toy neox", parallel_block=True, positions="rotary", rotary_dim=2, tied_embedding=False, dropout=0.0)
BARE: dict[str, Any] = {"tied_norm": True, "bias": False, "qkv_bias": False, "tied_embedding": True, "rotary_dim": 0}
MODELS: dict[str, TransformerSpec] = {
    "neox": NEOX,
    "phi": replace(NEOX, tied_norm=True, head_bias=True, dropout=0.1, scores_dropped=False, embedding_dropped=False),
    "gptj": replace(NEOX, tied_norm=True, qkv_bias=False, out_bias=False, head_bias=True),
    "falcon": replace(NEOX, num_kv_heads=1, **BARE),
    "cohere": replace(
        NEOX, norm_bias=False, activation="swiglu", num_kv_heads=2, logit_scale=0.25,
        sliding_window=3, full_attention_every=2, unturned_every=2, **BARE,
    ),
    "command r+": replace(NEOX, num_kv_heads=2, qk_norm=True, qk_norm_by_head=True, **BARE),
    "bloom": replace(GPT, positions="alibi", embedding_norm=True),
    "mpt": replace(GPT, positions="alibi", norm_bias=False, bias=False, qkv_bias=False, dropout=0.0, num_kv_heads=2),
    "opt": replace(GPT, position_offset=2, scores_dropped=False, embedding_dropped=False, activation="relu"),
}  # fmt: skip
FUSIONS = ("swiglu", "bias", "gelu", "dropout_add", "gradient_accumulation")
STACKS = {"flash": replace(STACK, attention="flash", fusions=FUSIONS), **{each: replace(STACK, attention=each) for each in ("unfused",)}}
PLANS: dict[str, Plan] = {
    "tp": Plan(tensor_parallel=2, micro_batch=2),
    "sp": Plan(tensor_parallel=4, sequence_parallel=True, recompute="selective", micro_batch=2),
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full", micro_batch=2),
    "pp": Plan(pipeline_parallel=2, schedule="zero_bubble_h1"),
}
RINGS = {kind: Plan(context_parallel=2, context_kind=kind, micro_batch=2) for kind in ("ring", "ulysses", "all_gather")}


def failures(model: TransformerSpec, plan: Plan, stack: str = "flash") -> set[str]:
    toy = scenario(model=model, batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("case", every_other(MODELS, PLANS, "{}-{}".format, 3))
def test_the_layers_of_each_family_keep_the_contract(case: tuple[str, str]) -> None:
    name, plan = case
    stack = "unfused" if plan in ("sp", "pp") else "flash"
    assert not failures(MODELS[name], PLANS[plan], stack)


@pytest.mark.parametrize("kind", RINGS)
@pytest.mark.parametrize("name", ["bloom", "cohere"])
def test_distances_and_windows_are_right_where_ranks_share_a_sequence(name: str, kind: str) -> None:
    assert not failures(MODELS[name], RINGS[kind])


def test_heads_over_tensor_and_sequence_ranks_have_their_own_slopes() -> None:
    assert not failures(MODELS["bloom"], Plan(tensor_parallel=2, context_parallel=2, context_kind="ulysses", micro_batch=2))


@pytest.mark.parametrize(
    ("fields", "collectives"), [({}, 4), ({"parallel_block": True}, 3), ({"parallel_block": True, "tied_norm": True}, 2)]
)
def test_side_by_side_one_all_reduce_settles_both_forward_and_one_a_norm_backward(fields: dict[str, bool], collectives: int) -> None:
    """EleutherAI/gpt-neox, megatron/model/transformer.py: "we can do a single allreduce after we add attn / mlp outputs together"."""
    plan = Plan(tensor_parallel=2, micro_batch=2)
    deep, flat = (
        estimate(scenario(model=replace(GPT, dropout=0.0, num_layers=layers, **fields), batch=Batch(2, 8)), plan) for layers in (4, 2)
    )
    payload = 2 * 8 * 12 * 2  # sequences, tokens, hidden_size, bytes; two ranks send as many in an all-reduce
    assert deep.sent_bytes[0]["tp"] - flat.sent_bytes[0]["tp"] == 2 * collectives * payload


def _kernel(patch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, name: wrong})


def _all_of_a_head_turns(patch: pytest.MonkeyPatch) -> None:
    _kernel(patch, "rotary", lambda inputs, told, out=lookup.fresh: lookup.rotary(inputs, {"offset": told["offset"]}, out))


def _gradients_of_logits_are_not_scaled(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(KINDS, "scale", replace(KINDS["scale"], gradients=KINDS["add"].gradients[:1]))


def _every_head_has_one_slope(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TransformerSpec, "slopes", property(lambda self: (0.5,) * self.num_heads))


class _OfTheFirstHeads(tuple[float, ...]):
    def __getitem__(self, at: Any) -> Any:
        return tuple(self)[: at.stop - at.start]


def _each_rank_has_the_slopes_of_the_first(patch: pytest.MonkeyPatch) -> None:
    own = TransformerSpec.slopes.fget  # type: ignore[attr-defined]
    patch.setattr(TransformerSpec, "slopes", property(lambda self: _OfTheFirstHeads(own(self))))


def _distances_begin_anew_in_each_block(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        attention._Mask,
        "distances",
        lambda self, queries, keys: np.subtract.outer(np.arange(queries.start, queries.stop), np.arange(keys.start, keys.stop)),
    )


def _the_embedding_is_dropped(patch: pytest.MonkeyPatch) -> None:
    own = TransformerSpec.architecture.func  # type: ignore[attr-defined]
    patch.setattr(TransformerSpec, "architecture", property(lambda self: replace(own(self), embedding_dropped=True)))


def _costs_a_flop_more(patch: pytest.MonkeyPatch, kernel: str) -> None:
    own = op_kinds.COSTS[kernel]
    patch.setitem(op_kinds.COSTS, kernel, replace(own, per_element=own.per_element + 1))


def _lowering_costs_more(patch: pytest.MonkeyPatch) -> None:
    _costs_a_flop_more(patch, "alibi")


def _heads_share_the_gradients_of_their_scales(patch: pytest.MonkeyPatch) -> None:
    def wrong(inputs, told, out=by_head.fresh):  # type: ignore[no-untyped-def]
        (d_gamma,), flops = by_head.layer_norm_by_head_grad_gamma(inputs, told, out)
        d_gamma[...] = d_gamma.mean(axis=0)
        return (d_gamma,), flops

    _kernel(patch, "layer_norm_by_head_grad_gamma", wrong)


def _norms_cost_more(patch: pytest.MonkeyPatch) -> None:
    _costs_a_flop_more(patch, "unshifted_layer_norm")


ALONE, BY_HAND = Plan(micro_batch=2), "loss, by hand"
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, Plan, str, str]] = {
    _all_of_a_head_turns: ("neox", ALONE, "flash", BY_HAND),
    _gradients_of_logits_are_not_scaled: ("cohere", ALONE, "flash", "weight gradients, by hand"),
    _every_head_has_one_slope: ("bloom", ALONE, "unfused", BY_HAND),
    _each_rank_has_the_slopes_of_the_first: ("mpt", PLANS["tp"], "flash", "loss"),
    _distances_begin_anew_in_each_block: ("bloom", RINGS["ring"], "flash", "loss"),
    _the_embedding_is_dropped: ("opt", ALONE, "flash", BY_HAND),
    _heads_share_the_gradients_of_their_scales: ("command r+", ALONE, "flash", "weight gradients, by hand"),
    _lowering_costs_more: ("bloom", ALONE, "unfused", "FLOPs"),
    _norms_cost_more: ("mpt", ALONE, "flash", "FLOPs"),
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_block_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    name, plan, stack, noticed = MUTANTS[mutate]
    forget_steps()
    mutate(monkeypatch)
    try:
        assert noticed in failures(MODELS[name], plan, stack)
    finally:
        forget_steps()
