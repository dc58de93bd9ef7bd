"""How many devices: the answer of looking at every number, of few looks, and without a plan where none is legal."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from msgspec.structs import replace

from parsim import load, plan, size
from parsim.cluster import Link, Rent
from parsim.cluster.scalars import Ints
from parsim.errors import PlanError
from parsim.parallel.plan import Batch, Plan
from parsim.planner import sizing
from parsim.planner.bounded import Bounded
from parsim.planner.ranking import Ranking
from parsim.planner.sizing import numbers_of_nodes
from parsim.scenario import Disturbance, PlanSpace, Scenario
from support import CLUSTER, GPT, scenario

AXES: dict[str, tuple[object, ...]] = {"tensor_parallel": ("auto",), "pipeline_parallel": ("auto",), "micro_batch": ("auto",)}


def toy(**others: object) -> Scenario:
    """Nodes of 4 devices at 2 USD, 24 sequences of 8 tokens a step, and 100 steps."""
    chosen = scenario(model=replace(GPT, num_layers=8), batch=Batch(24, 8), cluster=replace(CLUSTER, rent=Rent("stated", 2.0)))
    return replace(chosen, spaces={"a": PlanSpace("a", AXES)}, total_tokens=100 * 24 * 8, **others)


@cache
def looked_at_toy() -> dict[int, float | None]:
    return looked_at(toy())


def looked_at(chosen: Scenario) -> dict[int, float | None]:
    """The time of the whole training by devices, of each number; None where no plan is legal."""
    found: dict[int, float | None] = {}
    for nodes in numbers_of_nodes(chosen, 96):
        try:
            rows = plan(replace(chosen, cluster=replace(chosen.cluster, num_nodes=nodes)), top=1, contention=False).rows
        except PlanError:
            rows = ()
        found[4 * nodes] = 100 * rows[0].step_s if rows else None
    return found


def test_numbers_are_those_whose_replicas_share_the_batch() -> None:
    # 4, 8, 12 ... x divisors of 24, by 1 or 3, doubled: multiples of 4 of the form 2^i, 3 x 2^i and 9 x 2^i.
    assert [4 * each for each in numbers_of_nodes(toy(), 100)] == [4, 8, 12, 16, 24, 32, 36, 48, 64, 72, 96]
    alone = replace(toy(), cluster=replace(CLUSTER, fabric=None, num_nodes=1))
    assert numbers_of_nodes(alone) == [1]
    with pytest.raises(PlanError, match="a node has 4 devices, and at most 3 are allowed"):
        numbers_of_nodes(toy(), 3)


def test_numbers_of_nodes_lie_evenly_over_sites() -> None:
    three = replace(toy(), cluster=replace(CLUSTER, num_nodes=3, num_sites=3, site_link=Link("sea", 2e6, 3e-4)))
    assert numbers_of_nodes(three, 100) == [each for each in numbers_of_nodes(toy(), 100) if each % 3 == 0]
    with pytest.raises(PlanError, match="3 sites of a node each have 12 devices, and at most 8 are allowed"):
        numbers_of_nodes(three, 8)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_answer_to_a_time_is_that_of_looking_at_every_number(share: float) -> None:
    times = {devices: time_s for devices, time_s in looked_at_toy().items() if time_s is not None}
    within = share * max(times.values())
    found = size(toy(), within=within, most_devices=96)
    assert found.answer is not None
    assert found.answer.num_devices == next(devices for devices, time_s in times.items() if time_s <= within)
    assert {row.num_devices: row.time_s for row in found.rows if row.best} == pytest.approx(
        {row.num_devices: times[row.num_devices] for row in found.rows if row.best}
    )
    assert max(found.efficiency(row) or 0 for row in found.rows) == 1


def test_numbers_without_a_legal_plan_do_not_lead_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 2^i shares itself over no number with a 3; a search that begins at one goes on to those without."""
    axes = {**AXES, "tensor_parallel": (1, 2, 4), "pipeline_parallel": (1, 2, 4)}
    asked = replace(toy(), batch=Batch(32, 8), total_tokens=100 * 32 * 8, spaces={"a": PlanSpace("a", axes)})
    times = {devices: time_s for devices, time_s in looked_at(asked).items() if time_s is not None}
    for first in (12, 24, 48):  # of which no plan is legal
        within = plan(replace(asked, cluster=replace(CLUSTER, num_nodes=4)), top=1, contention=False).rows[0].step_s * 100 * 16 / first
        monkeypatch.setattr(sizing, "least_devices", lambda chosen, seconds, first=first: first)
        found = size(asked, within=within, most_devices=128)
        later = [devices for devices, time_s in times.items() if time_s <= within and devices >= first]
        assert first not in times and (found.answer and found.answer.num_devices) == (later[0] if later else None)


