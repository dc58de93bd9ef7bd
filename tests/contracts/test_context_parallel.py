"""Context parallelism: sequences over ranks of their own, and what attention does about it, a file a kind."""

from __future__ import annotations

import importlib
import platform
import sys
import tracemalloc
from itertools import combinations
from pathlib import Path

import pytest
from msgspec.structs import replace

from made_up import registered
from parsim.cost.causal import causal_pairs, runs_of
from parsim.estimator.cells import short
from parsim.estimator.estimate import estimate, estimates
from parsim.executor.job import Job
from parsim.executor.run import execute
from parsim.model.parameters import num_parameters
from parsim.parallel.dimensions.context import kinds, zigzag
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, from_mapping
from parsim.simulator.chrome import trace
from parsim.step import lower
from parsim.step.structure import Structure
from parsim.units import PS_PER_S
from parsim.verify import verify_plan
from support import CLUSTER, FREE_NODE, GPT, MOE, STACK, STACKS, enough, every_other, scenario, tiered

OTHERS: dict[str, dict[str, object]] = {
    "dp": {"data_parallel": 2},
    "tp": {"tensor_parallel": 2},
    "sp": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp": {"pipeline_parallel": 2},
    "zbh1": {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"},
    "selective": {"recompute": "selective"},
    "full": {"recompute": "full"},
    "zero1": {"data_parallel": 2, "zero_stage": 1},
    "zero2": {"zero_stage": 2},
    "zero3": {"data_parallel": 2, "zero_stage": 3},
    "hsdp": {"data_parallel": 4, "zero_stage": 3, "zero_group": 2},
    "master": {"gradient_sync": "master"},
    "offload": {"zero_stage": 1, "offload_optimizer": True},
    "four": {"context_parallel": 4},
}
KINDS = ("all_gather", "contiguous", "ulysses", "ring", "ulysses_ring")
NESTED: dict[str, object] = {"context_kind": "ulysses_ring", "context_parallel": 4, "context_group": 2}
CASES = [(kind, others) for size in (0, 1, 2) for others in combinations(OTHERS, size) for kind in KINDS]
LLAMA = replace(GPT, norm="rms_norm", positions="rotary", activation="swiglu", bias=False, qkv_bias=False, tied_embedding=False)
ENCODER = replace(GPT, causal=False, norm_last=True, num_token_types=2, head="text", num_labels=4, tied_embedding=False)


def plan_of(kind: str, others: tuple[str, ...] = ()) -> Plan:
    fields = {key: value for other in others for key, value in OTHERS[other].items()}
    own = NESTED if kind == "ulysses_ring" else {"context_parallel": 2, "context_kind": kind}
    return Plan(**{**own, **fields})  # type: ignore[arg-type]


def is_usual(number: int, others: tuple[str, ...]) -> bool:
    """Each other axis with one kind, so that each kind meets a third of them."""
    return len(others) == 1 and number % len(KINDS) == list(OTHERS).index(others[0]) % len(KINDS)


@pytest.mark.parametrize(
    "case",
    [tiered((number, *case), "-".join((case[0], *case[1])), slow=not is_usual(number, case[1])) for number, case in enumerate(CASES)],
)
def test_context_parallelism_keeps_the_contract_on_every_rank(case: tuple[int, str, tuple[str, ...]]) -> None:
    number, kind, others = case
    plan, stack = plan_of(kind, others), STACKS[number % len(STACKS)]
    stack = replace(stack, attention="flash") if "ring" in kind else stack
    batch, model = enough(plan, most=4 * plan.data_parallel), (GPT, LLAMA)[number // 2 % 2]
    if faults(plan, model, batch, plan.num_devices, stack=stack):
        pytest.skip("not legal")
    assert not [check for check in verify_plan(scenario(model=model, batch=batch, stack=stack), plan, "toy") if not check.ok]


@pytest.mark.parametrize(("kind", "others"), [("all_gather", "dp"), ("contiguous", "master"), ("ulysses", "zero3"), ("ring", "four")])
def test_an_encoder_finds_the_first_token_wherever_it_lies_and_its_label_is_not_summed(kind: str, others: str) -> None:
    plan = plan_of(kind, (others,))
    toy = scenario(model=ENCODER, stack=STACKS[2], batch=enough(plan))
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_weights_that_no_other_rank_holds_are_read_as_zero_3_stores_them() -> None:
    """Those of a label for a text, where ranks share sequences and nothing else: float32, which nobody gathers and casts."""
    plan = Plan(context_parallel=2, zero_stage=3)
    toy = scenario(model=ENCODER, stack=replace(STACK, master_shards=True), batch=Batch(4, 8))
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_zigzag_gives_each_rank_a_chunk_from_each_end() -> None:
    """Llama 3, section 3.3.2: rank i has the chunks i and 2 x cp - 1 - i."""
    for num_ranks in (1, 2, 3, 8):
        chunks = zigzag(num_ranks)
        assert [chunks[2 * rank : 2 * rank + 2] for rank in range(num_ranks)] == [(i, 2 * num_ranks - 1 - i) for i in range(num_ranks)]


def test_runs_and_pairs_are_those_of_a_mask_written_out() -> None:
    chunks, length = (2, 0, 3, 1), 12
    order = [token for chunk in chunks for token in range(3 * chunk, 3 * chunk + 3)]
    for start in range(length):
        for stop in range(start + 1, length + 1):
            own = runs_of(length, chunks, start, stop)
            assert [token for run in own for token in range(*run)] == order[start:stop]
            for keys in (range(length), order[3:8]):
                seen = sum(key <= query for query in order[start:stop] for key in keys)
                assert causal_pairs(own, [(key, key + 1) for key in keys]) == seen


def attention_flops(kind: str, ranks: int) -> list[int]:
    """Of one layer and sequence on each rank, forward and backward, as the kernels count them."""
    chosen = scenario(batch=Batch(1, 8), stack=STACKS[2], model=replace(GPT, num_layers=1, tied_embedding=False))
    plan = replace(plan_of(kind), context_parallel=ranks)
    own = [execute(chosen, plan).ledgers[rank].flops for rank in range(ranks)]
    return [each - min(own) for each in own]


def test_under_zigzag_all_ranks_have_as_many_pairs_and_else_the_last_has_most() -> None:
    """8 tokens on 2 ranks: 36 pairs are 18 and 18, or 10 and 26; a pair costs 14 x head_dim FLOPs a head."""
    assert attention_flops("all_gather", 2) == [0, 0] and attention_flops("ulysses", 2) == [0, 0]
    assert attention_flops("ulysses_ring", 4) == [0, 0, 0, 0]
    assert attention_flops("contiguous", 2) == [0, (26 - 10) * 14 * 4 * 4]


def test_estimate_prices_the_rank_that_has_most_pairs() -> None:
    chosen = scenario(stack=STACKS[2])
    zigzag_, contiguous = (estimate(chosen, plan_of(kind)) for kind in ("all_gather", "contiguous"))
    assert contiguous.flops[0] - zigzag_.flops[0] == 8 * GPT.num_layers * (26 - 18) * 14 * 4 * 4
    assert contiguous.flops[0] == execute(chosen, plan_of("contiguous")).ledgers[1].flops


def test_keys_and_values_are_gathered_forward_and_again_backward_and_their_gradients_scattered() -> None:
    sent = estimate(scenario(stack=STACKS[2]), plan_of("all_gather")).sent_bytes[0]
    block = 4 * 16 * 2  # tokens of a rank x heads and their width x bf16
    gradients = num_parameters(replace(GPT, vocab_size=64)) * 2  # bf16, once round a ring of two
    assert sent["cp"] == 8 * GPT.num_layers * 2 * 3 * block + gradients  # micro_batches x layers x keys and values x ways


def test_ulysses_sends_half_of_all_heads_there_and_of_the_mix_back() -> None:
    """Jacobs et al. 2023, section 3.2: queries, keys, values and the mix, each all_to_all forward and backward."""
    sent = estimate(scenario(stack=STACKS[2]), plan_of("ulysses")).sent_bytes[0]
    block = 4 * 16 * 2 // 2
    assert sent["cp"] == 8 * GPT.num_layers * 4 * 2 * block + num_parameters(replace(GPT, vocab_size=64)) * 2


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_ring_hands_blocks_on_all_but_once_round_and_their_gradients_all_the_way(ranks: int) -> None:
    """Liu et al. 2023, section 3: keys and values n - 1 times each forward and backward, their gradients n times."""
    sent = estimate(scenario(stack=STACKS[2]), Plan(context_parallel=ranks, context_kind="ring")).sent_bytes[0]
    block, gradients = 8 // ranks * 16 * 2, num_parameters(replace(GPT, vocab_size=64)) * 2
    moved = 8 * GPT.num_layers * 2 * (3 * ranks - 2) * block
    assert moved + 2 * (ranks - 1) * gradients // ranks <= sent["cp"] < moved + 2 * (ranks - 1) * gradients / ranks + 2 * ranks


def test_a_nest_trades_heads_inside_a_group_and_hands_half_of_the_heads_round_the_groups() -> None:
    """Fang and Zhao 2024 (arXiv:2405.07719), section 3: Ulysses on the 2 tokens of a rank, then a ring of 2 with the 4 of a group."""
    sent = estimate(scenario(stack=STACKS[2]), plan_of("ulysses_ring")).sent_bytes[0]
    traded, block = 2 * 16 * 2 // 2, 4 * (16 // 2) * 2
    assert sent["cp_group"] == 8 * GPT.num_layers * 4 * 2 * traded
    assert sent["cp"] == 8 * GPT.num_layers * 2 * (3 * 2 - 2) * block


def test_a_group_lies_in_a_node_and_its_ring_between_nodes() -> None:
    """4 ranks of a node trade what the 4 of Ulysses on half as long sequences do, and it takes as long; blocks go over the fabric."""
    long = replace(GPT, max_positions=16)
    plans = {
        "nest": (16, Plan(context_parallel=8, context_group=4, context_kind="ulysses_ring")),
        "ulysses": (8, Plan(context_parallel=4, context_kind="ulysses")),
        "ring": (4, Plan(context_parallel=2, context_kind="ring")),
    }
    lasts = {}
    for name, (length, plan) in plans.items():
        cluster = replace(CLUSTER, node=FREE_NODE)
        events = trace(scenario(model=long, stack=STACKS[2], batch=Batch(1, length), cluster=cluster), plan)["traceEvents"]
        lasts[name] = {way: {e["dur"] for e in events if e["name"].endswith(way)} for way in ("all_to_all", "shift")}
    assert lasts["nest"]["all_to_all"] == lasts["ulysses"]["all_to_all"] != set()
    # A block is 64 bytes in both: 1 us + 64 / 100 over the node's link, 1 us + 64 / (0.8 x 50) over a NIC.
    assert lasts["ring"]["shift"] == {1.64} and lasts["nest"]["shift"] == {2.6}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
def test_processes_hand_blocks_round_as_lockstep_does_bit_for_bit() -> None:
    toy, plan = scenario(stack=STACKS[2], model=replace(LLAMA, num_layers=1)), Plan(context_parallel=4, context_kind="ring")
    apart, together = (execute(toy, plan, transport=way, deadline_s=120.0) for way in ("shared_memory", "lockstep"))  # type: ignore[arg-type]
    assert (apart.losses, apart.end_ps) == (together.losses, together.end_ps)
    assert [ledger.sent_bytes for ledger in apart.ledgers] == [ledger.sent_bytes for ledger in together.ledgers]
    for mine, theirs in zip(apart.weights, together.weights, strict=True):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


SPLITS = {"ep-etp": {"expert_parallel": 2, "expert_tensor_parallel": 2}, "ep": {"expert_parallel": 4}}


@pytest.mark.parametrize("case", every_other(SPLITS, ("bf16", "fp8_current"), "{}-{}".format))
def test_experts_lie_over_the_ranks_of_a_sequence_too(case: tuple[str, str]) -> None:
    split, dtype = SPLITS[case[0]], case[1]
    plan = Plan(data_parallel=2, context_parallel=2, zero_stage=3, **split)
    toy = scenario(model=MOE, batch=replace(enough(plan), dtype=dtype))
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


@pytest.mark.parametrize("case", every_other(("ring", "ulysses", "ulysses_ring"), ("fp8_current", "mxfp8"), "{}-{}".format))
def test_what_a_rank_scales_are_the_chunks_that_it_holds(case: tuple[str, str]) -> None:
    kind, dtype = case
    plan = plan_of(kind, ("dp",))
    toy = scenario(batch=replace(enough(plan), dtype=dtype), stack=STACKS[2])
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]


def test_chunks_of_a_loss_are_those_of_the_tokens_of_a_rank() -> None:
    plan, stack = Plan(context_parallel=2, context_kind="ring"), replace(STACKS[2], loss_chunks=4)
    assert not [check for check in verify_plan(scenario(batch=enough(plan), stack=stack), plan, "toy") if not check.ok]
    (found,) = faults(plan, GPT, Batch(8, 8), 2, stack=replace(stack, loss_chunks=8))
    assert (found.field, found.remedy) == ("context_parallel", "Make sequence_length a multiple of 16, or lower loss_chunks of the stack")


def test_mutant_parts_are_scaled_as_they_lie_on_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "_order_there", lambda *_: ())
    toy = scenario(batch=Batch(2, 8, "fp8_current"), stack=STACKS[2])
    assert [check for check in verify_plan(toy, Plan(context_parallel=2, context_kind="ring"), "toy") if not check.ok]


