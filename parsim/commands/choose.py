"""`parsim plan`: which plan."""

from __future__ import annotations

from typing import Annotated

import typer

from parsim.commands.app import Csv, Json, ScenarioFile, app, output_of
from parsim.report.manners import command


@app.command(epilog="Example:  parsim plan scenarios/plan-gpt3-13b.yaml --top 5")
@command
def plan(
    scenario: ScenarioFile,
    top: Annotated[int, typer.Option(help="how many plans to show", min=1, max=10**6)] = 10,
    space: Annotated[str | None, typer.Option(help="the plan with open axes; needed where there are several", metavar="PLAN")] = None,
    runnable: Annotated[bool, typer.Option("--runnable", help="leave out what the software stack cannot run")] = False,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Rank the plans that a scenario leaves open (auto, or lists of values) by step time; exit 1 when none fits."""
    from parsim.report.running import rank_scenario

    return rank_scenario(scenario, output_of(json, csv), top=top, space=space, runnable=runnable)
