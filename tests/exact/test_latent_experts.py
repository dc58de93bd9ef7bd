"""Experts of narrower vectors and a module for a later token in hybrids, as of Nemotron 3 Super, keep the contract; mutants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from parsim.model import blocks
from parsim.model.families.hybrid import HybridSpec
from parsim.model.op import Op
from parsim.model.parameters import model_flops_per_token, num_active_parameters, num_parameters
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.scenario.rows import read
from parsim.verify import verify_plan
from support import MOE, STACKS, forget_steps, scenario

SUPER = HybridSpec.of(
    name="toy super", pattern="M*E", gates="sigmoid", gate_scale=5.0, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=8,
    shared_ffn_hidden_size=4, expert_latent_size=6, mtp_layers=1, hidden_size=12, ffn_hidden_size=16, num_heads=4, num_kv_heads=2,
    head_dim=4, vocab_size=60, max_positions=8, mamba_heads=4, mamba_groups=2, mamba_head_dim=3, state_size=5, scan_chunk=3,
    tied_embedding=False,
)  # fmt: skip
LOADS = replace(SUPER, pattern="ME*E", num_layers=4, load_shares=((4.0, 2.0, 1.0, 1.0), (1.0, 1.0, 5.0, 1.0)))
DECODER = replace(MOE, expert_latent_size=6)
SEQUENCE: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "ep": (SUPER, {"data_parallel": 2, "expert_parallel": 2}),
    "ep over stages": (SUPER, {"pipeline_parallel": 3, **SEQUENCE, "expert_parallel": 2}),
    "zero3": (SUPER, {"data_parallel": 2, "zero_stage": 3, "recompute": "full"}),
    "etp": (SUPER, {"tensor_parallel": 2, "expert_tensor_parallel": 2}),
    "loads by layer": (LOADS, {"data_parallel": 2, "expert_parallel": 2}),
    "a decoder": (DECODER, {**SEQUENCE, "expert_parallel": 2, "recompute": "selective"}),
}


def failures(model: Any, number: int = 2, **fields: Any) -> set[str]:
    plan = Plan(**fields)
    toy = scenario(model=model, batch=Batch(2 * plan.data_parallel * plan.pipeline_parallel, 8), stack=STACKS[number])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", [name if name == "ep" else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_narrow_experts_and_a_later_token_keep_the_contract(name: str) -> None:
    model, fields = CASES[name]
    assert not failures(model, [*CASES].index(name) % len(STACKS), **fields)


def test_the_module_costs_its_weights_the_output_layer_again_and_a_layer_of_attention() -> None:
    plain = replace(SUPER, mtp_layers=0)
    attention, out = 12 * (16 + 2 * 8) + 16 * 12, 60 * 12  # q, k and v, and back; the output layer
    experts = 4 * 12 + 2 * 12 * 6 + 2 * 12 * 4  # router, to narrow vectors and back, and what all tokens pass
    norms, projections = 5 * 12, 2 * 12 * 12
    every = attention + experts + 4 * 2 * 6 * 8 + norms + projections
    assert num_parameters(SUPER) - num_parameters(plain) == every
    assert num_active_parameters(SUPER) - num_active_parameters(plain) == every - 2 * 2 * 6 * 8
    more = model_flops_per_token(SUPER, 8)[0] - model_flops_per_token(plain, 8)[0]
    assert more == 6 * (every - 2 * 2 * 6 * 8 + out) + 12 * 4 * 4 * 8


def test_nemotron_3_super_has_120_billion_parameters_of_which_a_token_uses_12() -> None:
    model = replace(read("models", "nemotron-3-super-120b-a12b"), mtp_layers=0)  # as its name says
    assert (num_parameters(model) // 10**9, num_active_parameters(model) // 10**9) == (120, 12)


def test_a_module_behind_another_layer_is_refused() -> None:
    assert "behind a last layer of experts" in replace(SUPER, pattern="ME*", num_layers=3).misfit({})


def _sums_of_narrow_vectors_come_twice(patch: pytest.MonkeyPatch) -> None:
    own = blocks.experts

    def twice(x: str, out: str, *given: Any, **told: Any) -> Iterator[Op]:
        yield from own(x, "once", *given, **told)
        yield Op("twice", "B T D -> B T D", ("once",), (out,), "scale", attributes=(("scale", 2.0),))

    patch.setattr(blocks, "experts", twice)


def _tokens_of_the_module_are_not_weighed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(HybridSpec, "later_loss_weight", 1.0)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    _sums_of_narrow_vectors_come_twice: "loss, by hand",
    _tokens_of_the_module_are_not_weighed: "weight gradients, by hand",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_of_nemotron_3_super_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        assert MUTANTS[mutate] in failures(SUPER)
    finally:
        forget_steps()
