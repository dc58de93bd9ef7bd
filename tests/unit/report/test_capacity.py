"""What an error of capacity advises is legal, not in force already, and leaves less to hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

import parsim
from parsim.estimator.estimate import estimate
from parsim.report.capacity import overrun

H100, ONE = {"node": "hgx-h100-80gb"}, {"node": "one-rtx-4090"}
EVERYTHING = {"recompute": "full", "optimizer": "paged_adamw_8bit", "optimizer_in_backward": True}


def parts(plan: dict[str, Any], cluster: dict[str, Any], **batch: Any) -> dict[str, Any]:
    stated = {"global_batch": 64, "sequence_length": 4096, "dtype": "bf16", **batch}
    return {"model": "llama2-7b", "cluster": cluster, "batch": stated, "stack": "torchtitan", "plans": {"a": plan}}


def said(plan: dict[str, Any], cluster: dict[str, Any], **batch: Any) -> str:
    scenario = parsim.from_mapping(parts(plan, cluster, **batch))
    return str(overrun(estimate(scenario, "a"), "a", scenario))


@pytest.mark.parametrize(
    ("plan", "cluster"),
    [({"micro_batch": 4}, H100), ({"recompute": "full"}, ONE), ({"recompute": "full"}, {**H100, "num_devices": 1}), ({}, H100)],
)
def test_every_change_that_is_advised_is_legal_and_fits_or_helps(plan: dict[str, Any], cluster: dict[str, Any]) -> None:
    text = said(plan, cluster)
    before = estimate(parsim.from_mapping(parts(plan, cluster)), "a")
    changes = re.findall(r"(\w+) = (\w+) \(([\d.]+) GiB\)", text)
    assert changes
    for key, value, held in changes:
        typed = {"true": True, "false": False}.get(value, int(value) if value.isdigit() else value)
        batch = {"dtype": typed} if key == "dtype" else {}
        # data_parallel is what remains of the devices
        changed = estimate(parsim.from_mapping(parts(plan if batch else {**plan, key: typed}, cluster, **batch)), "a")
        assert changed.fill < before.fill and changed.peak_bytes / 2**30 == pytest.approx(float(held), rel=0.01)
        assert changed.fits == ("alone fits" in text)


def test_one_device_is_advised_no_parallelism_and_nothing_that_is_on() -> None:
    text = said({"recompute": "full"}, ONE, global_batch=1)
    assert not re.search("tensor_parallel|pipeline_parallel|sequence_parallel|zero_stage|micro_batch|recompute", text)
    assert all(
        key in text for key in ("offload_optimizer", "optimizer_in_backward", "paged_adamw_8bit", "bf16_pure", "more than 1 device,")
    )


def test_where_no_key_helps_more_devices_are_left() -> None:
    text = said(EVERYTHING, {"node": "one-rtx-4090"}, dtype="bf16_pure", global_batch=1, sequence_length=4096 * 16)
    assert text.endswith("No key helps: take more than 1 device, which share the model out.")


def test_a_stack_that_cannot_run_a_change_is_not_advised_it() -> None:
    scenario = parsim.from_mapping({**parts({"micro_batch": 4}, H100), "stack": "llm-foundry"})
    text = str(overrun(estimate(scenario, "a"), "a", scenario))
    assert "zero_stage = 3" in text and "tensor_parallel" not in text and "pipeline_parallel" not in text