@pytest.mark.parametrize(("zero", "group"), [(0, "dp+cp"), (3, "dp+cp")])
def test_weights_are_replicated_over_the_ranks_of_a_sequence_and_zero_shards_over_these_too(zero: int, group: str) -> None:
    plan, chosen = Plan(data_parallel=2, context_parallel=2, zero_stage=zero), scenario()
    step = lower.lower(Structure.of(chosen.model, chosen.batch, plan, chosen.stack))
    assert {weight.group.name for segment in step.segments.values() for weight in segment.weights} == {group}


STRIPED = '''"""Tokens dealt out one by one (Brandon et al. 2023, arXiv:2311.09431), of sequences of 8."""

from parsim.parallel.dimensions.context import register_kind


def striped(num_ranks):
    return [token for rank in range(num_ranks) for token in range(rank, 8, num_ranks)]


register_kind("striped", ("Q",), "made up", striped)
'''
HEADS_INSIDE = '''"""Heads are traded inside a group, and keys of the other groups gathered."""

from parsim.parallel.dimensions.context import register_kind, zigzag

register_kind("gather_heads", ("Q",), "made up", zigzag, inside=("A",))
'''


def test_a_kind_with_groups_is_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(tmp_path, monkeypatch):
        (tmp_path / "nested_file.py").write_text(HEADS_INSIDE)
        importlib.import_module("nested_file")
        plan = replace(plan_of("ulysses_ring"), context_kind="gather_heads")
        assert not [check for check in verify_plan(scenario(model=LLAMA, batch=enough(plan), stack=STACKS[2]), plan, "toy") if not check.ok]


