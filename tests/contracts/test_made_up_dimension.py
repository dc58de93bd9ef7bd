"""A parallelism dimension is one file: from a folder of one's own it gets shapes, collectives, legality, prices and the contract."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from made_up import mixture, registered
from parsim.collectives.placed import group_price
from parsim.cost.chunks import chunks_of
from parsim.cost.workload import Workload
from parsim.errors import PlanError
from parsim.estimator.cells import short
from parsim.estimator.estimate import estimate, stages_of
from parsim.executor.run import execute
from parsim.model.families.mlp import MlpSpec
from parsim.parallel import dimensions
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner.space import candidates
from parsim.report.results import predict
from parsim.report.summary import show_results
from parsim.scenario import PlanSpace, Scenario
from parsim.schedules.phase import Phase
from parsim.step import lower
from parsim.step.structure import Structure
from parsim.step.task import Collective
from parsim.verify import verify_plan
from support import CLUSTER, GPT, STACKS, enough, every_other, scenario, tiered

OTHERS: dict[str, dict[str, object]] = {
    "dp": {"data_parallel": 2},
    "tp": {"tensor_parallel": 2},
    "sp": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp": {"pipeline_parallel": 2},
    "full": {"recompute": "full"},
    "zero1": {"data_parallel": 2, "zero_stage": 1},
    "zero3": {"data_parallel": 2, "zero_stage": 3},
}
PAIRS = [pair for size in (0, 1, 2) for pair in combinations(OTHERS, size) if len({"dp", "zero1", "zero3"} & set(pair)) <= 1]


EXCHANGED: dict[str, dict[str, object]] = {**OTHERS, "zbh1": {"pipeline_parallel": 2, "schedule": "zero_bubble_h1"}}
UNEVEN = {name: EXCHANGED[name] for name in ("dp", "pp", "full", "zero1", "zero3", "zbh1")}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with registered(tmp_path, monkeypatch) as name:
        yield name


NAMES = ("ffn_parallel", "sample_parallel")
BESIDE = [  # each other with one of both; the rest is slow
    tiered((name, pair), f"{'-'.join(pair) or 'alone'}-{name}", slow=len(pair) == 2 or (i + j) % 2 > 0)
    for i, pair in enumerate(PAIRS)
    for j, name in enumerate(NAMES)
]


@pytest.mark.parametrize("case", BESIDE)
def test_a_dimension_of_ones_own_keeps_the_contract_with_every_pair_of_others(case: tuple[str, tuple[str, ...]]) -> None:
    name, others = case
    fields = {key: value for other in others for key, value in OTHERS[other].items()}
    plan = Plan(**fields, dimensions=((name, 2),))  # type: ignore[arg-type]
    checks = verify_plan(scenario(batch=enough(plan), stack=STACKS[len(others) % 2]), plan, "toy")
    assert not [check for check in checks if not check.ok]
    assert any(check.quantity.startswith("bytes sent over") and check.detail != "0" for check in checks)


def test_an_ffn_split_by_itself_reduces_where_its_contraction_ends() -> None:
    """Megatron's count without attention: an all_reduce of the stream forward, one backward, in each layer; the head is whole."""
    sent = estimate(scenario(), Plan(dimensions=(("ffn_parallel", 2),))).sent_bytes[0]
    stream = 8 * 12 * 2  # a micro_batch of one sequence: tokens x hidden x bytes
    norm = 4  # the squared norm, a float32: a ring sends one element of the two chunks' one
    assert sent["fp"] == 8 * GPT.num_layers * 2 * stream + norm


def test_an_on_or_off_dimension_lies_on_anothers_axis() -> None:
    split = estimate(scenario(), Plan(tensor_parallel=2, dimensions=(("stream_split", 1),)))
    assert split.sent_bytes == estimate(scenario(), Plan(tensor_parallel=2, sequence_parallel=True)).sent_bytes
    assert split.plan.num_devices == 2


