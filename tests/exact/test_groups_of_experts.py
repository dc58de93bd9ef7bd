"""Routing limited to some groups of experts a token (DeepSeek-V3's 4 nodes): the table of slots, what is sent by it, and the contract."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.collectives.by_node import ports_of
from parsim.executor.job import Job
from parsim.executor.run import execute
from parsim.model import loads, routing
from parsim.model.routing import RoutedSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.scenario.rows import read
from parsim.verify import verify_plan
from parsim_kernels.exchange import ToExperts
from support import CLUSTER, MOE, STACK, enough, every_other, scenario

NODES_OF_TWO = replace(CLUSTER, node=replace(CLUSTER.node, devices_per_node=2, num_nics=2), num_nodes=4)
# 16 experts in 4 groups, of which a token uses 2: 2 experts of each.  With ep 8 on nodes of 2 ranks a group is a node.
MODEL = replace(
    MOE,
    num_experts=16,
    experts_per_token=4,
    expert_groups=4,
    groups_per_token=2,
    num_layers=1,
    num_dense_layers=0,
    shared_ffn_hidden_size=0,
)
PLANS: dict[str, tuple[TransformerSpec, Plan]] = {
    "even": (MODEL, Plan(data_parallel=8, expert_parallel=8)),
    "skewed": (replace(MODEL, load_skew=0.9, gates="sigmoid"), Plan(data_parallel=4, expert_parallel=4)),
    "one group": (replace(MODEL, groups_per_token=1), Plan(data_parallel=4, expert_parallel=2, expert_tensor_parallel=2, zero_stage=3)),
    "capacity": (replace(MODEL, load_skew=0.9, capacity_factor=1.0), Plan(data_parallel=4, expert_parallel=4, recompute="full")),
}


def toy(model: TransformerSpec, dispatch: str) -> Scenario:
    return scenario(model=model, batch=Batch(16, 8), stack=replace(STACK, dispatch=dispatch), cluster=NODES_OF_TWO)


def by_token(model: RoutedSpec, length: int) -> list[list[int]]:
    """The experts of each token of a run."""
    slots = model.slots_chosen(length)
    experts = [expert for expert, load in enumerate(slots.loads) for _ in range(load)]
    return [[e for e, t in zip(experts, slots.tokens, strict=True) if t == token] for token in range(model.run_length(length))]


@pytest.mark.parametrize(
    ("name", "skew", "off"), [("deepseek-v3", 0.0, 0), ("deepseek-v3", 1.0, 3), ("deepseek-v2", 0.0, 0), ("deepseek-v2", 0.5, 3)]
)
def test_tokens_use_no_more_groups_than_they_may(name: str, skew: float, off: int) -> None:
    model = replace(read("models", name), load_skew=skew)
    groups, size = (4, 256 // 8) if name == "deepseek-v3" else (3, 160 // 8)  # their reports, sections 2.1.2
    tokens = by_token(model, 4096)
    assert {len(own) for own in tokens} == {len(set(own)) for own in tokens} == {model.experts_per_token}
    assert {len({expert // size for expert in own}) for own in tokens} == {groups}
    asked = replace(model, groups_per_token=0).slots_chosen(4096).loads
    assert sum(abs(mine - theirs) for mine, theirs in zip(model.slots_chosen(4096).loads, asked, strict=True)) <= 2 * off


@pytest.mark.parametrize("case", every_other(PLANS, ("all_to_all", "per_node", "hierarchical"), "{}-{}".format))
def test_the_contract_holds(case: tuple[str, str]) -> None:
    (model, plan), dispatch = PLANS[case[0]], case[1]
    chosen = replace(toy(model, dispatch), batch=enough(plan))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


def test_a_token_of_deepseek_v3_goes_to_four_of_eight_nodes() -> None:
    """A rank is on one of 8 nodes, and half of the 32 tokens of a run use each: 16 go to each of the other 7."""
    model = read("models", "deepseek-v3")
    free = replace(model, groups_per_token=0)
    sent = [set(ports_of(ToExperts(each.slots(4096).by_rank(each.slots(4096).tokens, 64), 8)).sent_between) for each in (model, free)]
    assert sent[0] == {7 * 16} and min(sent[1]) > 1.2 * 7 * 16


def sent_between(model: TransformerSpec) -> set[int]:
    return {ledger.sent_bytes["ep between nodes"] for ledger in execute(toy(model, "per_node"), PLANS["even"][1]).ledgers}


def test_bytes_between_nodes_are_those_of_two_groups_a_token() -> None:
    """A run has 4 tokens, of which 2 use each of 4 nodes: a rank sends 6 to other nodes, and as many results to tokens of these.

    Each rank has 2 sequences of 2 runs, one sequence a micro_batch.  Vectors of bf16 go to experts and back, forward and backward; gates in
    float32 go there and their gradients back, for 12 of 16 slots to other nodes.
    """
    assert sent_between(MODEL) == {2 * 2 * (4 * 6 * 12 * 2 + 2 * 12 * 4)}
    assert min(sent_between(replace(MODEL, groups_per_token=0))) > 2 * 2 * (4 * 6 * 12 * 2 + 2 * 12 * 4)


def _groups_do_not_matter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(routing, "slots_in_groups", lambda own, run, *_: loads.Slots(own, loads.slot_tokens(own, run)))


def _executed_in_other_groups(patch: pytest.MonkeyPatch) -> None:
    right = Job._attribute

    def attribute(self: Job, task: object, value: object, sizes: object) -> object:
        found = right(self, task, value, sizes)  # type: ignore[arg-type]
        return loads.slot_tokens(self.spec.expert_loads(8), 4) if value == "tokens" else found

    patch.setattr(Job, "_attribute", attribute)


def test_mutants_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _executed_in_other_groups(patch)
        found = {check.quantity for check in verify_plan(toy(MODEL, "per_node"), PLANS["even"][1], "toy") if not check.ok}
        assert "loss, by hand" in found
    _groups_do_not_matter(monkeypatch)
    with pytest.raises(AssertionError):
        test_bytes_between_nodes_are_those_of_two_groups_a_token()
    with pytest.raises(AssertionError):
        test_tokens_use_no_more_groups_than_they_may("deepseek-v3", 0.0, 0)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"groups_per_token": 5}, "groups_per_token = 5 is above expert_groups = 4"),
        ({"expert_groups": 3, "groups_per_token": 1}, "expert_groups = 3 does not divide num_experts = 16"),
        ({"experts_per_token": 9}, "groups_per_token = 2 leaves a token 8 experts, but experts_per_token = 9"),
        ({"num_experts": 0}, "expert_groups = 4 goes with experts, but num_experts = 0"),
    ],
)
def test_groups_that_do_not_fit_are_told(figures: dict[str, int], said: str) -> None:
    assert said in replace(MODEL, **figures).misfit({})
