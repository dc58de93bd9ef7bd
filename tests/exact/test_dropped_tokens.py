"""Experts that take tokens up to a capacity: what is dropped has no row, but a share in gates; what is padded has a row, but no token."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.executor.job import Job
from parsim.executor.run import execute
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import load
from parsim.verify import verify_plan
from parsim_kernels import experts
from parsim_kernels.kernels import KERNELS
from support import MOE, enough, every_other, forget_steps, scenario

# Of 16 choices of a run of 8 tokens 8, 3, 3 and 2; an even share is 4, of which 1.25 are 5.
MODEL = replace(MOE, load_shares=(5.0, 1.0, 1.0, 1.0), capacity_factor=1.25, num_layers=1, num_dense_layers=0, shared_ffn_hidden_size=0)
PLANS = {
    "ep": Plan(data_parallel=2, expert_parallel=2),
    "a rank each": Plan(data_parallel=4, expert_parallel=4, zero_stage=3, recompute="full"),
    "etp": Plan(data_parallel=2, tensor_parallel=2, micro_batch=2, expert_parallel=2, expert_tensor_parallel=2),
    "modules": Plan(data_parallel=2, recompute_modules=("moe",), zero_stage=1),
}
BY_PROBS = replace(MODEL, drop_policy="probs")


@pytest.mark.parametrize("case", every_other(PLANS, product((False, True), ("softmax", "sigmoid")), "{}-{}".format))
def test_dropped_and_padded_slots_keep_the_contract(case: tuple[str, tuple[bool, str]]) -> None:
    name, (padded, gates) = case
    toy = scenario(model=replace(MODEL, pad_to_capacity=padded, gates=gates), batch=enough(PLANS[name]))
    assert not [check for check in verify_plan(toy, PLANS[name], "toy") if not check.ok]


def test_the_first_tokens_of_an_expert_are_kept() -> None:
    chosen, kept = MODEL.slots_chosen(8), MODEL.slots(8)
    assert (chosen.loads, kept.loads) == ((8, 3, 3, 2), (5, 3, 3, 2))
    assert kept.tokens[:5] == (0, 1, 2, 3, 4)  # of all 8
    padded = replace(MODEL, pad_to_capacity=True).slots(8)
    assert padded.loads == (5, 5, 5, 5) and padded.tokens.count(-1) == 20 - 13
    assert replace(MODEL, capacity_factor=2.0).slots(8).loads == chosen.loads  # room for all


def test_by_probability_others_are_kept_and_as_many() -> None:
    """Of 8 tokens that chose the first expert any 5: not the first, and each with its own share of what it chose."""
    first, drawn = MODEL.slots(8), BY_PROBS.slots(8)
    assert drawn.loads == first.loads and set(drawn.tokens[:5]) < set(range(8)) and drawn.tokens[:5] != first.tokens[:5]
    assert drawn.tokens[5:] == first.tokens[5:]  # of the others none is dropped
    for padded in (False, True):
        toy = scenario(model=replace(BY_PROBS, pad_to_capacity=padded), batch=enough(PLANS["ep"]))
        assert not [check for check in verify_plan(toy, PLANS["ep"], "toy") if not check.ok]


def test_verify_notices_that_the_first_are_kept_where_probabilities_say(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Job._attribute

    def attribute(self: Job, task: object, value: object, sizes: object) -> object:
        return MODEL.slots(8).tokens if value == "tokens" else right(self, task, value, sizes)  # type: ignore[arg-type]

    monkeypatch.setattr(Job, "_attribute", attribute)
    checks = verify_plan(scenario(model=BY_PROBS, batch=Batch(4, 8)), PLANS["ep"], "toy")
    assert "loss, by hand" in {check.quantity for check in checks if not check.ok}


def test_a_capacity_bounds_the_work_of_the_busiest_rank_and_padding_evens_it() -> None:
    """Two runs of each micro_batch, two micro_batches; FLOPs of a slot as in test_experts.py."""
    slot = 3 * 3 * 2 * 12 * 8 + 8 * (4 + 1 + 1 + 9 + 1 + 1 + 1 + 2)
    found = {}
    for name, model in {"all": replace(MODEL, capacity_factor=2.0), "kept": MODEL, "padded": replace(MODEL, pad_to_capacity=True)}.items():
        toy = scenario(model=model, batch=Batch(4, 8))
        found[name] = [ledger.flops for ledger in execute(toy, PLANS["ep"]).ledgers]
        assert estimate(toy, PLANS["ep"]).flops == (max(found[name]),)
    first, last = found["all"]
    assert first - last == (11 - 5) * 4 * slot
    first, last = found["kept"]
    assert first - last == (8 - 5) * 4 * slot
    assert found["padded"][0] == found["padded"][1]


def test_a_dropped_slot_is_not_sent() -> None:
    """To experts and back, twice: rows of bf16, and gates with their gradients; each rank has a run a micro_batch."""
    for model, away in ((MODEL, (5, 8)), (replace(MODEL, pad_to_capacity=True), (10, 10)), (replace(MODEL, capacity_factor=2.0), (5, 11))):
        ledgers = execute(scenario(model=model, batch=Batch(4, 8)), PLANS["ep"]).ledgers
        for rank, ledger in enumerate(ledgers):
            leave, come = away[rank], away[1 - rank]
            assert ledger.sent_bytes["ep"] == 2 * (2 * 12 * 2 * (leave + come) + 4 * (leave + come))


PER_NODE = "stack: {base: megatron-core, dispatch: per_node}\n"


def _gates_of_what_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Shares among the choices that are left, as if a dropped one had not been made."""
    patch.setattr(experts, "_chosen", experts._slots)


