"""`parsim size`: how many devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Csv, HeadroomOption, Json, Runnable, SpaceOption, app, output_of, takes_scenario
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(
    epilog="Examples:  parsim size --model llama3-8b --node h100 --tokens 1T --within '30 days';  "
    "parsim size scenarios/plan-gpt3-13b.yaml --tokens 300B --budget 1MUSD"
)
@command
@takes_scenario()
def size(
    source: Source,
    tokens: Annotated[
        str | None, typer.Option(help="of the whole training, e.g. 1T; training.total_tokens where left out", metavar="TOKENS")
    ] = None,
    within: Annotated[str | None, typer.Option(help="how long it may take, e.g. '30 days'", metavar="TIME")] = None,
    budget: Annotated[str | None, typer.Option(help="what it may cost, e.g. '1 MUSD'", metavar="MONEY")] = None,
    most: Annotated[int | None, typer.Option(help="how many devices to look at, at most", min=1, metavar="DEVICES")] = None,
    space: SpaceOption = None,
    runnable: Runnable = False,
    headroom: HeadroomOption = "0",
    json: Json = False,
    csv: Csv = False,
) -> int:
    """How many devices a training needs to end in time or that a budget pays for, with the best plan of each number; exit 1 when none."""
    from parsim.report.sizing import size_scenario

    options = {"space": space, "runnable": runnable, "constraints": {"memory_headroom": headroom}}
    return size_scenario(source, output_of(json, csv), tokens, within=within, budget=budget, most_devices=most, **options)
