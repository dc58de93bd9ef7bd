"""What a plan that does not fit is told would help: nothing that is on already, nothing that its stack cannot run."""

from __future__ import annotations

import re
from typing import Any

import pytest

import parsim
from parsim.report.choosing import remedy_lines

H100, ONE = {"node": "hgx-h100-80gb"}, {"node": "one-rtx-4090"}
EVERYTHING = {"recompute": "full", "optimizer": "paged_adamw_8bit", "optimizer_in_backward": True}


def parts(plan: dict[str, Any], cluster: dict[str, Any], **batch: Any) -> dict[str, Any]:
    stated = {"global_batch": 64, "sequence_length": 4096, "dtype": "bf16", **batch}
    return {"model": "llama2-7b", "cluster": cluster, "batch": stated, "stack": "torchtitan", "plans": {"a": plan}}


def said(plan: dict[str, Any], cluster: dict[str, Any], stack: str = "torchtitan", **batch: Any) -> str:
    scenario = parsim.from_mapping({**parts(plan, cluster, **batch), "stack": stack})
    return "\n".join(remedy_lines(scenario, parsim.remedies(scenario, "a"), "a", elsewhere=False))


def test_changes_that_fit_are_told_with_what_they_hold_and_cost() -> None:
    plan = {"micro_batch": 1}
    text = said(plan, H100)
    assert text.startswith("a: stage 0 needs ") and len(re.findall("^fits with ", text, re.MULTILINE)) == 4
    held = re.search(r"fits with ZeRO 1: ([\d.]+) GiB", text)
    changed = parsim.estimate(parsim.from_mapping(parts({**plan, "zero_stage": 1}, H100)), "a")
    assert held and changed.fits and changed.peak_bytes / 2**30 == pytest.approx(float(held[1]), rel=0.01)


def test_one_device_is_advised_no_parallelism_and_nothing_that_is_on() -> None:
    text = said({"recompute": "full"}, ONE, global_batch=1)
    assert not re.search("tp[0-9]|pp[0-9]|sequence_parallel|ZeRO|mbs|recompute full", text)
    assert all(key in text for key in ("offload_optimizer", "optimizer_in_backward", "paged_adamw_8bit", "bf16_pure", "parsim plan"))


def test_where_no_key_helps_the_planner_is_left() -> None:
    text = said(EVERYTHING, ONE, dtype="bf16_pure", global_batch=1, sequence_length=4096 * 16)
    assert text.splitlines()[-1].startswith("what would fit, and how many nodes, says: parsim plan") and "bf16_pure" not in text


def test_a_stack_that_cannot_run_a_change_is_not_advised_it() -> None:
    text = said({"micro_batch": 4}, H100, "llm-foundry")
    assert "ZeRO 3" in text and not re.search("tp[0-9]|pp[0-9]", text)
