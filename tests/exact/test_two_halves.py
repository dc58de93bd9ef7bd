"""Layers of two halves, Mamba-2 or attention and behind it an MLP or experts, as of Granite 4 and Bamba, keep the contract; mutants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from parsim.model.families import hybrid
from parsim.model.families.hybrid import HybridSpec
from parsim.model.op import Block
from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from support import STACKS, forget_steps, scenario

DENSE = HybridSpec.of(
    name="toy bamba", pattern="mam", activation="swiglu", tied_embedding=True, residual_scale=0.5, embedding_scale=3.0, logit_scale=0.25,
    hidden_size=12, ffn_hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=4, vocab_size=60, max_positions=8, mamba_heads=4,
    mamba_groups=2, mamba_head_dim=3, state_size=5, scan_chunk=3,
)  # fmt: skip
EXPERTS = replace(DENSE, num_experts=4, experts_per_token=2, expert_ffn_hidden_size=8, shared_ffn_hidden_size=4)
LOADS = replace(EXPERTS, load_shares=((4.0, 2.0, 1.0, 1.0), (1.0, 1.0, 5.0, 1.0), (4.0, 2.0, 1.0, 1.0)))
SEQUENCE: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}
CASES: dict[str, tuple[HybridSpec, dict[str, Any]]] = {
    "experts": (EXPERTS, {"data_parallel": 2, "expert_parallel": 2}),
    "experts ep pp": (EXPERTS, {"pipeline_parallel": 3, **SEQUENCE, "expert_parallel": 2}),
    "dense": (DENSE, {**SEQUENCE, "recompute": "selective"}),
    "dense zero3": (DENSE, {"data_parallel": 2, "zero_stage": 3, "recompute": "full"}),
    "loads by layer": (LOADS, {"data_parallel": 2, "expert_parallel": 2}),
}


def failures(model: HybridSpec, number: int = 2, **fields: Any) -> set[str]:
    plan = Plan(**fields)
    toy = scenario(model=model, batch=Batch(2 * plan.data_parallel * plan.pipeline_parallel, 8), stack=STACKS[number])
    assert not faults(plan, model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", [name if number == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(CASES)])
def test_layers_of_two_halves_keep_the_contract(name: str) -> None:
    model, fields = CASES[name]
    assert not failures(model, [*CASES].index(name) % len(STACKS), **fields)


def test_a_layer_of_two_halves_is_as_two_layers() -> None:
    apart = replace(DENSE, pattern="M-*-M-", num_layers=6)
    assert num_parameters(DENSE) == num_parameters(apart)
    assert model_flops_per_token(DENSE, 8) == model_flops_per_token(apart, 8)


def _mixers_are_not_scaled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hybrid, "RESIDUAL_SCALE", (("scale", 1.0),))


def _what_is_behind_reads_the_input(patch: pytest.MonkeyPatch) -> None:
    own = hybrid._layer

    def wrong(letter: str, *given: Any) -> Block:
        found = own(letter, *given)
        if letter != hybrid.MAMBA_AND:
            return found
        ops = [replace(op, inputs=("x",)) if op.inputs == ("x1",) else op for op in found.ops]
        return replace(found, ops=tuple(ops))

    patch.setattr(hybrid, "_layer", wrong)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    _mixers_are_not_scaled: "loss, by hand",
    _what_is_behind_reads_the_input: "loss, by hand",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_is_seen(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        stack = [number for number, each in enumerate(STACKS) if "rms_norm" in each.fusions]
        assert MUTANTS[mutate] in failures(replace(DENSE, pattern="m", num_layers=1), stack[0] if stack else 2)
    finally:
        forget_steps()