def test_a_number_without_a_plan_says_whether_memory_or_the_rules_stand_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 devices, which begin the search, 3 replicas share no 32 sequences."""
    axes = {**AXES, "tensor_parallel": (4,), "pipeline_parallel": (1,), "micro_batch": (1,)}
    asked = replace(toy(), batch=Batch(32, 8), total_tokens=100 * 32 * 8, spaces={"a": PlanSpace("a", axes)})
    monkeypatch.setattr(sizing, "least_devices", lambda chosen, seconds: 12)
    twelve, sixteen = size(asked, within=1e-9, most_devices=16).rows
    assert twelve.why.startswith("no plan is legal: data_parallel x micro_batch = 3 x 1 = 3 does not divide") and not sixteen.why
    small = replace(CLUSTER.node, accelerator=replace(CLUSTER.node.accelerator, hbm_capacity_bytes=1000))
    _, full = size(replace(asked, cluster=replace(CLUSTER, node=small)), within=1e-9, most_devices=16).rows
    assert full.best is None and full.why.startswith("no plan fits the memory: stage 0 needs ")


def test_a_budget_alone_pays_for_the_most_devices() -> None:
    costs = {devices: devices * time_s / 3600 * 2 for devices, time_s in looked_at_toy().items() if time_s is not None}
    for budget in sorted(costs.values())[1::3]:
        found = size(toy(), budget=budget, most_devices=96)
        assert found.answer is not None and found.answer.cost_usd <= budget
        assert found.answer.num_devices == max(devices for devices, cost in costs.items() if cost <= budget)


def test_both_limits_hold() -> None:
    within = size(toy(), within=1e6, most_devices=4).rows[0].time_s / 2
    free = size(toy(), within=within, most_devices=96).answer
    assert free is not None and free.num_devices > 4
    assert size(toy(), within=within, budget=0.99 * free.cost_usd, most_devices=96).answer is None  # more devices cost more
    assert size(toy(), within=within, budget=1.01 * free.cost_usd, most_devices=96).answer == free


def test_its_table_has_a_row_a_number_and_marks_the_answer() -> None:
    found = size(toy(), within="1 day", most_devices=8)
    titles, *rows = [line.split() for line in found.table().splitlines() if line.strip()][-1 - len(found.rows) :]
    assert [int(row[0]) for row in rows] == [each.num_devices for each in found.rows]
    assert [row[-1] == "<" for row in rows] == [each == found.answer for each in found.rows]
    assert "plan" in titles and all(
        f"tp{each.best.plan.tensor_parallel}" in row for row, each in zip(rows, found.rows, strict=True) if each.best
    )


def test_tokens_are_text_or_a_number() -> None:
    one, other, stated = (size(toy(), tokens, within="1 day", most_devices=8) for tokens in ("19.2k", 19_200, None))
    assert one == other == stated


def _with_times(patch: pytest.MonkeyPatch, times: dict[int, float]) -> list[int]:
    """Each number of devices takes so long; what is looked at, in order."""
    real, seen = plan(replace(toy(), cluster=replace(CLUSTER, num_nodes=1)), top=1, contention=False), []

    def told(chosen: Scenario, **_: object) -> Ranking:
        devices = chosen.cluster.num_devices
        seen.append(devices)
        return replace(real, rows=(replace(real.rows[0], step_s=times[devices] / 100, plan=Plan(data_parallel=devices)),))

    patch.setattr(sizing, "plan", told)
    return seen


def test_few_numbers_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ideal = {4 * nodes: 1e5 / nodes for nodes in numbers_of_nodes(toy(), 4096)}
    seen = _with_times(monkeypatch, ideal)
    found = size(toy(), within=1e5 / 64, most_devices=4096)
    assert found.answer is not None and found.answer.num_devices == 256
    assert len(seen) == len(set(seen)) < 25 < len(ideal)


UNEVEN = {4: 90.0, 8: 80.0, 12: 30.0, 16: 70.0, 24: 31.0, 32: 32.0, 36: 19.0, 48: 33.0, 64: 17.0, 72: 16.0, 96: 15.0}


@pytest.mark.parametrize("within", sorted({*UNEVEN.values(), 14.0}))
def test_the_first_in_time_is_found_where_more_devices_may_be_slower(within: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_times(monkeypatch, UNEVEN)
    found = size(toy(), within=within * 1.0001, most_devices=96).answer
    assert (found and found.num_devices) == next((devices for devices, time_s in UNEVEN.items() if time_s <= within), None)


@pytest.mark.parametrize("most", [0.15, 0.2, 0.35, 0.7, 1.0])
def test_the_last_that_a_budget_pays_for_is_found(most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_times(monkeypatch, UNEVEN)
    costs = {devices: devices * time_s / 3600 * 2 for devices, time_s in UNEVEN.items()}
    found = size(toy(), budget=most, most_devices=96).answer
    assert (found and found.num_devices) == max((devices for devices, cost in costs.items() if cost <= most), default=None)


def test_it_ends_where_four_times_as_many_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {4 * nodes: max(1e4 / nodes, 700.0) for nodes in numbers_of_nodes(toy())}
    seen = _with_times(monkeypatch, times)
    assert size(toy(), within=600).answer is None
    assert len(seen) == len(set(seen)) and max(seen) < 800


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "how many devices: for what?"),
        ({"within": "30"}, "'30' is no time: 30 has no unit"),
        ({"within": "1 day", "tokens": "many"}, "'many' is no number of tokens"),
        ({"budget": "1 EUR"}, "'1 EUR' is no money: unknown unit 'EUR'"),
        ({"within": "1 day", "constraints": {"memory_headroom": "x"}}, "is no share of a memory"),
    ],
)
def test_wrong_limits_are_told(options: dict[str, object], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        size(toy(), **options)  # type: ignore[arg-type]


def test_where_no_number_has_a_legal_plan_the_reason_is_told() -> None:
    odd = replace(toy(), spaces={"a": PlanSpace("a", {"tensor_parallel": (3,), "pipeline_parallel": (7,)})})
    with pytest.raises(PlanError, match="no legal plan"):
        size(odd, within="1 day", most_devices=8)


def test_a_budget_needs_a_price() -> None:
    with pytest.raises(PlanError, match="no price of a device"):
        size(replace(toy(), cluster=CLUSTER), budget=100)


FED = Path(__file__).parents[3] / "scenarios" / "images-from-storage.yaml"
FEW = {"tensor_parallel": [1, 2], "micro_batch": [16, 64], "recompute": ["none", "full"]}


def test_no_number_of_devices_is_looked_at_on_which_no_plan_is_fed_in_time() -> None:
    found = size(load(FED), within="6 h", space=FEW)
    steps = -(-75_700_000_000 // (4096 * 197))
    # A core decodes 577 images a second: 4096 of them on n devices, one core each.
    assert all(steps * 4096 / row.num_devices / 577 <= 6 * 3600 for row in found.rows)
    assert found.answer is not None and found.answer == found.rows[0] and found.answer.time_s <= 6 * 3600


def test_the_first_is_found_without_pricing_all_that_cannot_be_told_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    priced: list[int] = []
    usual = Bounded.finish

    def finish(self: Bounded, rows: Ints) -> Ints:
        priced.append(len(rows))
        return usual(self, rows)

    monkeypatch.setattr(Bounded, "finish", finish)
    few = {"tensor_parallel": [1], "micro_batch": [2, 4, 8, 16, 32, 64], "recompute": ["none", "full"], "zero_stage": [0, 1, 2, 3]}
    slowly_fed, found = load(FED, changes={"input.decode_per_s": 100}), []  # so that plans of several micro_batches wait alike
    for alike in (True, False):
        priced.clear()
        ranking = plan(slowly_fed, space=few, top=1, objective="time_to_tokens", contention=False, alike=alike)
        found.append((ranking.rows, sum(priced)))
    assert found[0][0] == found[1][0] and found[1][1] < found[0][1], found


def test_what_slows_a_device_that_few_nodes_do_not_have_is_left_out_there() -> None:
    slow = toy(disturbance=Disturbance(slow_devices={11: 1.5}))
    for options in ({"within": 1e9}, {"budget": 1e9}):
        found, usual = (size(each, most_devices=16, **options) for each in (slow, toy()))
        assert [row.time_s for row in found.rows] == [row.time_s for row in usual.rows] and found.rows[0].num_devices < 12
