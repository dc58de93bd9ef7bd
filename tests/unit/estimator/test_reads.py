"""What is asked of many plans is asked once for each combination of what it reads, and says the same."""

from __future__ import annotations

import numpy as np
import pytest

from parsim.cost import reads
from parsim.cost.reads import Reads
from parsim.cost.sizes import Ints, Sizes, sizes_of
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.plans import Plans

TINY = TransformerSpec(
    name="tiny", num_layers=2, hidden_size=8, ffn_hidden_size=32, num_heads=2, num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
)
PLANS = [Plan(tensor_parallel=tp, data_parallel=4 // tp, micro_batch=b) for tp in (1, 2) for b in (1, 2, 4)]
SIZES = sizes_of(TINY, Batch(16, 16), Plans.of(PLANS), Stack("any"), {"bf16": 2, "fp32": 4})


def asked(key: object) -> tuple[Ints, list[int]]:
    """What the ranks of tensor parallelism hold of the model's width, and how many rows were asked for it each time."""
    rows: list[int] = []

    def ask(sizes: Sizes) -> Ints:
        rows.append(sizes.num_plans)
        return sizes.dims["F"] // sizes.degrees["tp"]

    values, which = Reads(SIZES).of(key, ask)
    return values[which], rows


def test_each_combination_of_what_is_read_is_asked_once() -> None:
    found, rows = asked(("einsum", ("F", (("tp",),))))
    assert found.tolist() == [32, 32, 32, 16, 16, 16] and rows == [2]


def test_what_reads_more_than_its_key_says_is_asked_again() -> None:
    found, rows = asked("einsum")
    assert found.tolist() == [32, 32, 32, 16, 16, 16] and rows == [1, 2]


def test_what_goes_through_all_columns_reads_them_all() -> None:
    values, which = Reads(SIZES).of("", lambda sizes: sizes.num_devices * sizes.dims["B"])
    assert values[which].tolist() == (4 * SIZES.dims["B"]).tolist()


def test_a_read_that_is_not_noted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads._Columns, "__getitem__", dict.__getitem__)
    assert not np.array_equal(asked("einsum")[0], [32, 32, 32, 16, 16, 16])