def test_a_kind_of_ones_own_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(tmp_path, monkeypatch):
        (tmp_path / "striped_file.py").write_text(STRIPED)
        importlib.import_module("striped_file")
        assert "striped" in kinds()
        plan = plan_of("striped", ("tp",))
        checks = verify_plan(scenario(model=LLAMA, batch=enough(plan), stack=STACKS[2]), plan, "toy")
        assert not [check for check in checks if not check.ok]
        (flops,) = (check.detail for check in checks if check.quantity == "FLOPs")
        assert "by rank" in flops  # 16 pairs and 20


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(context_parallel=3), "context_parallel = 3 cuts a sequence into 6 chunks, which do not divide sequence_length = 8"),
        (
            Plan(context_parallel=4, tensor_parallel=4, sequence_parallel=True),
            "context_parallel = 4 cuts a sequence into 8 chunks, and sequence_parallel into 16 parts",
        ),
        (
            Plan(context_parallel=4, context_kind="ulysses", tensor_parallel=2),
            'context_kind = ulysses cuts the 4 kv heads of model "toy gpt" into 8 parts. Legal context_parallel: 1, 2; or another',
        ),
        (Plan(context_parallel=2, context_kind="ring", micro_batch=2), "context_kind = ring merges what attention makes of one block"),
        (Plan(context_parallel=2, context_kind="contigous"), "unknown context_kind 'contigous' (did you mean 'contiguous'?)"),
    ],
)
def test_what_does_not_divide_is_a_fault_with_a_way_out(plan: Plan, said: str) -> None:
    (fault,) = faults(plan, GPT, Batch(8, 8), plan.num_devices, stack=STACKS[0])
    assert str(fault).startswith(said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"context_group": 3}, "context_kind = ulysses_ring: context_group = 3 does not cut context_parallel = 4 into several groups of"),
        ({"context_group": 4}, "context_kind = ulysses_ring: context_group = 4 does not cut context_parallel = 4 into several groups of"),
        (
            {"context_group": None},
            "context_kind = ulysses_ring: there is no context_group, to cut context_parallel = 4 into several groups",
        ),
        ({"context_parallel": 1}, "context_group = 2 forms groups of ranks, but context_parallel = 1. Leave it out"),
        (
            {"context_kind": "ring"},
            "context_group = 2 forms groups of ranks, which context_kind = ring does not have. Leave context_group out",
        ),
    ],
)
def test_groups_are_several_of_several_ranks_of_a_kind_that_has_groups(fields: dict[str, object], said: str) -> None:
    plan = Plan(**{**NESTED, **fields})  # type: ignore[arg-type]
    (fault,) = faults(plan, GPT, Batch(8, 8), plan.context_parallel, stack=STACKS[2])
    assert str(fault).startswith(said)


