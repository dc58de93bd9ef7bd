"""The layers of Llama 4 keep the contract: chunks, layers without positions, norms without weights, gates on the input; mutants of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import count
from parsim.model import blocks
from parsim.model.gates import GATES, gate
from parsim.model.window import Window
from parsim.parallel.legality import faults
from parsim.parallel.plan import Plan
from parsim.verify import verify_plan
from support import MOE, STACKS, enough, forget_steps, scenario

MAVERICK = replace(
    MOE, name="toy maverick", num_layers=4, attention_chunk=3, full_attention_every=4, unturned_every=4, qk_norm_weights=False,
    num_dense_layers=0, expert_layer_every=2, experts_per_token=1, gates="own_sigmoid", gates_on_input=True,
)  # fmt: skip
STACK = replace(STACKS[2], fusions=("swiglu", "rms_norm", "gradient_accumulation"))
PLANS: dict[str, Plan] = {
    "sp": Plan(tensor_parallel=2, sequence_parallel=True, recompute_modules=("moe_act",)),
    "etp": Plan(tensor_parallel=2, expert_tensor_parallel=2, recompute="selective"),
    "ep and zero3": Plan(data_parallel=4, expert_parallel=2, zero_stage=3),
    "pp": Plan(pipeline_parallel=3, layers_per_stage=(2, 1, 1), recompute="full", schedule="zero_bubble_h1"),
    **{kind: Plan(context_parallel=2, context_kind=kind) for kind in ("ring", "ulysses", "all_gather")},
}


def failures(plan: Plan) -> set[str]:
    toy = scenario(model=MAVERICK, batch=enough(plan, 16), stack=STACK)
    assert not faults(plan, MAVERICK, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", PLANS)
def test_llama_4_keeps_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])


def test_each_second_layer_has_experts_and_the_fourth_sees_all_without_positions() -> None:
    names = ["layer", "expert_layer", "layer", "full_unturned_expert_layer"]
    assert [name for name, copies in MAVERICK.layout[1:-1] for _ in range(copies)] == names


def _counts_a_sliding_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(count, "Window", lambda tokens, chunked, two_sided: Window(tokens, two_sided=two_sided))


def _every_layer_turns(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(blocks, "_turns", lambda form, kind: True)


def _gates_of_1(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(GATES._values, "own_sigmoid", replace(gate("own_sigmoid"), weigh=lambda logits, chosen: np.ones_like(logits)))


def _gates_do_not_learn(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(GATES._values, "own_sigmoid", replace(gate("own_sigmoid"), slope=lambda logits, gates, d_gates: np.zeros_like(gates)))


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], set[str]] = {
    _counts_a_sliding_window: {"FLOPs", "FLOPs, simulated"},
    _every_layer_turns: {"loss, by hand"},
    _gates_of_1: {"loss, by hand"},
    _gates_do_not_learn: {"weight gradients, by hand"},
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_layer_of_llama_4_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        assert MUTANTS[mutate] <= failures(Plan())
    finally:
        forget_steps()
