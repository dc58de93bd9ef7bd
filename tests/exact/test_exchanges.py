"""Tokens that go to experts by nodes: executed so, their bytes at either level those of tokens and nodes that meet, and counted alike."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from parsim.collectives import by_node
from parsim.collectives.by_node import ByNode, ports_of
from parsim.cost import exchange
from parsim.estimator.estimate import estimate, estimates
from parsim.executor.run import execute
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.verify import verify_plan
from parsim_kernels.exchange import FromExperts, SlotExchange, ToExperts
from support import CLUSTER, MOE, STACK, enough, every_other, scenario

NODES_OF_TWO = replace(CLUSTER, node=replace(CLUSTER.node, devices_per_node=2, num_nics=2), num_nodes=4)
SKEWED = replace(MOE, num_experts=8, experts_per_token=3, load_skew=0.9, num_layers=1, num_dense_layers=0)
PLANS: dict[str, tuple[TransformerSpec, Plan]] = {
    "even": (MOE, Plan(data_parallel=4, expert_parallel=4)),
    "skewed": (SKEWED, Plan(data_parallel=4, expert_parallel=4)),
    "given": (
        replace(SKEWED, load_skew=0.0, load_shares=(9.0, 1.0, 3.0, 0.0, 0.0, 4.0, 1.0, 2.0)),
        Plan(data_parallel=4, expert_parallel=4),
    ),
    "most experts idle": (replace(MOE, num_experts=8, experts_per_token=1, load_skew=4.0), Plan(data_parallel=4, expert_parallel=4)),
    "etp": (replace(SKEWED, load_skew=0.0), Plan(data_parallel=4, expert_parallel=2, expert_tensor_parallel=2)),
    "sp": (MOE, Plan(data_parallel=4, tensor_parallel=2, expert_parallel=4, sequence_parallel=True)),
    "zero": (SKEWED, Plan(data_parallel=8, zero_stage=3, expert_parallel=4, recompute="full")),
    "zbh1": (MOE, Plan(data_parallel=4, pipeline_parallel=2, schedule="zero_bubble_h1", expert_parallel=4)),
}


def toy(model: TransformerSpec, dispatch: str) -> Scenario:
    return scenario(model=model, batch=Batch(16, 8), stack=replace(STACK, dispatch=dispatch), cluster=NODES_OF_TWO)


@pytest.mark.parametrize("case", every_other(PLANS, ("per_node", "hierarchical"), "{}-{}".format))
def test_exchanges_by_nodes_keep_the_contract(case: tuple[str, str]) -> None:
    (model, plan), dispatch = PLANS[case[0]], case[1]
    chosen = replace(toy(model, dispatch), batch=enough(plan))
    assert not [check for check in verify_plan(chosen, plan, "toy") if not check.ok]


@pytest.mark.parametrize("dispatch", ["per_node", "hierarchical"])
def test_bytes_are_those_of_pairs_of_tokens_and_nodes(dispatch: str) -> None:
    """8 experts on 4 ranks, of which the first and the last two share a node; each rank has 4 sequences of a run, one a micro_batch."""
    model, plan = PLANS["skewed"]
    slots = [(t, e) for e, load in enumerate(model.expert_loads(8)) for t in range(load)]
    token = dict(enumerate(model.slots(8).tokens))
    ranks = [e // 2 for _, e in slots]
    between, inside = {(token[q], rank // 2) for q, rank in enumerate(ranks)}, {(token[q], rank) for q, rank in enumerate(ranks)}
    every = len(slots), [sum(rank // 2 == node for rank in ranks) for node in (0, 1)]
    assert len(between) < every[0] and len(inside) < every[0]  # or nothing would be told
    ledgers = execute(toy(model, dispatch), plan).ledgers
    vector, gate = model.hidden_size * 2, 4
    for rank, ledger in enumerate(ledgers):
        other, beside = 1 - rank // 2, rank ^ 1  # the node that is not its own, and the rank at its side
        away, back = every[1][other], every[1][1 - other]
        tokens_away, tokens_back = (sum(node == each for _, node in between) for each in (other, 1 - other))
        if dispatch == "hierarchical":
            tokens_away, tokens_back = away, back
        # Forward: tokens leave, results come back; backward: gradients of results leave, those of tokens come back.
        assert ledger.sent_bytes["ep between nodes"] == 4 * (2 * vector * (tokens_away + tokens_back) + gate * (away + back))
        of_rank = [sum(r == each for r in ranks) for each in (beside, rank)]
        met = [sum(r == each for _, r in inside) for each in (beside, rank)] if dispatch == "per_node" else of_rank
        # Of both nodes' ranks at its place it hands on what the rank beside needs, and gives that one its own results.
        assert ledger.sent_bytes["ep"] == 4 * 2 * (2 * vector * sum(met) + gate * sum(of_rank))
    assert estimate(toy(model, dispatch), plan).sent_bytes[0]["ep between nodes"] in {
        each.sent_bytes["ep between nodes"] for each in ledgers
    }


def test_a_token_that_meets_a_node_twice_goes_there_once_and_a_sum_comes_back() -> None:
    """Item 0 has slots on all of three ranks, item 1 on the last; the second node has one rank."""
    there = ports_of(ToExperts(((0,), (0,), (0, 1)), 2))
    assert (there.sent_between.tolist(), there.received_between.tolist()) == ([2, 2, 1], [1, 0, 4])
    assert (there.sent.tolist(), there.received.tolist()) == ([2, 1, 0], [1, 2, 0])
    assert ports_of(FromExperts(((0,), (0,), (0, 1)), 2)).sent_between.tolist() == there.received_between.tolist()


@pytest.mark.parametrize("kind", [ToExperts, FromExperts])
@pytest.mark.parametrize(
    ("slots", "inside"), [(((0, 1), (1, 2), (), (0, 2, 2)), 2), (((0,), (0,), (1,), (0, 1), (2,)), 2), (((0, 0), (0, 1), (1, 2)), 1)]
)
def test_ports_are_those_of_the_messages(kind: type[SlotExchange], slots: tuple[tuple[int, ...], ...], inside: int) -> None:
    found, ports = kind(slots, inside), ports_of(kind(slots, inside))
    sent: dict[tuple[str, int], int] = {}
    received: dict[tuple[str, int], int] = {}
    for way in ByNode(found).transfers("all_to_all", len(slots), "sum"):
        link = found.link("ep", way.src, way.dst)
        sent[link, way.src] = sent.get((link, way.src), 0) + 1
        received[link, way.dst] = received.get((link, way.dst), 0) + 1
    for link, told, got in (("ep", ports.sent, ports.received), ("ep between nodes", ports.sent_between, ports.received_between)):
        assert [sent.get((link, rank), 0) for rank in range(len(slots))] == told.tolist()
        assert [received.get((link, rank), 0) for rank in range(len(slots))] == got.tolist()


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
def test_processes_exchange_as_lockstep_does_bit_for_bit() -> None:
    model, plan = PLANS["skewed"]
    apart, together = (
        execute(toy(model, "per_node"), plan, transport=way, deadline_s=120.0)  # type: ignore[arg-type]
        for way in ("shared_memory", "lockstep")
    )
    assert (apart.losses, apart.end_ps) == (together.losses, together.end_ps)
    assert [each.sent_bytes for each in apart.ledgers] == [each.sent_bytes for each in together.ledgers]
    for mine, theirs in zip(apart.weights, together.weights, strict=True):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def test_plans_together_cost_what_each_costs_alone() -> None:
    model = replace(SKEWED, load_skew=0.0)
    plans = [Plan(data_parallel=4 * edp, expert_parallel=ep) for edp in (1, 2) for ep in (1, 2, 4)]
    case = toy(model, "per_node")
    assert estimates(case, plans).step_s.tolist() == [estimate(case, plan).step_s for plan in plans]


def _a_slot_each(patch: pytest.MonkeyPatch) -> None:
    """What is counted goes as often as it has slots; what is executed goes once."""
    right = exchange.ports_of

    def ports(found: SlotExchange) -> by_node.ItemPorts:
        numbers = iter(range(1_000))
        return right(type(found)(tuple(tuple(next(numbers) for _ in own) for own in found.slots), found.inside))

    patch.setattr(exchange, "ports_of", ports)


def _nothing_is_added(patch: pytest.MonkeyPatch) -> None:
    right = by_node._back
    patch.setattr(by_node, "_back", lambda found, ways: (way._replace(operator="copy") for way in right(found, ways)))


def _all_on_one_node(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SlotExchange, "link", lambda self, axis, src, dst: axis)


def _sums_are_not_those_of_a_token(patch: pytest.MonkeyPatch) -> None:
    """A slot more of the first item."""
    right = FromExperts.join

    def join(self, chunks, position, out):  # type: ignore[no-untyped-def]
        whole = right(self, chunks, position, out)
        whole[-1] += whole[0]
        return whole

    patch.setattr(FromExperts, "join", join)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_a_slot_each, "bytes sent over ep between nodes"),
        (_nothing_is_added, "weight gradients"),
        (_all_on_one_node, "bytes sent over ep"),
        (_sums_are_not_those_of_a_token, "loss"),
    ],
)
def test_verify_notices(mutate: Callable[[pytest.MonkeyPatch], None], quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = PLANS["skewed"]
    mutate(monkeypatch)
    assert quantity in {check.quantity for check in verify_plan(toy(model, "per_node"), plan, "toy") if not check.ok}
