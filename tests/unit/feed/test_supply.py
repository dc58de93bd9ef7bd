"""What feeds a plan, by arithmetic on the page: each stage's time and bound, the wait, and what would be needed."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from feed_by_hand import BY_HAND, STORE, WORDS, fed_scenario, unlike_by_hand
from parsim.cluster import Storage
from parsim.errors import ParsimError
from parsim.feed.stages import readers_of
from parsim.feed.supply import supply_of
from parsim.parallel.plan import Plan


def test_each_stage_takes_what_arithmetic_says() -> None:
    found = parsim.supply(fed_scenario(), "a")
    assert (found.num_readers, found.readers_on_a_node, found.sequences) == (8, 4, 8)
    read, prepare, batch, to_device = found.stages
    assert not unlike_by_hand()
    assert (read.binds, read.batch_s) == ("requests in flight", pytest.approx(BY_HAND["requests in flight"]))
    assert prepare.batch_s == pytest.approx(BY_HAND["decode"] + BY_HAND["tokenize"])
    assert batch.batch_s == pytest.approx(BY_HAND["host memory"])
    latency_s = fed_scenario().cluster.node.host_link.latency_s
    assert to_device.batch_s == pytest.approx(8 * latency_s + 81920 / 10e9)  # 8 micro-batches
    assert found.first_batch_s == pytest.approx(sum(each.batch_s for each in found.stages), abs=4e-12)


def test_a_step_waits_for_what_takes_longer_and_the_estimate_stays() -> None:
    slow = fed_scenario(storage=replace(STORE, latency_s=5.0))
    found, step_s = parsim.supply(slow, "a"), parsim.estimate(slow, "a").step_s
    assert found.step_s == step_s == parsim.estimate(fed_scenario(), "a").step_s
    assert found.fed_step_s == pytest.approx(8 * (5 + 2048 / 50e6) / 4, abs=2e-12) and found.slowest.name == "read"
    assert parsim.supply(fed_scenario(), "a").stall_s == 0
    in_turn = parsim.supply(fed_scenario(input=replace(WORDS, prefetch=0)), "a")
    assert in_turn.stall_s == pytest.approx(in_turn.first_batch_s, abs=1e-12)


def test_readers_of_replicas_lie_where_rank_order_has_them() -> None:
    near, far = (Plan(data_parallel=2, tensor_parallel=4, pipeline_parallel=2, rank_order=order) for order in ("tp-dp-pp", "tp-pp-dp"))
    assert [readers_of(plan, WORDS, 8).on_a_node for plan in (near, far)] == [2, 1]
    every = readers_of(far, replace(WORDS, readers="device"), 8)
    assert (every.number, every.on_a_node, every.num_nodes) == (16, 8, 2)
    sharded = Plan(data_parallel=4, zero_stage=3, zero_group=2, context_parallel=4)
    assert readers_of(sharded, WORDS, 8).number == 4


def test_drives_of_a_node_serve_its_readers_alone() -> None:
    own = replace(STORE, local=True, node_read_bytes_per_s=None, requests_per_s=1000)
    read = parsim.supply(fed_scenario(storage=own), "a").stages[0]
    assert read.bounds_s["storage"] == pytest.approx(16384 * 4 / 1e9)  # 4 readers a node share 1 GB/s
    assert read.bounds_s["requests a second"] == pytest.approx(8 * 4 / 1000)


def test_cores_that_readers_share_are_no_more_than_a_node_has() -> None:
    few = parsim.supply(fed_scenario(input=replace(WORDS, cores=8)), "a")
    assert few.stages[1].batch_s == pytest.approx(3 * 8192 / 2e6 / 2)  # 8 cores of 4 readers: 2 each, not 4


@pytest.mark.parametrize("latency_s", [0.9, 4.0])
def test_with_what_is_needed_nothing_waits_and_with_one_less_it_does(latency_s: float) -> None:
    slow = replace(WORDS, decode_per_s=800.0, tokenize_per_s=None, workers=1, requests_in_flight=1)
    hungry = fed_scenario(input=slow, storage=replace(STORE, latency_s=latency_s))
    needs = parsim.supply(hungry, "a").needs
    assert needs.workers > 1 and needs.requests_in_flight > 1 and needs.cores == 4 * needs.workers

    def stall(workers: int, in_flight: int, share: float = 1.0) -> float:
        of = replace(STORE, latency_s=latency_s, read_bytes_per_s=needs.read_bytes_per_s * share, node_read_bytes_per_s=None)
        return parsim.supply(fed_scenario(input=replace(slow, workers=workers, requests_in_flight=in_flight), storage=of), "a").stall_s

    assert stall(needs.workers, needs.requests_in_flight) <= 1e-12  # a picosecond of rounding
    assert stall(needs.workers - 1, needs.requests_in_flight) > 0
    assert stall(needs.workers, needs.requests_in_flight - 1) > 0
    assert stall(needs.workers, needs.requests_in_flight, share=0.99) > 0


@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_events_find_the_same_supply(jitter: float) -> None:
    varied = fed_scenario(input=replace(WORDS, jitter=jitter, decode_per_s=3000.0))
    estimated = parsim.estimate(varied, "a")
    assert supply_of(varied, estimated) == supply_of(varied, estimated, backend="simulate")


def test_what_varies_wants_more_places_and_waits_although_its_mean_is_fast_enough() -> None:
    step_s = parsim.estimate(fed_scenario(), "a").step_s
    near = replace(WORDS, decode_per_s=8192 / (0.9 * step_s) / 4, tokenize_per_s=None)  # 90 % of a step on average
    steady, varied = (parsim.supply(fed_scenario(input=replace(near, jitter=jitter, prefetch=1)), "a") for jitter in (0.0, 1.0))
    assert steady.stall_s == 0 and steady.needs.prefetch == 1
    assert varied.stall_s > 0.02 * step_s and (varied.needs.prefetch or 0) > 1


def test_a_scenario_that_does_not_say_what_is_read_is_refused() -> None:
    with pytest.raises(ParsimError, match="nobody says what is read"):
        parsim.supply(replace(fed_scenario(), input=None), "a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": 0}, "input.workers: must be above 0"),
        ({"per": "word"}, "input.per"),
        ({"size_bytes": -1.0}, "input.size_bytes must be"),
    ],
)
def test_an_input_made_by_hand_is_held_to_what_a_file_is(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParsimError, match=said):
        parsim.supply(fed_scenario(input=replace(WORDS, **changes)), "a")


def test_figures_at_the_ends_of_what_is_legal_end_in_a_number() -> None:
    slow = replace(WORDS, size_bytes=1e18, decode_per_s=1e-6, jitter=3.0)
    huge = parsim.supply(fed_scenario(input=slow, storage=Storage(name="", source="", read_bytes_per_s=1.0)), "a")
    assert huge.stall_s > 1e18 and huge.needs.prefetch is None


def test_a_result_comes_back_from_its_document() -> None:
    found = parsim.supply(fed_scenario(), "a")
    assert parsim.Supply.from_dict(found.to_dict()) == found
    assert [row["stage"] for row in found.records()] == ["read", "prepare", "batch", "to_device"]
    assert ceil(found.stages[1].sequences_per_s or 0) == ceil(64 / found.stages[1].batch_s)
