"""`parsim plan`: the planner's ranking as documents, JSON and CSV.  The table for people is in summary.py, which `parsim plan` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsim import __version__
from parsim.estimator.result import Estimate
from parsim.report.console import Output, log
from parsim.report.results import SCHEMA, flat, plan_document
from parsim.report.summary import overrun, short, show_ranking
from parsim.scenario import Scenario, load

if TYPE_CHECKING:
    from parsim.planner import Ranking


def ranking_document(scenario: Scenario, ranking: Ranking) -> dict[str, Any]:
    """The ranking as JSON has it: best plan first, SI base units."""
    return {
        "schema": SCHEMA,
        "parsim_version": __version__,
        "scenario": scenario.name,
        "num_legal": ranking.num_legal,
        "num_over_memory": ranking.num_over_memory,
        "num_fit": ranking.num_fit,
        "plans": [
            {"place": place, "plan": plan_document(each.plan), **_figures(each.estimate), "breakdown_s": dict(each.estimate.breakdown_s)}
            for place, each in enumerate(ranking.rows, 1)
        ],
    }


def ranking_table(ranking: Ranking) -> list[dict[str, object]]:
    """The ranking as CSV has it: a row a plan."""
    ranked = enumerate(ranking.rows, 1)
    return [{"place": place, **flat(plan_document(each.plan)), **_figures(each.estimate)} for place, each in ranked]


def _figures(predicted: Estimate) -> dict[str, float]:
    names = ("step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "peak_bytes", "capacity_bytes")
    return {name: getattr(predicted, name) for name in names}


def rank_scenario(path: Path, output: Output, *, top: int, space: str | None) -> int:
    """The exit status: 0, or 1 where no plan fits its device.

    Raises:
        ParsimError: the scenario or the space is wrong, or no plan is legal.
    """
    from parsim.planner import plan

    scenario = load(path)
    ranking = plan(scenario, space, top=top)
    output.show(ranking_document(scenario, ranking), ranking_table(ranking), lambda: show_ranking(scenario, ranking))
    if ranking.nearest is not None:
        nearest = ranking.nearest
        log(f"no plan fits its device; the nearest:\n{overrun(nearest.estimate, short(nearest.plan))}")
    return 0 if ranking.rows else 1
