"""`parsim plan`: the planner's ranking as documents, JSON and CSV.  The table for people is in summary.py, which `parsim plan` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsim import __version__
from parsim.report.console import log, raw
from parsim.report.files import csv_text, json_text
from parsim.report.results import SCHEMA, flat, plan_document
from parsim.report.running import one_format
from parsim.report.summary import overrun, short, show_ranking
from parsim.scenario import Scenario, load

if TYPE_CHECKING:
    from parsim.planner import Ranked, Ranking


def ranking_document(scenario: Scenario, ranking: Ranking) -> dict[str, Any]:
    """The ranking as JSON has it: best plan first, SI base units."""
    return {
        "schema": SCHEMA,
        "parsim_version": __version__,
        "scenario": scenario.name,
        "num_legal": ranking.num_legal,
        "num_over_memory": ranking.num_over_memory,
        "num_fit": ranking.num_fit,
        "plans": [{"place": place, "plan": plan_document(each.plan), **_reached(each)} for place, each in enumerate(ranking.rows, 1)],
    }


def ranking_table(ranking: Ranking) -> list[dict[str, object]]:
    """The ranking as CSV has it: a row a plan."""
    rows = []
    for place, each in enumerate(ranking.rows, 1):
        axes = flat(plan_document(each.plan))
        rows.append({"place": place, **axes, **{key: value for key, value in _reached(each).items() if not isinstance(value, dict)}})
    return rows


def _reached(ranked: Ranked) -> dict[str, Any]:
    predicted = ranked.estimate
    return {
        "step_s": predicted.step_s,
        "tokens_per_s": predicted.tokens_per_s,
        "tokens_per_s_per_device": predicted.tokens_per_s_per_device,
        "mfu": predicted.mfu,
        "peak_bytes": predicted.peak_bytes,
        "capacity_bytes": predicted.capacity_bytes,
        "breakdown_s": dict(predicted.breakdown_s),
    }


def rank_scenario(path: Path, top: int, space: str | None, *, json: bool = False, csv: bool = False) -> int:
    """The exit status: 0, or 1 where no plan fits its device.

    Raises:
        ParsimError: the scenario or the space is wrong, no plan is legal, or JSON and CSV are both asked for.
    """
    from parsim.planner import plan

    one_format(json=json, csv=csv)
    scenario = load(path)
    ranking = plan(scenario, space, top=top)
    if json:
        raw(json_text(ranking_document(scenario, ranking)))
    elif csv:
        raw(csv_text(ranking_table(ranking)))
    else:
        show_ranking(scenario, ranking)
    if ranking.nearest is not None:
        nearest = ranking.nearest
        log(f"no plan fits its device; the nearest:\n{overrun(nearest.estimate, short(nearest.plan))}")
    return 0 if ranking.rows else 1