def _dropped_choices_do_not_count_backward(patch: pytest.MonkeyPatch) -> None:
    right = experts.route_again_grad

    def grad(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        kept = attributes["loads"], attributes["tokens"]
        return right(inputs, {**attributes, "chosen": kept}, out)

    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, "route_again_grad": grad})


def _the_last_tokens_are_kept(patch: pytest.MonkeyPatch) -> None:
    """In execution only."""
    right = Job._attribute

    def attribute(self: Job, task: object, value: object, sizes: object) -> object:
        found = right(self, task, value, sizes)  # type: ignore[arg-type]
        return tuple(7 - token if token >= 0 else -1 for token in found) if value == "tokens" else found  # type: ignore[attr-defined]

    patch.setattr(Job, "_attribute", attribute)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_gates_of_what_is_kept, "loss, by hand"),
        (_dropped_choices_do_not_count_backward, "weight gradients, by hand"),
        (_the_last_tokens_are_kept, "loss, by hand"),
    ],
)
def test_verify_notices(mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    forget_steps()
    checks = verify_plan(scenario(model=MODEL, batch=Batch(4, 8)), PLANS["ep"], "toy")
    assert quantity in {check.quantity for check in checks if not check.ok}


@pytest.mark.parametrize(
    ("figures", "stack", "said"),
    [
        ("pad_to_capacity: true", "", "pads to the capacity that capacity_factor states, which is 0"),
        ("drop_policy: probs", "", "drop_policy = probs goes with capacity_factor, which is 0"),
        ("capacity_factor: -1", "", "must be at least 0, not -1"),
        (
            "capacity_factor: 1.25, pad_to_capacity: true",
            PER_NODE,
            "per_node sends tokens only",
        ),
        ("moe_expert_capacity_factor: 1.25", "", "did you mean 'capacity_factor'?"),
    ],
)
def test_what_has_no_capacity_is_refused(figures: str, stack: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"model: {{base: tiny-llama, name: some, num_experts: 4, experts_per_token: 2, source: made up, {figures}}}\n"
        "cluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}\nbatch: {global_batch: 8, sequence_length: 8}\n"
        f"{stack}plans: {{a: {{expert_parallel: 4}}}}\n"
    )
    with pytest.raises(ParsimError) as error:
        load(tmp_path / "a.yaml")
    assert said in str(error.value)
