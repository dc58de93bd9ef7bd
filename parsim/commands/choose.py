"""`parsim plan`: which plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Csv, Json, app, output_of, takes_scenario
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(
    epilog="Examples:  parsim plan --model llama3-8b --node a100-40gb --num-devices 16;  parsim plan scenarios/plan-gpt3-13b.yaml --top 5"
)
@command
@takes_scenario()
def plan(
    source: Source,
    top: Annotated[int, typer.Option(help="how many plans to show", min=1, max=10**6)] = 10,
    space: Annotated[str | None, typer.Option(help="the plan with open axes; needed where there are several", metavar="PLAN")] = None,
    runnable: Annotated[bool, typer.Option("--runnable", help="leave out what the software stack cannot run")] = False,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Rank the plans that a scenario, or a model and devices, leave open by step time; exit 1 when none fits."""
    from parsim.report.running import rank_scenario

    return rank_scenario(source, output_of(json, csv), top=top, space=space, runnable=runnable)