def test_what_does_not_divide_and_what_nobody_knows_are_faults() -> None:
    def told(plan: Plan, num_devices: int) -> list[str]:
        return [str(fault) for fault in faults(plan, GPT, Batch(8, 8), num_devices)]

    assert told(Plan(dimensions=(("ffn_parallel", 2),)), 2) == []
    (three,) = told(Plan(dimensions=(("ffn_parallel", 3),)), 3)
    assert "ffn_parallel = 3 cuts ffn_hidden_size = 16 into 3 parts" in three
    (unknown,) = told(Plan(dimensions=(("ffn_paralel", 2),)), 2)
    assert "did you mean 'ffn_parallel'?" in unknown
    (few,) = told(Plan(dimensions=(("ffn_parallel", 2),)), 4)
    assert "ffn_parallel = 1 x 1 x 1 x 2 = 2, but the cluster has 4 devices" in few


def test_the_planner_tries_a_dimension_of_ones_own() -> None:
    space = PlanSpace("s", {"tensor_parallel": (4,), "pipeline_parallel": (4,), "dimensions": ((), (("ffn_parallel", 2),))})
    assert {(plan.data_parallel, plan.dimensions) for plan in candidates(scenario(), space).plans} == {(4, ()), (2, (("ffn_parallel", 2),))}


def test_tables_and_short_names_say_the_degrees_of_dimensions_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    plans = {"a": Plan(dimensions=(("ffn_parallel", 2),)), "b": Plan(tensor_parallel=2, dimensions=(("stream_split", 1),)), "c": Plan()}
    show_results(predict(scenario(plans=plans)))
    head, _, a, b, c = (line.split() for line in capsys.readouterr().out.splitlines()[4:9])
    places = [head.index(name) for name in ("fp", "stream_split", "mbs")]
    assert [[row[place] for place in places] for row in (a, b, c)] == [["2", "-", "1x8"], ["-", "1", "1x8"], ["-", "-", "1x8"]]
    assert [short(plan) for plan in plans.values()] == [
        "tp1 pp1 dp1 fp2 mbs1 recompute none",
        "tp2 pp1 dp1 stream_split1 mbs1 recompute none",
        "tp1 pp1 dp1 mbs1 recompute none",
    ]


