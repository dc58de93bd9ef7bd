"""What feeds a plan of 8 replicas on 2 nodes, by arithmetic on the page; random lines of stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import parsim
from parsim.cluster import Storage
from parsim.feed import events, line
from parsim.scenario.feeding import Input

WORDS = Input(
    name="words", source="", per="token", size_bytes=4.0, device_size_bytes=10.0, compression=2.0, decode_per_s=1e6, tokenize_per_s=2e6,
    workers=4, host_to_device_bytes_per_s=10e9,
)  # fmt: skip
STORE = Storage(
    name="store",
    source="",
    read_bytes_per_s=1e9,
    node_read_bytes_per_s=4e8,
    request_bytes_per_s=50e6,
    latency_s=0.01,
    capacity_bytes=10**12,
)
# 8 sequences of 1024 tokens a reader, 4 bytes each compressed to 2: 16,384 bytes; a read is a sequence, 2048 bytes at 50 MB/s after 10 ms.
# 8192 tokens at 1 M and then 2 M a second, on 4 cores.  10 bytes a token, read and written, at a quarter of 100 GB/s.
BY_HAND = {
    "storage": 16384 * 8 / 1e9,
    "a node's share": 16384 * 4 / 4e8,
    "requests in flight": 8 * (0.01 + 2048 / 50e6) / 4,
    "decode": 8192 / 1e6 / 4,
    "tokenize": 8192 / 2e6 / 4,
    "host memory": 2 * 81920 * 4 / 100e9,
}


def fed_scenario(**changes: Any) -> parsim.Scenario:
    """8 replicas of 2 devices on 2 nodes: 4 readers a node, 8 sequences of 1024 tokens for each."""
    text = {
        "name": "fed",
        "model": "llama3-8b",
        "cluster": {"node": {"base": "dgx-a100-80gb", "host_memory_bandwidth": "100 GB/s"}, "num_nodes": 2, "fabric": "ib-hdr-8rail"},
        "batch": {"global_batch": 64, "sequence_length": 1024},
        "plans": {"a": {"tensor_parallel": 2}},
    }
    return replace(parsim.from_mapping(text), **{"input": WORDS, "storage": STORE, **changes})


def unlike_by_hand() -> set[str]:
    """The bounds that are not as by hand."""
    found = {name: bound for stage in parsim.supply(fed_scenario(), "a").stages for name, bound in stage.bounds_s.items()}
    return {name for name, expected in BY_HAND.items() if found.get(name) != pytest.approx(expected)}


def random_line(seed: int) -> tuple[list[list[int]], list[int], int]:
    """Times of up to 4 stages and of a step for some batches, and the places between them."""
    rng = np.random.default_rng(seed)
    stages, count, prefetch = int(rng.integers(1, 5)), int(rng.integers(1, 30)), int(rng.integers(0, 4))
    return rng.integers(0, 7, (stages, count)).tolist(), rng.integers(0, 7, count).tolist(), prefetch


def unlike_lines(seeds: range) -> list[int]:
    """The random lines in which events and recurrence differ."""
    return [seed for seed in seeds if events.play(*random_line(seed)) != line.pass_through(*random_line(seed))]
