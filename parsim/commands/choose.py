"""`parsim plan`: which plan."""

from __future__ import annotations

from typing import Annotated

import typer

from parsim.commands.app import Csv, HeadroomOption, Json, ScenarioFile, app, output_of
from parsim.report.manners import command


@app.command(epilog="Example:  parsim plan scenarios/plan-gpt3-13b.yaml --top 5")
@command
def plan(
    scenario: ScenarioFile,
    top: Annotated[int, typer.Option(help="how many plans to show", min=1, max=10**6)] = 10,
    space: Annotated[str | None, typer.Option(help="the plan with open axes; needed where there are several", metavar="PLAN")] = None,
    runnable: Annotated[bool, typer.Option("--runnable", help="leave out what the software stack cannot run")] = False,
    objective: Annotated[
        str, typer.Option(help="step_time, tokens_per_s, tokens_per_s_per_device, mfu, time_to_tokens, device_hours, cost or energy")
    ] = "step_time",
    headroom: HeadroomOption = "0",
    limit: Annotated[
        list[str] | None,
        typer.Option(help="step_time=20s, within=30days, budget=1MUSD or devices=512; may be repeated", metavar="NAME=VALUE"),
    ] = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Rank the plans that a scenario leaves open (auto, or lists of values), by step time or another objective; exit 1 when none fits."""
    from parsim.report.running import rank_scenario

    pairs = [each.partition("=") for each in limit or ()]
    limits = {"memory_headroom": headroom, **{name.strip(): value for name, _, value in pairs}}
    options = {"runnable": runnable, "objective": objective}
    return rank_scenario(scenario, output_of(json, csv), top=top, space=space, limits=limits, **options)
