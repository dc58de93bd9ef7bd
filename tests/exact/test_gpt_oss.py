"""The layers of gpt-oss keep the contract: sinks, alternating windows, and experts with biases and a clamped SwiGLU; mutants of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.model.op_kinds import KINDS
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import attention, experts
from parsim_kernels.gated import clamped_swiglu
from parsim_kernels.kernels import KERNELS
from support import MOE, STACK, forget_steps, scenario

OSS = replace(
    MOE, name="toy oss", num_layers=4, sliding_window=3, full_attention_every=2, attention_sinks=True, activation="clamped_swiglu",
    num_dense_layers=0, shared_ffn_hidden_size=0, qk_norm=False, bias=True, qkv_bias=True, num_experts=6, load_skew=0.5,
)  # fmt: skip
FUSED = replace(STACK, attention="flash", fusions=("swiglu", "rms_norm", "bias", "gradient_accumulation"))
STACKS = {"flash": FUSED, **{name: replace(STACK, attention=name) for name in ("unfused", "fused_softmax")}}
PLANS: dict[str, Plan] = {
    "ep and zero": Plan(data_parallel=2, expert_parallel=2, zero_stage=1, micro_batch=2),
    "zero3": Plan(data_parallel=2, zero_stage=3, recompute="full", micro_batch=2),
    "pp": Plan(pipeline_parallel=3, layers_per_stage=(2, 1, 1), micro_batch=2),
    **{kind: Plan(context_parallel=2, context_kind=kind, expert_parallel=2, micro_batch=2) for kind in ("ring", "ulysses", "all_gather")},
}


def failures(plan: Plan, stack: str = "flash") -> set[str]:
    model = replace(OSS, load_skew=0.0, num_experts=4) if plan.tensor_parallel * plan.context_parallel > 1 else OSS
    toy = scenario(model=model, batch=Batch(4 * plan.data_parallel, 8), stack=STACKS[stack])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", PLANS)
def test_gpt_oss_keeps_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])


def test_adapters_stand_beside_experts_with_biases_too() -> None:
    """Gate and up share their A, and the gate's bias comes between the two: it waits until the adapter's part is added."""
    tuning = Tuning((BASE,), 4, 2.0, 0.0, ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"))
    model = replace(OSS, num_layers=2, load_skew=0.0, num_experts=4, tuning=tuning)
    plan = Plan(data_parallel=2, expert_parallel=2, micro_batch=2)
    toy = scenario(model=model, batch=Batch(8, 8), stack=FUSED)
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


@pytest.mark.parametrize("stack", STACKS)
def test_gpt_oss_keeps_the_contract_with_sequence_parallelism_on_every_attention(stack: str) -> None:
    assert not failures(Plan(tensor_parallel=2, sequence_parallel=True, expert_parallel=2, recompute="selective"), stack)


def test_a_sink_is_a_key_whose_value_is_0() -> None:
    rng = np.random.default_rng(0)
    q, k, v, sinks = (rng.normal(size=shape) for shape in ((1, 3, 1, 2, 4), (1, 3, 1, 4), (1, 3, 1, 4), (1, 2)))
    told = {"scale": 0.5, "causal": 0}
    (o, _), _ = KERNELS["flash_attention"]((q, k, v, sinks), told)
    scores = np.einsum("bskrc,bzkc->bkrsz", q, k) / 2
    more = np.concatenate((scores, np.broadcast_to(sinks[..., None, None], (1, 1, 2, 3, 1))), axis=-1)
    odds = np.exp(more)
    shares = odds / odds.sum(-1, keepdims=True)
    assert np.allclose(o, np.einsum("bkrsz,bzkc->bskrc", shares[..., :-1], v), rtol=1e-14)
    assert np.allclose(KERNELS["sink_softmax"]((scores, sinks), {})[0][0], shares[..., :-1], rtol=1e-14)


def test_a_clamped_swiglu_is_flat_where_it_is_clamped() -> None:
    """openai/gpt-oss, gpt_oss/torch/model.py: x_glu.clamp(max=7), x_linear.clamp(-7, 7), x_glu sigmoid(1.702 x_glu) (x_linear + 1)."""
    gate, up = np.array([0.5, 8.0, 0.5, -9.0]), np.array([0.25, 0.25, -9.0, 2.0])
    own, linear = np.array([0.5, 7.0, 0.5, -9.0]), np.array([0.25, 0.25, -7.0, 2.0])
    (y,), _ = clamped_swiglu((gate, up), {})
    assert np.allclose(y, own / (1 + np.exp(-1.702 * own)) * (linear + 1), rtol=1e-15)
    (d_gate, d_up), _ = KERNELS["clamped_swiglu_grad"]((gate, up, np.ones(4)), {})
    (ahead,), (behind,) = (clamped_swiglu((gate + h, up), {})[0] for h in (1e-6, -1e-6))
    assert np.allclose(d_gate, (ahead - behind) / 2e-6, atol=1e-8) and d_gate[1] == 0
    (ahead,), (behind,) = (clamped_swiglu((gate, up + h), {})[0] for h in (1e-6, -1e-6))
    assert np.allclose(d_up, (ahead - behind) / 2e-6, atol=1e-8) and d_up[2] == 0


def test_experts_with_biases_are_not_cut() -> None:
    """NVIDIA/Megatron-LM, megatron/core/transformer/transformer_config.py: "Bias in Moe is only supported when ETP==1"."""
    plan = Plan(tensor_parallel=2, expert_tensor_parallel=2, micro_batch=2)
    (fault,) = faults(plan, replace(OSS, num_experts=4, load_skew=0.0), Batch(8, 8), 2, stack=FUSED)
    assert fault.message == 'expert_tensor_parallel = 2 cuts experts of model "toy oss", which have biases'


def _kernel(patch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, name: wrong})


def _no_sinks(patch: pytest.MonkeyPatch) -> None:
    _kernel(patch, "flash_attention", lambda inputs, told, out=attention.fresh: attention.flash_attention(inputs[:3], told, out))


def _sinks_are_not_trained(patch: pytest.MonkeyPatch) -> None:
    own = KINDS["sink_attention"]
    patch.setitem(
        KINDS, "sink_attention", replace(own, gradients=(own.gradients[0], replace(own.gradients[1], kernel="sum_to", reads=("x3",))))
    )


def _sinks_in_every_turn(patch: pytest.MonkeyPatch) -> None:
    def more(inputs, told, out=attention.fresh):  # type: ignore[no-untyped-def]
        found, flops = attention.flash_attention_more(inputs, told, out)
        np.logaddexp(found[1], 0.0, out=found[1])
        return found, flops

    _kernel(patch, "flash_attention_more", more)


def _biases_without_gates(patch: pytest.MonkeyPatch) -> None:
    def wrong(inputs, told, out=experts.fresh):  # type: ignore[no-untyped-def]
        return experts.weighted_expert_bias((*inputs[:2], np.ones_like(inputs[2])), told, out)

    _kernel(patch, "weighted_expert_bias", wrong)


def _gates_get_nothing_of_biases(patch: pytest.MonkeyPatch) -> None:
    own = KINDS["weighted_expert_bias"]
    patch.setitem(KINDS, "weighted_expert_bias", replace(own, gradients=own.gradients[:2]))


def _slope_of_1(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parsim_kernels.gated._CLAMPED_SLOPE", 1.0)


ALONE = Plan(micro_batch=2)
BY_HAND = {"loss, by hand", "weight gradients, by hand"}
MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Plan, set[str]]] = {
    _no_sinks: (ALONE, BY_HAND),
    _sinks_are_not_trained: (ALONE, {"weight gradients, by hand"}),
    _sinks_in_every_turn: (PLANS["ring"], {"weight gradients"}),
    _biases_without_gates: (ALONE, BY_HAND),
    _gates_get_nothing_of_biases: (ALONE, {"weight gradients, by hand"}),
    _slope_of_1: (ALONE, BY_HAND),
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, noticed = MUTANTS[mutate]
    forget_steps()
    mutate(monkeypatch)
    try:
        assert noticed <= failures(plan)
    finally:
        forget_steps()