def test_plans_together_are_priced_as_each_alone() -> None:
    """Rings of 2 and 4 ranks are two Steps; so are 2 ranks that hold a kv head each, and 4 that hold copies."""
    plans = [Plan(context_parallel=ranks, context_kind=kind) for ranks in (1, 2, 4) for kind in KINDS if "ulysses" not in kind]
    plans += [Plan(**NESTED), Plan(context_parallel=2, context_kind="ulysses")]  # type: ignore[arg-type]
    plans += [Plan(tensor_parallel=ranks) for ranks in (2, 4)]
    chosen = scenario(model=replace(LLAMA, num_kv_heads=2), stack=STACKS[2])
    together = estimates(chosen, plans)
    alone = [estimate(chosen, plan) for plan in plans]
    assert [round(each * PS_PER_S) for each in together.step_s] == [round(each.step_s * PS_PER_S) for each in alone]
    assert together.peak_bytes.tolist() == [each.peak_bytes for each in alone]


def test_a_space_of_kinds_tries_groups_of_those_that_have_some() -> None:
    space = PlanSpace("s", {"context_parallel": (4, 8), "context_kind": ("ring", "ulysses_ring"), "pipeline_parallel": (4,)})
    found = candidates(scenario(stack=STACKS[2], model=replace(GPT, max_positions=16), batch=Batch(8, 16)), space).plans
    assert {short(plan).split()[3] for plan in found} == {"cp4", "cp8", "cp4/2", "cp8/2", "cp8/4"}


def test_a_million_tokens_are_estimated_without_a_table_of_pairs() -> None:
    plan = {"context_parallel": 64, "tensor_parallel": 8, "sequence_parallel": True, "zero_stage": 3, "recompute": "full"}
    chosen = from_mapping(
        {
            "model": {"base": "llama3-70b", "max_positions": 2**20, "num_layers": 2},
            "cluster": {"node": "hgx-h100-80gb", "num_nodes": 128, "fabric": "ib-ndr-8rail"},
            "batch": {"global_batch": 4, "sequence_length": 2**20},
            "stack": "megatron-core",
            "plans": {"long": plan},
        }
    )
    tracemalloc.start()
    flops = estimate(chosen, "long").flops[0]
    most, _ = tracemalloc.get_traced_memory()[1], tracemalloc.stop()
    pairs, passes = 2**20 * (2**20 + 1) // 2, 2 * 2 * (4 + 4 + 10)  # micro_batches x layers x FLOPs with the forward twice
    attention = passes * 128 * (64 // 8) * pairs // 64
    assert attention < flops < 1.2 * attention and most < 2**26
