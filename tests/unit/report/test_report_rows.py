"""Rows of the printed tables of plans that differ never read the same, but for their figures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

sys.path.insert(0, str(Path(__file__).parents[1] / "planner"))
from test_search import SPACES, spaced, tight

from parsim import pareto, plan
from parsim.estimator import cells
from parsim.planner.ranking import Contention
from parsim.report import summary
from parsim.scenario import Scenario
from support import tiered

FIGURES = ("#", "plan", "step", "token/s\n/device", "MFU\n%", "fits", "speed\n%")


def check_rows(chosen: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole ranking and of the front."""
    tables: list[Sequence[Mapping[str, str]]] = []
    monkeypatch.setattr(summary, "show_table", lambda rows, **_: tables.append(rows))
    ranking, front = plan(chosen, top=None), pareto(chosen)
    summary.show_ranking(chosen, ranking)
    summary.show_front(chosen, front)
    assert [*map(len, tables)] == [len(ranking.rows), len(front.rows)]
    for rows, plans in zip(tables, (ranking.rows, front.rows), strict=True):
        read = [tuple(text for name, text in row.items() if name not in FIGURES and not name.startswith("GiB")) for row in rows]
        assert len({*read}) == len({each.plan for each in plans}) == len(rows)


@pytest.mark.parametrize("name", [tiered(name, name, slow=i % 2 == 0) for i, name in enumerate(SPACES)])  # as the front is, the others
def test_rows_that_differ_never_read_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_rows(spaced(name), monkeypatch)


def test_nor_do_those_of_what_the_planner_tries_of_its_own_accord(monkeypatch: pytest.MonkeyPatch) -> None:
    check_rows(tight(), monkeypatch)


@pytest.mark.parametrize(("name", "hidden"), [("modules", "other_axes"), ("schedule", "other_axes"), ("zero", "_zero")])
def test_mutant_a_column_that_says_nothing_is_noticed(name: str, hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = {} if hidden == "other_axes" else ""
    monkeypatch.setattr(cells, hidden, lambda *_: nothing)
    with pytest.raises(AssertionError):
        check_rows(spaced(name), monkeypatch)


ALONE, UNKNOWN = "collectives of 1 share no links", "not known whether they share links: 1, 2"
LATE, SLOWER, MORE = "of too many events, and so last: 3", "no better than the first even by their estimates: 2", "--top 6 simulates more"


@pytest.mark.parametrize(
    ("shares", "simulated", "is_best", "said"),
    [
        ((True, True, True), (1, 2, 3), True, ()),
        ((False, True, True), (2,), False, (ALONE, LATE, MORE)),
        ((True, None, True), (1, 3), True, (SLOWER,)),
        ((True, None, True), (1, 3), False, (SLOWER, MORE)),
        ((None, None, True), (), False, (LATE, UNKNOWN)),
    ],
)
def test_of_each_row_that_is_not_simulated_it_is_said_why(
    shares: tuple[bool | None, ...], simulated: Sequence[int], is_best: bool, said: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(summary, "say", lines.append)
    alone_s = tuple(0.1 if place in simulated else None for place in (1, 2, 3))
    ranking = replace(plan(spaced(next(iter(SPACES))), top=3), shares=shares, contention=Contention(alone_s, is_best))
    summary._show_contention(ranking)
    assert len(lines) == len(said) and all(any(part in line for line in lines) for part in said)
