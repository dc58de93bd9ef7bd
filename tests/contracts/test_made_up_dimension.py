"""A parallelism dimension is one file: from a folder of one's own it gets shapes, collectives, legality, prices and the contract."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from parsim import schedules
from parsim.estimator.estimate import estimate
from parsim.parallel import dimensions
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace
from parsim.step import lower
from parsim.verify import verify_plan
from support import GPT, STACKS, scenario, tiered

FFN = '''"""FFN parallelism: only the MLP is split, over ranks of its own."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("ffn_parallel", Dimension("ffn_parallel", "fp", ("F",), "made up", 60))
'''
SAMPLES = '''"""A second axis of data parallelism, inside the first."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("sample_parallel", Dimension("sample_parallel", "sa", ("B",), "made up", 30))
'''
STREAM = '''"""Sequence parallelism under another name, over the tensor-parallel ranks."""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

DIMENSIONS.register("stream_split", Dimension("stream_split", "tp", ("T",), "made up", None))
'''
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


@pytest.fixture(autouse=True)
def _added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with three more dimensions, forgotten again after the test."""
    folder = tmp_path / f"mine_{abs(hash(tmp_path))}"
    folder.mkdir()
    for name, text in (("__init__", ""), ("ffn", FFN), ("samples", SAMPLES), ("stream", STREAM)):
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    dimensions.names()
    registry = dimensions.DIMENSIONS
    monkeypatch.setattr(registry, "_values", dict(registry._values))
    registry.discover(folder.name)
    lower.lower.cache_clear()
    yield
    lower.lower.cache_clear()


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
        return [str(fault) for fault in faults(plan, GPT, Batch(8, 8), num_devices, schedules)]

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
