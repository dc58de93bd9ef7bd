"""What a run keeps in storage, and the bandwidth of reading and checkpoints together, by arithmetic on the page."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.cluster import Storage
from parsim.feed.supply import supply_of
from parsim.goodput.keeping import keeping_of
from parsim.scenario.feeding import Input
from parsim.scenario.reliability import Checkpoint

STORE = Storage(name="store", source="", read_bytes_per_s=2e9, write_bytes_per_s=1e9, capacity_bytes=10**12, terabyte_month_usd=20.0)
WORDS = Input(name="words", source="", per="token", size_bytes=4.0, device_size_bytes=28.0)
TOKENS = 10**11


def scenario(**changes: Any) -> parsim.Scenario:
    text = {
        "name": "kept",
        "model": "llama3-8b",
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 64, "sequence_length": 4096},
        "plans": {"a": {"tensor_parallel": 8, "optimizer": "adamw"}},
    }
    stated = {"input": WORDS, "storage": STORE, "total_tokens": TOKENS, "checkpoint": Checkpoint(interval_s=600.0, keep=4)}
    return replace(parsim.from_mapping(text), **{**stated, **changes})


def kept(of: parsim.Scenario) -> Any:
    found = parsim.estimate(of, "a")
    return keeping_of(of, found, supply_of(of, found))


def test_a_run_keeps_its_tokens_once_and_its_last_checkpoints() -> None:
    found, parameters = kept(scenario()), parsim.num_parameters(scenario().model)
    # The vocabulary of 128,256 is padded to 129,024 in embedding and head, and each of 8 ranks has the 2 x 32 + 1 norms.
    held = parameters + 2 * 768 * 4096 + 7 * 65 * 4096
    assert found.data_bytes == 4 * TOKENS
    assert found.checkpoint_bytes == (2 + 4 + 4 + 4) * held  # bf16, and float32 of the weight and of both moments
    assert found.kept_bytes == 4 * TOKENS + 4 * 14 * held
    assert found.fits and not kept(scenario(storage=replace(STORE, capacity_bytes=found.kept_bytes - 1))).fits
    assert kept(scenario(training=replace(scenario().training, epochs=5))).data_bytes == 4 * TOKENS // 5


def test_reading_and_checkpoints_share_the_time_of_the_storage() -> None:
    found, step_s = kept(scenario()), parsim.estimate(scenario(), "a").step_s
    reads = 64 * 4096 * 4 / step_s
    assert found.read_bytes_per_s == pytest.approx(reads)
    assert found.checkpoint_bytes_per_s == pytest.approx(found.checkpoint_bytes / 600)
    assert found.needs_bytes_per_s == pytest.approx(reads + found.checkpoint_bytes / 600)
    assert found.busy == pytest.approx(reads / 2e9 + found.checkpoint_bytes / 600 / 1e9)
    assert found.write_s == pytest.approx(found.checkpoint_bytes / 1e9)
    assert found.write_beside_reads_s == pytest.approx(found.write_s / (1 - reads / 2e9))
    by_steps = kept(scenario(checkpoint=Checkpoint(interval_steps=100)))
    assert by_steps.checkpoint_bytes_per_s == pytest.approx(found.checkpoint_bytes / (100 * step_s))


def test_keeping_costs_by_terabytes_and_months() -> None:
    found, step_s = kept(scenario()), parsim.estimate(scenario(), "a").step_s
    steps = -(-TOKENS // (64 * 4096))
    assert found.month_usd == pytest.approx(found.kept_bytes / 1e12 * 20)
    with_checkpoints = (600 + found.write_s) / 600  # after 600 s of steps each
    assert found.run_usd == pytest.approx(found.month_usd * steps * step_s * with_checkpoints / (730 * 3600))


def test_what_nobody_states_is_not_guessed() -> None:
    bare = Storage(name="bare", source="", request_bytes_per_s=85e6)
    found = kept(scenario(storage=bare, total_tokens=None, checkpoint=None))
    assert (found.data_bytes, found.month_usd, found.run_usd, found.busy, found.write_s, found.room_bytes) == (None,) * 6
    assert found.num_checkpoints == 0 and found.kept_bytes == 0 and found.fits
