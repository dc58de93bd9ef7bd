"""What rules keep out is counted where the first of them says so, and never becomes a plan, even where most combinations are kept out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parsim import load
from parsim.parallel.plan import Plan
from parsim.parallel.plans import Plans
from parsim.planner import grid as grids
from parsim.planner.accord import Filter
from parsim.planner.bounded import Bounded
from parsim.planner.grid import Grid
from parsim.planner.space import candidates

SCENARIOS = Path(__file__).parents[3] / "scenarios"
AXES = {"tensor_parallel": (1, 2, 4), "micro_batch": (1, 2, 3), "recompute": ("none", "full"), "zero_stage": (0, 1, 2, 3)}
RULES: tuple[tuple[str, tuple[str, ...], Callable[[Plan], bool]], ...] = (
    ("odd", ("micro_batch",), lambda plan: plan.micro_batch % 2 == 1 and plan.micro_batch > 1),
    ("large", ("tensor_parallel", "micro_batch"), lambda plan: plan.tensor_parallel * plan.micro_batch > 4),
    ("again", ("recompute", "zero_stage"), lambda plan: plan.recompute == "full" and plan.zero_stage > 1),
    ("all", ("tensor_parallel", "zero_stage"), lambda plan: plan.tensor_parallel + plan.zero_stage > 5),
)


def filters(asked: list[str]) -> list[Filter]:
    def rule(name: str, reads: tuple[str, ...], wrong: Callable[[Plan], bool]) -> Filter:
        def says(plan: Plan) -> str:
            asked.append(name)
            return f"{name}: {[getattr(plan, each) for each in reads]}" if wrong(plan) else ""

        return Filter(name, reads, says)

    return [rule(*each) for each in RULES]


def one_by_one() -> tuple[list[tuple[object, ...]], Counter[str], dict[str, str]]:
    """The same, axis by axis and rule by rule, each combination by itself."""
    kept: list[dict[str, object]] = [{}]
    counts, first = Counter[str](), dict[str, str]()
    waiting, names = filters([]), [*AXES]
    for place, name in enumerate(names):
        kept = [{**each, name: value} for each in kept for value in AXES[name]]
        left = int(np.prod([len(AXES[other]) for other in names[place + 1 :]]))
        for rule in [rule for rule in waiting if {*rule.reads} <= {*names[: place + 1]}]:
            waiting.remove(rule)
            said = [rule.wrong(Plan(**each)) for each in kept]  # type: ignore[arg-type]
            counts[rule.name] += left * sum(map(bool, said))
            first.setdefault(rule.name, next(filter(None, said), ""))
            kept = [each for each, wrong in zip(kept, said, strict=True) if not wrong]
    return [tuple(each.values()) for each in kept], +counts, {name: text for name, text in first.items() if text}


def test_a_grid_holds_and_counts_what_rules_leave_and_keep_out_one_by_one() -> None:
    scenario = load(SCENARIOS / "tiny.yaml")
    asked: list[str] = []
    found = Grid(scenario, AXES, filters(asked))
    for name in AXES:
        found.expand(name)
    plans, counts, first = one_by_one()
    assert [tuple(getattr(each, name) for name in AXES) for each in found.found] == plans
    assert {each.rule: each.count for each in found.rejected.values()} == counts
    assert {each.rule: each.example for each in found.rejected.values()} == first
    combinations = {name: np.prod([len(AXES[each]) for each in reads]) for name, reads, _ in RULES}
    assert all(count <= combinations[name] for name, count in Counter(asked).items())


def test_every_plan_may_be_kept_out() -> None:
    found = Grid(load(SCENARIOS / "tiny.yaml"), AXES, [Filter("no", ("micro_batch",), lambda plan: "no")])
    for name in AXES:
        found.expand(name)
    assert len(found.found) == 0 and found.last == "no"
    assert sum(each.count for each in found.rejected.values()) == len([*itertools.product(*AXES.values())])


def test_of_a_large_space_few_combinations_are_ever_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load(SCENARIOS / "plan-gpt3-13b.yaml")
    sizes, every = list[int](), list[int]()
    product, expand = grids._product, Grid.expand

    def counted(plans: Plans, rows: np.ndarray, axis: Plans, places: np.ndarray) -> Plans:
        sizes.append(len(rows))
        return product(plans, rows, axis, places)

    def expanded(self: Grid, name: str) -> None:
        every.append(len(self.plans) * len(self.values[name]))
        expand(self, name)

    monkeypatch.setattr(grids, "_product", counted)
    monkeypatch.setattr(Grid, "expand", expanded)
    candidates(scenario)
    assert 5 * max(sizes) < max(every)


def test_fronts_of_many_sets_are_priced_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round costs as much as all structures that it meets, however few plans it prices of each."""
    scenario = load(SCENARIOS / "plan-gpt3-13b.yaml")
    bounded = Bounded(scenario, candidates(scenario).plans)
    _, cell = bounded.plans.distinct(("tensor_parallel", "pipeline_parallel"))
    fitting = np.flatnonzero(bounded.fits)
    sets = [fitting[cell[fitting] == each] for each in sorted({*cell[fitting].tolist()})]
    rounds: list[int] = []
    finish = Bounded.finish

    def counted(self: Bounded, rows: np.ndarray) -> np.ndarray:
        rounds.append(len(rows))
        return finish(self, rows)

    monkeypatch.setattr(Bounded, "finish", counted)
    fronts = bounded.fronts(sets)
    assert len(rounds) <= 7 and sum(rounds) < len(fitting) / 4  # one step of all stairs at a time: 13 rounds
    every = bounded.finish(np.arange(len(bounded.plans)))
    for rows, front in zip(sets, fronts, strict=True):
        for one in front:
            less, shorter = bounded.peaks[rows] < bounded.peaks[one], every[rows] < every[one]
            no_more, no_longer = bounded.peaks[rows] <= bounded.peaks[one], every[rows] <= every[one]
            assert not np.any((less & no_longer) | (no_more & shorter))
