"""What `auto` does not try of an axis is said where a plan asks for it; "no bound" may stand in a list."""

from __future__ import annotations

import pytest

from parsim import from_mapping, plan
from parsim.parallel.plan import KEYS
from parsim.planner.accord import not_tried
from parsim.report.summary import said_of_ranking
from support import scenario

SERVED = {"gradient_sync": "parameter_server", "data_parallel": 4, "optimizer": "sgd_momentum", "micro_batch": 1}
BASE = {
    "model": "tiny-gpt",
    "cluster": {"node": {"base": "dgx-a100-80gb", "devices_per_node": 4}},
    "batch": {"global_batch": 8, "sequence_length": 16},
}


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("parameter_servers", "parameter_servers = auto tries 1 alone: for others give a list"),
        ("staleness_bound", "staleness_bound = auto tries no bound alone: for others give a list"),
        ("backup_workers", "backup_workers = auto tries 0 alone: for others give a list"),
        ("gradient_sync", "gradient_sync = auto tries all_reduce, master alone: for parameter_server, local_sgd give a list"),
    ],
)
def test_what_auto_leaves_out_is_said_where_a_plan_asks_for_it(axis: str, said: str) -> None:
    assert said_of_ranking(from_mapping({**BASE, "plans": {"a": {**SERVED, axis: "auto"}}})) == [said]
    listed = {**SERVED, axis: [SERVED.get(axis, 1)], "recompute": "auto"}
    assert said_of_ranking(from_mapping({**BASE, "plans": {"a": listed}})) == []


def test_of_degrees_nothing_is_left_out() -> None:
    own = scenario()
    assert not any(not_tried(axis, own)[0] for axis in ("tensor_parallel", "expert_parallel", "micro_batch", "zero_stage", "recompute"))
    assert {axis for axis in KEYS if any(not_tried(axis, own))} >= {"local_steps", "outer_optimizer", "optimizer"}


def test_a_list_of_bounds_may_hold_none() -> None:
    listed = {**SERVED, "staleness_bound": [0, 1, None]}
    ranking = plan(from_mapping({**BASE, "plans": {"a": listed}}), space="a", top=9, contention=False)
    assert {each.plan.staleness_bound for each in ranking.rows} == {0, 1, None}
