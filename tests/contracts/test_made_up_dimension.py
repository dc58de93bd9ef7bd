"""A parallelism dimension is one file: from a folder of one's own it gets shapes, collectives, legality, prices and the contract."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from made_up import mixture, registered
from parsim.errors import PlanError
from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.parallel import dimensions
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner.search import candidates
from parsim.scenario import PlanSpace
from parsim.schedules.phase import Phase
from parsim.step import lower
from parsim.step.structure import Structure
from parsim.step.task import Collective
from parsim.verify import verify_plan
from support import GPT, STACKS, scenario, tiered

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


@pytest.mark.parametrize("name", ["ffn_parallel", "sample_parallel"])
@pytest.mark.parametrize("others", [tiered(pair, "-".join(pair) or "alone", slow=len(pair) == 2) for pair in PAIRS])
def test_a_dimension_of_ones_own_keeps_the_contract_with_every_pair_of_others(name: str, others: tuple[str, ...]) -> None:
    fields = {key: value for other in others for key, value in OTHERS[other].items()}
    plan = Plan(**fields, dimensions=((name, 2),))  # type: ignore[arg-type]
    checks = verify_plan(scenario(batch=Batch(8, 8), stack=STACKS[len(others) % 2]), plan, "toy")
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
    assert {(plan.data_parallel, plan.dimensions) for plan in candidates(scenario(), space)} == {(4, ()), (2, (("ffn_parallel", 2),))}


def exchanged(names: tuple[str, ...]) -> Plan:
    """Samples over two ranks outside, experts inside; samples that are split over replicas outside are so inside, too."""
    fields = {key: value for name in names for key, value in EXCHANGED[name].items()}
    inside = (("samples_inside", 1),) if "data_parallel" in fields else ()
    return Plan(**fields, dimensions=(("exchange_parallel", 2), *inside))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names", [(), *((name,) for name in EXCHANGED), ("tp", "full"), ("zero3", "tp"), ("sp", "pp"), ("zbh1", "full")], ids=str
)
def test_samples_go_to_experts_and_back_by_all_to_all_and_the_contract_holds(names: tuple[str, ...], package: str) -> None:
    toy = scenario(model=mixture(package), batch=Batch(8, 4), stack=STACKS[len(names) % 2])
    assert not [check for check in verify_plan(toy, exchanged(names), "toy") if not check.ok]
    layer = lower.lower(Structure.of(toy.model, toy.batch, exchanged(names), toy.stack)).segments["layer"]
    moves = [[t.operation for t in layer.phases[p] if isinstance(t, Collective) and t.group.name == "xp"] for p in (Phase.F, Phase.B)]
    assert moves[0] == 2 * ["all_to_all"] and moves[1] == (4 if "full" in names else 2) * ["all_to_all"]


def test_an_exchange_sends_half_of_every_experts_rows_four_times_a_layer(package: str) -> None:
    sent = estimate(scenario(model=mixture(package), batch=Batch(8, 4)), exchanged(())).sent_bytes[0]["xp"]
    rows = 4 * 4 * 6 * 2 // 2  # of 4 experts: tokens of a sequence x hidden x bf16, half of which stays
    dense = 5 * 6 + 6 + 3 * 6 + 3 + 2 * 2 * 4 * 6  # of features, labels, and what weighs the experts in each of 2 layers
    assert sent == 4 * 2 * 4 * rows + dense * 4 + 4  # micro_batches x layers; float32 gradients and the norm, once round a ring of two


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
def test_processes_exchange_as_lockstep_does_bit_for_bit(package: str) -> None:
    toy, plan = scenario(model=mixture(package), batch=Batch(8, 4)), exchanged(("dp",))
    apart, together = (execute(toy, plan, transport=way, deadline_s=120.0) for way in ("shared_memory", "lockstep"))  # type: ignore[arg-type]
    assert (apart.losses, apart.end_ps) == (together.losses, together.end_ps)
    assert [ledger.sent_bytes for ledger in apart.ledgers] == [ledger.sent_bytes for ledger in together.ledgers]
    for mine, theirs in zip((*apart.gradients, *apart.weights), (*together.gradients, *together.weights), strict=True):
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("names", [(), *((name,) for name in UNEVEN), ("zero3", "full"), ("dp", "zbh1")], ids=str)
def test_a_table_of_extents_keeps_the_contract_on_every_rank(names: tuple[str, ...], ranks: int) -> None:
    fields = {key: value for name in names for key, value in UNEVEN[name].items()}
    plan = Plan(**fields, dimensions=(("uneven_ffn", ranks),))  # type: ignore[arg-type]
    checks = verify_plan(scenario(batch=Batch(8, 8), stack=STACKS[ranks - 2]), plan, "toy")
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