def exchanged(names: tuple[str, ...]) -> Plan:
    """Samples over two ranks outside, experts inside."""
    fields = {key: value for name in names for key, value in EXCHANGED[name].items()}
    return Plan(**fields, dimensions=(("exchange_parallel", 2),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names", [(), *((name,) for name in EXCHANGED), ("tp", "full"), ("zero3", "tp"), ("sp", "pp"), ("zbh1", "full")], ids=str
)
def test_samples_go_to_experts_and_back_by_all_to_all_and_the_contract_holds(names: tuple[str, ...], package: str) -> None:
    plan = exchanged(names)
    toy = scenario(model=mixture(package), batch=enough(plan, 4), stack=STACKS[len(names) % 2])
    assert not [check for check in verify_plan(toy, plan, "toy") if not check.ok]
    layer = lower.lower(Structure.of(toy.model, toy.batch, plan, toy.stack)).segments["layer"]
    moves = [[t.operation for t in layer.phases[p] if isinstance(t, Collective) and t.group.name == "xp"] for p in (Phase.F, Phase.B)]
    assert moves[0] == 2 * ["all_to_all"] and moves[1] == (4 if "full" in names else 2) * ["all_to_all"]


def test_an_exchange_sends_half_of_every_experts_rows_four_times_a_layer(package: str) -> None:
    sent = estimate(scenario(model=mixture(package), batch=Batch(8, 4)), exchanged(())).sent_bytes[0]["xp"]
    rows = 4 * 4 * 6 * 2 // 2  # of 4 experts: tokens of a sequence x hidden x bf16, half of which stays
    dense = 5 * 6 + 6 + 3 * 6 + 3 + 2 * 2 * 4 * 6  # of features, labels, and what weighs the experts in each of 2 layers
    assert sent == 4 * 2 * 4 * rows + dense * 4 + 4  # micro_batches x layers; float32 gradients and the norm, once round a ring of two


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
@pytest.mark.parametrize("tables", [False, True])
def test_processes_exchange_as_lockstep_does_bit_for_bit(tables: bool, package: str) -> None:
    even = scenario(model=mixture(package), batch=Batch(8, 4)), exchanged(("dp",))
    toy, plan = crossed(package) if tables else even
    apart, together = (execute(toy, plan, transport=way, deadline_s=120.0) for way in ("shared_memory", "lockstep"))  # type: ignore[arg-type]
    assert (apart.losses, apart.end_ps) == (together.losses, together.end_ps)
    assert [ledger.sent_bytes for ledger in apart.ledgers] == [ledger.sent_bytes for ledger in together.ledgers]
    for mine, theirs in zip((*apart.gradients, *apart.weights), (*together.gradients, *together.weights), strict=True):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


UNEVEN_SETS = [(), *((name,) for name in UNEVEN), ("zero3", "full"), ("dp", "zbh1")]


@pytest.mark.parametrize("case", every_other(UNEVEN_SETS, (2, 3), "{}-{}".format))
def test_a_table_of_extents_keeps_the_contract_on_every_rank(case: tuple[tuple[str, ...], int]) -> None:
    names, ranks = case
    fields = {key: value for name in names for key, value in UNEVEN[name].items()}
    plan = Plan(**fields, dimensions=(("uneven_ffn", ranks),))  # type: ignore[arg-type]
    checks = verify_plan(scenario(batch=enough(plan), stack=STACKS[ranks - 2]), plan, "toy")
    assert not [check for check in checks if not check.ok]
    assert all("by rank" in check.detail for check in checks if check.quantity in ("FLOPs", "peak bytes", "peak bytes, simulated"))


def test_estimate_prices_the_rank_that_has_most() -> None:
    """6 and 10 of 16 units: one costs 3 x 48 FLOPs of matmuls, 2 of its bias and 24 of GELU a token, and 15 a weight of its update."""
    plan = Plan(dimensions=(("uneven_ffn", 2),))
    chosen = scenario(batch=Batch(8, 8))
    ledgers, predicted = execute(chosen, plan).ledgers, estimate(chosen, plan)
    unit = GPT.num_layers * (64 * (3 * 48 + 2 + 24) + 25 * (8 + 15))  # 64 tokens; 8 micro_batches add to the step's gradient
    assert predicted.flops[0] == ledgers[1].flops == ledgers[0].flops + 4 * unit
    even = estimate(chosen, Plan(dimensions=(("ffn_parallel", 2),)))
    assert predicted.flops[0] == even.flops[0] + 2 * unit and predicted.step_s > even.step_s


def test_hfu_counts_what_each_rank_runs_again_not_what_the_fullest_does() -> None:
    """However its units are dealt out, an MLP has as many matmuls to run again."""
    dealt_out, even = (estimate(scenario(), Plan(recompute="full", dimensions=((name, 2),))) for name in ("uneven_ffn", "ffn_parallel"))
    assert dealt_out.hfu / dealt_out.mfu == pytest.approx(even.hfu / even.mfu, rel=1e-12)  # a few roundings of float64
    assert dealt_out.hfu > dealt_out.mfu and dealt_out.flops > even.flops


def test_a_dim_that_a_table_and_another_axis_cut_is_refused() -> None:
    with pytest.raises(PlanError, match="dim F is cut by the table of uf and by tp"):
        estimate(scenario(), Plan(tensor_parallel=2, dimensions=(("uneven_ffn", 2),)))


def test_a_table_is_held_against_the_dim_that_it_shares_out_and_need_not_divide_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(dimensions=(("uneven_ffn", 3),))
    assert not faults(plan, GPT, Batch(8, 8), 3)
    wrong = replace(dimensions.DIMENSIONS.get("uneven_ffn"), share=lambda extent, ranks: (extent,) * ranks)
    monkeypatch.setitem(dimensions.DIMENSIONS._values, "uneven_ffn", wrong)
    with pytest.raises(PlanError, match="the table of uf does not share out dim F"):
        estimate(scenario(), plan)


DEALT = {
    "stream": (("ffn_of_stream", "dealt_stream"), 1),
    "experts": (("samples_of_experts", "dealt_experts"), 1),
    "both": (("dealt_both",), 2),
}


def dealt(kind: str, names: tuple[str, ...], ranks: int, package: str) -> tuple[Scenario, Plan]:
    """What moves between ranks is dealt out by tables: the stream; 5 experts; 5 experts, and 4 or 6 samples as well."""
    fields = {key: value for name in names for key, value in UNEVEN[name].items()}
    (first, *rest), micro_batch = DEALT[kind]
    inside = ("samples_inside",) if "data_parallel" in fields and kind == "experts" else ()
    model = replace(GPT, ffn_hidden_size=6 * ranks) if kind == "stream" else mixture(package, num_experts=5)
    chosen = scenario(model=model, batch=Batch(4 * ranks, 8 if kind == "stream" else 4), stack=STACKS[ranks - 2])
    on = tuple((name, 1) for name in (*rest, *inside))
    return chosen, Plan(**fields, micro_batch=micro_batch, dimensions=((first, ranks), *on))  # type: ignore[arg-type]


def crossed(package: str) -> tuple[Scenario, Plan]:
    """Experts and the stream dealt out at once, over axes that cross: what is exchanged differs along the other axis, too."""
    on = {"samples_of_experts": 2, "dealt_experts": 1, "ffn_of_stream": 2, "dealt_stream": 1}
    return scenario(model=mixture(package, num_experts=5), batch=Batch(8, 8)), Plan(dimensions=tuple(on.items()))


CASES = [
    tiered((kind, names, ranks), f"{kind}-{ranks}-{'-'.join(names) or 'alone'}", slow=len(names) == 2 or (ranks == 3 and names != ()))
    for kind in DEALT
    for names in UNEVEN_SETS
    for ranks in (2, 3)
    if kind != "both" or not {"dp", "zero1", "zero3"} & set(names)  # samples cut by two axes
]


@pytest.mark.parametrize("case", CASES)
def test_what_is_gathered_scattered_or_exchanged_may_have_a_table(case: tuple[str, tuple[str, ...], int], package: str) -> None:
    chosen, plan = dealt(*case, package)
    few = enough(plan, chosen.batch.sequence_length, chosen.batch.global_batch)
    assert not [check for check in verify_plan(replace(chosen, batch=few), plan, "toy") if not check.ok]


def test_tables_of_two_axes_that_cross_keep_the_contract(package: str) -> None:
    assert not [check for check in verify_plan(*crossed(package), "toy") if not check.ok]


def test_an_uneven_stream_sends_what_its_table_says(package: str) -> None:
    """Tokens 1, 5 and 2 of 8: round a ring a gather sends all but the next rank's, a scatter all but the own."""
    model = MlpSpec(name="rows", num_layers=2, hidden_size=6, ffn_hidden_size=12, num_features=5, num_labels=3)
    chosen, plan = scenario(model=model, batch=Batch(8, 8)), Plan(dimensions=(("ffn_of_stream", 3), ("dealt_stream", 1)))
    gathered, scattered, token = (8 - 5, 8 - 2, 8 - 1), (8 - 1, 8 - 5, 8 - 2), 6 * 2  # hidden x bf16
    layers = [2 * (3 * g + 2 * s) * token for g, s in zip(gathered, scattered, strict=True)]  # of the three, one in backward again
    losses = [4 * g for g in gathered]
    dense = 5 * 6 + 6 + 2 * 6 + 6 * 3 + 3  # seen by a part of the tokens only; a third of it stays, twice
    norm = (1, 2, 1)  # its only chunk starts and ends at rank 0
    sent = [8 * (a + b) + 4 * 2 * dense * 2 // 3 + 4 * c for a, b, c in zip(layers, losses, norm, strict=True)]
    assert [ledger.sent_bytes["st"] for ledger in execute(chosen, plan).ledgers] == sent
    assert estimate(chosen, plan).sent_bytes[0]["st"] == sent[1]  # of the rank that has most


def test_an_uneven_exchange_sends_what_its_table_says(package: str) -> None:
    """A sample on each of 3 ranks, 1, 0 and 4 of 5 experts: a rank sends what others' experts need, and its own experts' rows of others."""
    chosen, plan = dealt("experts", (), 3, package)
    row, dense = 4 * 6 * 2, 5 * 6 + 6 + 3 * 6 + 3 + 2 * 2 * 5 * 6  # tokens x hidden x bf16; as in the even exchange
    moved = [4 * 2 * 2 * ((5 - own) + 2 * own) * row for own in (1, 0, 4)]  # micro_batches x layers, there and back again
    sent = [each + 4 * 2 * dense * 2 // 3 + 4 * norm for each, norm in zip(moved, (1, 2, 1), strict=True)]
    assert [ledger.sent_bytes["ex"] for ledger in execute(chosen, plan).ledgers] == sent
    assert estimate(chosen, plan).sent_bytes[0]["ex"] == sent[2]  # of the rank that has most


def exchanges(chosen: Scenario, plan: Plan) -> tuple[Workload, Collective, Collective]:
    """The way to the experts and the way back, in forward."""
    workload = stages_of(chosen, plan).workload
    there, back = (t for t in workload.step.segments["layer"].phases[Phase.F] if isinstance(t, Collective))
    return workload, there, back


def test_the_chunks_of_an_exchange_are_products_of_both_tables(package: str) -> None:
    tokens, samples, experts = 4 * 6, np.array([2, 3, 1]), np.array([1, 0, 4])
    workload, there, back = exchanges(*dealt("both", (), 3, package))
    assert np.array_equal(chunks_of(there, workload.sizes), tokens * np.outer(samples, experts)[None])
    assert np.array_equal(chunks_of(back, workload.sizes), tokens * np.outer(experts, samples)[None])


def test_the_fullest_port_sets_the_time_of_an_exchange_and_the_largest_chunk_that_of_a_gather(package: str) -> None:
    chosen, plan = dealt("experts", (), 3, package)
    workload, there, back = exchanges(chosen, plan)
    group = {"itemsize_bytes": 2, "num_ranks": 3, "stride": 1}
    received = 2 * 4 * 24  # by 4 of 5 experts, from 2 others each: more than the 5 that the rank without experts sends
    even = group_price(CLUSTER, "all_to_all", elements=received * 3 // 2, **group)  # two thirds of which leave
    assert workload.ps(there) == workload.ps(back) == even.ps
    chosen, plan = dealt("stream", (), 3, package)
    workload = stages_of(chosen, plan).workload
    gather = next(t for t in workload.step.segments["layer"].phases[Phase.F] if isinstance(t, Collective))
    assert workload.ps(gather) == group_price(CLUSTER, "all_gather", elements=3 * 5 * 12, **group).ps  # as if each had 5 of 15 tokens


def test_an_algorithm_that_the_stack_names_is_priced_by_the_table_as_well() -> None:
    group = {"itemsize_bytes": 2, "num_ranks": 3, "stride": 1, "algorithm": "direct"}
    dealt_out = group_price(CLUSTER, "all_gather", elements=8 * 12, chunks=12 * np.array([[1, 5, 2]]), **group)
    assert dealt_out.ps == group_price(CLUSTER, "all_gather", elements=3 * 5 * 12, **group).ps


def test_the_table_of_a_dimension_that_is_off_counts_for_nothing() -> None:
    plans = [Plan(dimensions=((name, 2),)) for name in ("ffn_of_stream", "ffn_parallel")]
    assert estimate(scenario(), plans[0]).sent_bytes[0]["st"] == estimate(scenario(), plans[1]).sent_bytes[0]["fp"]


def test_an_extent_that_its_names_cut_in_two_ways_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = replace(dimensions.DIMENSIONS.get("ffn_of_stream"), shards=("S",))
    monkeypatch.setitem(dimensions.DIMENSIONS._values, "ffn_of_stream", both)
    with pytest.raises(PlanError, match="st cuts dim T by a table, and otherwise dim S, which is the same extent elsewhere"):
        estimate(scenario(), Plan(dimensions=(("ffn_of_stream", 2), ("dealt_stream", 1))))
