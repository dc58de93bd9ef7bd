"""Layers of experts keep the contract with every other way to split a step, also where some experts have more tokens than others."""

from __future__ import annotations

from itertools import combinations

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.model.transformer import TransformerSpec
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.step.gradient import _Derivation
from parsim.verify import verify_plan
from support import MOE, STACKS, enough, forget_steps, scenario, tiered

FUSED = replace(STACKS[2], fusions=("swiglu", "rms_norm", "gradient_accumulation"))
MODELS: dict[str, TransformerSpec] = {
    "dense first": MOE,
    "every second layer": replace(MOE, num_layers=4, num_dense_layers=0, expert_layer_every=2, experts_per_token=1, tied_embedding=False),
    "no gate": replace(MOE, num_dense_layers=0, shared_ffn_hidden_size=0, activation="gelu", norm="layer_norm", dropout=0.1),
    "uneven": replace(MOE, num_experts=6, experts_per_token=4, qk_norm=False),
    "sigmoid": replace(MOE, gates="sigmoid"),
    "skewed": replace(MOE, num_experts=6, load_skew=0.9, qk_norm=False),
}
OTHERS: dict[str, dict[str, object]] = {
    "dp": {"data_parallel": 4},
    "sp": {"tensor_parallel": 2, "sequence_parallel": True},
    "etp": {"tensor_parallel": 2, "expert_tensor_parallel": 2},
    "pp": {"pipeline_parallel": 2},
    "zbh1": {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
    "vpp": {"pipeline_parallel": 2, "virtual_pipeline": 2, "schedule": "interleaved_1f1b"},
    "full": {"recompute": "full"},
    "moe": {"recompute_modules": ("moe", "layernorm")},
    "moe_act": {"recompute_modules": ("moe_act",)},
    "zero1": {"data_parallel": 4, "zero_stage": 1},
    "zero3": {"data_parallel": 4, "zero_stage": 3},
    "hsdp": {"data_parallel": 4, "zero_stage": 1, "zero_group": 2},
}
ONE_OF = (("dp", "zero1", "zero3", "hsdp"), ("sp", "etp"), ("pp", "zbh1", "vpp"), ("full", "moe", "moe_act"))
PAIRS = [pair for size in (1, 2) for pair in combinations(OTHERS, size) if all(len(set(pair) & set(one)) <= 1 for one in ONE_OF)]
UNEVEN = ("uneven", "skewed")  # whose runs are whole sequences, which nobody cuts
EVERY = [
    (names, model, ep) for names in PAIRS for model in MODELS for ep in (1, 2, 3) if (ep == 3) == (model in UNEVEN and "hsdp" not in names)
]
CASES = [
    tiered((names, model, ep), f"{'-'.join(names)} {model} ep{ep}", slow=index % 61 > 0)
    for index, (names, model, ep) in enumerate(EVERY)
    if not (model in UNEVEN and "sp" in names) and not (model == "no gate" and "moe_act" in names)
]


@pytest.mark.parametrize("case", CASES)
def test_experts_keep_the_contract_with_every_pair_of_others(case: tuple[tuple[str, ...], str, int]) -> None:
    names, model, ep = case
    fields = {key: value for name in names for key, value in OTHERS[name].items()}
    if ep > 1:
        fields["data_parallel"] = ep * (2 if fields.get("data_parallel") == 4 else 1)
    plan = Plan(**fields, expert_parallel=ep, micro_batch=2 if model in UNEVEN else 1)  # type: ignore[arg-type]
    spec = replace(MODELS[model], num_layers=4) if "vpp" in names else MODELS[model]
    toy = scenario(model=spec, batch=enough(plan, most=4 * plan.data_parallel), stack=FUSED if "moe_act" in names else STACKS[len(names)])
    assert not faults(plan, spec, toy.batch, plan.num_devices, stack=toy.stack)
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_a_rank_whose_experts_have_more_tokens_does_more_and_is_the_one_that_is_told() -> None:
    """Of a run of 8 tokens, 16 choices: 5, 5 and 6 for three experts, a rank each; the three ranks have a run each."""
    model = replace(MOE, num_experts=3, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0)
    toy, plan = scenario(model=model, batch=Batch(3, 8)), Plan(data_parallel=3, expert_parallel=3)
    assert model.expert_loads(8) == (5, 5, 6) and model.run_length(8) == 8
    flops = [ledger.flops for ledger in execute(toy, plan).ledgers]
    matmuls = 3 * 3 * 2 * 12 * 8  # forward, and two backward
    pointwise = 8 * (4 + 1 + 1 + 9 + 1 + 1 + 1 + 2)  # silu, two products of three, and their gradients
    assert flops == [flops[0], flops[0], flops[0] + 3 * (matmuls + pointwise)]
    assert estimate(toy, plan).flops == (max(flops),)


def test_skewed_loads_follow_zipfs_law_and_no_expert_has_a_token_twice() -> None:
    model = replace(MOE, num_experts=16, experts_per_token=4, load_skew=0.99)
    loads = sorted(model.expert_loads(256), reverse=True)
    assert sum(loads) == 4 * 256 and loads[0] == 256  # a share of 1 / 3.4 of the slots would be more than there are tokens
    assert loads[1] / loads[7] == pytest.approx(4**0.99, rel=0.03)


def test_given_loads_are_executed_and_told_of_each_rank() -> None:
    """Of 16 choices of a run of 8 tokens 8, 4, 2 and 2: shares of a half, a quarter and two eighths; two experts a rank, two runs each."""
    model = replace(MOE, load_shares=(40.0, 20.0, 10.0, 10.0), num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0)
    toy, plan = scenario(model=model, batch=Batch(4, 8)), Plan(data_parallel=2, expert_parallel=2)
    assert model.expert_loads(8) == (8, 4, 2, 2)
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]
    first, last = (ledger.flops for ledger in execute(toy, plan).ledgers)
    matmuls, pointwise = 3 * 3 * 2 * 12 * 8, 8 * (4 + 1 + 1 + 9 + 1 + 1 + 1 + 2)  # of a slot, as above
    assert first - last == (12 - 4) * 4 * (matmuls + pointwise)


