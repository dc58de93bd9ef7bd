"""What is counted by hand of lengths is counted once, however many rows of however many micro_batches ask."""

from __future__ import annotations

from parsim.scenario import from_mapping
from parsim.verify import lengths_by_hand
from parsim.verify.contract import verify


def test_documents_are_packed_once_for_all_rows_of_all_plans() -> None:
    batch = {"global_batch": 8, "sequence_length": 16, "dtype": "bf16", "packing": "packed", "lengths": [5, 9, 3, 12, 16, 2]}
    small = {"base": "tiny-gpt", "name": "small", "num_layers": 2, "source": "made up"}
    plans = {"one": {"micro_batch": 2}, "two": {"micro_batch": 1, "tensor_parallel": 2}}
    cluster = {"node": {"base": "one-cpu-generic", "name": "two", "devices_per_node": 2, "source": "made up"}}
    lengths_by_hand._owners.cache_clear()
    found = verify(from_mapping({"name": "packed", "model": small, "cluster": cluster, "batch": batch, "plans": plans}))
    assert found and lengths_by_hand._owners.cache_info().misses == 1
    assert lengths_by_hand._owners.cache_info().hits > 8
