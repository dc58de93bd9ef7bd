"""What libraries hold can be wrong, and is noticed by arithmetic on the page."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster import Cluster, nccl
from parsim.estimator import blocks, communicators, graph_pools
from parsim.estimator.estimate import estimate, stages_of
from parsim.parallel.group import Group
from parsim.parallel.plan import Plan
from parsim.scenario.rows import read
from support import STACK, scenario

MIB = 2**20
SPLIT = Plan(tensor_parallel=2, pipeline_parallel=2)


def _bytes(use: nccl.CarriedTraffic, ranks: int, *, lazy: bool) -> int:
    return int(
        nccl.buffer_bytes(Cluster(read("nodes", "dgx-a100-80gb")), use, np.array([ranks]), np.array([1]), ["lazy"] if lazy else [])[0]
    )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("PAIR", 10 * MIB),  # what receives alone
        ("_with_copies", lambda of, channels, speed: channels),
        ("_next_power", lambda count: count),
        ("_SHARED_STEPS", 8),
    ],
)
def test_two_devices_measured_notice_a_wrong_constant_of_connections(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, name, wrong)
    assert _bytes(nccl.CarriedTraffic(frozenset({"all_reduce"})), 2, lazy=False) != 544 * MIB


def test_groups_on_the_page_notice_a_step_whose_end_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = communicators._uses
    step = stages_of(scenario(), SPLIT).workload.step
    assert "all_reduce" in communicators.communicators_of(step)[Group(("pp",))].operations  # the norm's sum over stages
    monkeypatch.setattr(communicators, "_uses", lambda step: (each for each in right(step) if each[1].operations != {"all_reduce"}))
    assert "all_reduce" not in communicators.communicators_of(step)[Group(("pp",))].operations


def test_bytes_on_the_page_notice_blocks_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks._blocks(np.array([1000])).rounding.tolist() == [24]
    monkeypatch.setattr(blocks, "_BLOCK", 256)
    assert blocks._blocks(np.array([513])).rounding.tolist() != [511]


def test_the_first_stage_notices_pools_that_share_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = scenario(stack=replace(STACK, graphs={"any": "all"}, allocator="caching"))
    assert estimate(chosen, SPLIT).memory_bytes[0]["graph_pools"] > 0
    monkeypatch.setattr(graph_pools, "_captures_all", lambda run, value: True)
    assert estimate(chosen, SPLIT).memory_bytes[0]["graph_pools"] == 0