def test_no_expert_has_more_tokens_than_there_are() -> None:
    model = replace(MOE, load_shares=(5.0, 1.0, 1.0, 1.0))
    assert model.expert_loads(8) == (8, 3, 3, 2)  # not 10, 2, 2 and 2
    tokens = model.slots(8).tokens
    assert sorted(tokens[:8]) == list(range(8)) and len(set(tokens[8:11])) == 3
    assert sorted(tokens) == sorted([*range(8), *range(8)])  # each token has two experts


def test_parts_of_a_sequence_hold_whole_runs_and_else_experts_would_get_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of 2 tokens of runs of 4: two sequences have as many tokens on a rank as a run, but of two runs."""
    model, plan = replace(MOE, experts_per_token=1), Plan(tensor_parallel=2, sequence_parallel=True, micro_batch=2)
    (fault,) = faults(plan, model, Batch(4, 4), 2)
    assert fault.message == "the 2 parts of a sequence of 4 tokens are no runs of 4 tokens (the least that experts share)"
    assert "loss" in {check.quantity for check in verify_plan(scenario(model=model, batch=Batch(4, 4)), plan, "toy") if not check.ok}


def test_a_rank_whose_experts_have_no_tokens_keeps_the_contract() -> None:
    model, plan = replace(MOE, experts_per_token=1), Plan(data_parallel=2, expert_parallel=2)
    assert model.expert_loads(1) == (0, 0, 0, 1)
    assert not [check for check in verify_plan(scenario(model=model, batch=Batch(4, 1)), plan, "toy") if not check.ok]


LAST = replace(MOE, norm_last=True, tied_embedding=False)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, expert_parallel=2, expert_tensor_parallel=2),
        Plan(data_parallel=2, expert_parallel=2, schedule="combined_1f1b"),
    ],
    ids=["one", "sp-ep-etp", "pairs"],
)
def test_experts_that_all_tokens_pass_keep_the_contract_before_a_last_norm(plan: Plan) -> None:
    assert not [check for check in verify_plan(scenario(model=LAST, batch=Batch(4, 4)), plan, "toy") if not check.ok]


def test_an_addition_in_place_to_a_gradient_that_is_still_to_be_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Derivation, "is_shared", lambda *_: False)
    forget_steps()
    red = {check.quantity for check in verify_plan(scenario(model=LAST, batch=Batch(4, 4)), Plan(), "toy") if not check.ok}
    monkeypatch.undo()
    forget_steps()
    assert "weight gradients, by hand" in red
