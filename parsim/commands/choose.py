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
        str, typer.Option(help="step_time, tokens_per_s, tokens_per_s_per_device, mfu, time_to_tokens, device_hours, cost or energy")
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
    from parsim.report.choosing import Question, rank_scenario, show_pareto

    if pareto and (objective != "step_time" or limit or headroom != "0" or contention):
        raise ParsimError("--pareto takes no objective, no limit and no --contention", remedy="Ask for one of them.")
    if nodes and not pareto:
        raise ParsimError("--nodes asks for plans on several clusters", remedy="Add --pareto.")
    pairs = [each.partition("=") for each in limit or ()]
    if bare := [name for name, equals, _ in pairs if not equals]:
        raise ParsimError(
            f"--limit {bare[0]}: must be NAME=VALUE", remedy="E.g. step_time=20s, within=30days, budget=1MUSD or devices=512."
        )
    limits = {"memory_headroom": headroom, **{name.strip(): value for name, _, value in pairs}}
    question = Question(source, space, runnable, out, formats_of(format, figure or bool(format)), objective, limits)
    output = output_of(json, csv)
    return show_pareto(question, output, nodes or ()) if pareto else rank_scenario(question, output, top, contention=contention)
