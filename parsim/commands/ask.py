"""`parsim whatif` and `compare`: what would be, were something otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Csv, FormatOption, Json, SetOption, app, formats_of, output_of, takes_scenario
from parsim.commands.completing import plans as plans_before
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(
    epilog="Examples:  parsim whatif scenarios/table5-22b.yaml full;  "
    "parsim whatif --model llama3-8b --node a100-40gb --num-devices 16 --swap node=hgx-h100-80gb --replan"
)
@command
@takes_scenario()
def whatif(
    source: Source,
    plans: Annotated[
        list[str] | None,
        typer.Argument(help="plans of the scenario; its best where left out", metavar="[PLAN]...", autocompletion=plans_before),
    ] = None,
    swap: Annotated[
        list[str] | None,
        typer.Option(
            "--swap",
            help="compare with this in place of what is there, e.g. node=hgx-h200, accelerator=h200, fabric=ib-ndr-8rail, "
            "cluster.fabric.nic.bandwidth=2x; may be repeated",
            metavar="PATH=VALUE",
        ),
    ] = None,
    replan: Annotated[bool, typer.Option("--replan", help="also the best plan under --swap")] = False,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Say what the step gains were the network, the devices or anything else 1 % or twice as fast, or swapped for another."""
    from parsim.report.whatif import ask_what_if

    return ask_what_if(source, output_of(json, csv), plans=plans or (), swaps=swap or (), replan=replan)


@app.command(
    epilog="Examples:  parsim compare scenarios/table5-22b.yaml full seqsel --figure;  "
    "parsim compare reports/a/results.json:full reports/b/results.json:full"
)
@command
def compare(
    plans: Annotated[
        list[str],
        typer.Argument(
            help="FILE PLAN PLAN, or two of FILE:PLAN; a file is a scenario, or results.json of `parsim run`",
            metavar="FILE:PLAN FILE:PLAN",
            autocompletion=plans_before,
        ),
    ],
    sets: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="where to draw; reports/compare where left out", metavar="DIR", show_default=False)
    ] = None,
    figure: Annotated[bool, typer.Option("--figure", help="draw a waterfall from one step to the other, with its CSV")] = False,
    format: FormatOption = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Say which part of the step makes one of two plans slower, beside their memory and the keys in which they differ."""
    from parsim.report.comparing import compare_plans

    formats = formats_of(format, figure or bool(format))
    return compare_plans(plans, sets or (), output_of(json, csv), out=out, formats=formats)
