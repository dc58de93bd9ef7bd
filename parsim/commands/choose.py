"""`parsim plan`: which plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Csv, FormatOption, HeadroomOption, Json, Runnable, SpaceOption, app, formats_of, output_of, takes_scenario
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
    space: SpaceOption = None,
    runnable: Runnable = False,
    objective: Annotated[
        str,
        typer.Option(help="step_time, tokens_per_s, tokens_per_s_per_device, mfu, time_to_tokens, device_hours, cost, energy, goodput"),
    ] = "step_time",
    headroom: HeadroomOption = "0",
    limit: Annotated[
        list[str] | None,
        typer.Option(help="step_time=20s, within=30days, budget=1MUSD or devices=512; may be repeated", metavar="NAME=VALUE"),
    ] = None,
    contention: Annotated[
        bool, typer.Option("--contention", help="simulate the best with links that collectives share while they overlap, and re-rank them")
    ] = False,
    pareto: Annotated[bool, typer.Option("--pareto", help="instead, the plans that no other beats in step time and memory")] = False,
    nodes: Annotated[list[int] | None, typer.Option(help="with --pareto: a number of nodes to consider; may be repeated", min=1)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="where to write the best plan and the ranking", metavar="DIR", show_default=False)
    ] = None,
    figure: Annotated[bool, typer.Option("--figure", help="draw step time against memory, and the best step of each tp and pp")] = False,
    format: FormatOption = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Rank the plans that a scenario, or a model and devices, leave open; exit 1, with what would fit, when none does."""
    from parsim.errors import ParsimError
    from parsim.planner.constraints import HEADROOM
    from parsim.report.choosing import Question, limits_of, rank_scenario, show_pareto

    limits = limits_of(limit or (), headroom)
    ranked = {"--objective": objective != "step_time", "--limit or --headroom": limits != {HEADROOM: "0"}, "--contention": contention}
    if pareto and any(ranked.values()):
        given = ", ".join(name for name, is_given in ranked.items() if is_given)
        raise ParsimError(f"--pareto ranks nothing, and takes no {given}", remedy="Leave out one or the other.")
    if nodes and not pareto:
        raise ParsimError("--nodes asks for plans on several clusters", remedy="Add --pareto.")
    question = Question(source, space, runnable, out, formats_of(format, figure or bool(format)), objective, limits)
    output = output_of(json, csv)
    return show_pareto(question, output, nodes or ()) if pareto else rank_scenario(question, output, top, contention=contention)
