"""Embeddings narrower than the stream, as of OPT-350M whose norms come last: matrices in and out keep the contract; a mutant."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.model.parameters import model_flops_per_token, num_parameters
from parsim.model.transformer import TransformerArchitecture
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from support import GPT, STACK, forget_steps, scenario

OPT = replace(
    GPT, name="toy opt", activation="relu", norm_last=True, unnormed_embedding=True, embedding_size=6, embedding_dropped=False,
    position_offset=2, tied_embedding=True,
)  # fmt: skip
UNTIED = replace(OPT, tied_embedding=False, norm_last=False, unnormed_embedding=False)
PLANS: dict[str, Plan] = {
    "sp and pp": Plan(tensor_parallel=2, sequence_parallel=True, pipeline_parallel=2, micro_batch=2),
    "tp": Plan(tensor_parallel=2, micro_batch=2, recompute="full"),
    "zero3": Plan(data_parallel=4, zero_stage=3, micro_batch=2),
    "cp": Plan(context_parallel=2, micro_batch=2),
}


def failures(plan: Plan, tied: bool = True) -> set[str]:
    toy = scenario(model=OPT if tied else UNTIED, batch=Batch(4 * plan.data_parallel, 8), stack=replace(STACK, attention="flash"))
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", [name if name == "sp and pp" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS])
def test_narrow_embeddings_keep_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])
    assert not failures(PLANS[plan], tied=False)


def test_a_matrix_in_and_one_out_cost_6_flops_a_weight_and_narrower_logits_as_much_less() -> None:
    wide, vocabulary = replace(UNTIED, embedding_size=0), 60
    more = 2 * 6 * 12 - 2 * vocabulary * (12 - 6)  # both matrices, of 6 x 12, less half of both tables
    assert num_parameters(UNTIED) - num_parameters(wide) == more
    own, others = (model_flops_per_token(model, 8)[0] for model in (UNTIED, wide))
    assert own - others == 6 * (2 * 6 * 12 - vocabulary * (12 - 6))


def test_a_norm_behind_the_embedding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    monkeypatch.setattr(TransformerArchitecture, "norms_embedding", True)
    try:
        assert "loss, by hand" in failures(Plan(micro_batch=2))
    finally:
        forget_steps()
