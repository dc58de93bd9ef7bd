"""`parsim export` and `import`: from a plan to what a launcher reads, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Json, app, output_of, takes_scenario
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(epilog="Examples:  parsim export scenarios/table5-175b.yaml seqsel --to megatron-lm -o job")
@command
@takes_scenario(file_only=True)
def export(
    source: Source,
    plan: Annotated[str, typer.Argument(help="a plan of the scenario", metavar="PLAN")],
    to: Annotated[str, typer.Option(help="the launcher, perhaps with @VERSION; see `parsim list targets`", metavar="TARGET[@VERSION]")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="where to write; printed where left out", metavar="DIR")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over files that have other content")] = False,
    json: Json = False,
) -> int:
    """Write what a launcher needs to run a plan; what it cannot express is refused, never left out."""
    from parsim.report.launching import show_export

    return show_export(source, plan, to, output_of(json, False), out, force=force)


@app.command(
    "import",
    epilog="Examples:  parsim import ds_config.json --model llama3-8b --node hgx-h100-80gb -o mine.yaml;  "
    "parsim import train.sh --from megatron-lm --node h100 --num-devices 64 -o mine.yaml",
)
@command
@takes_scenario(foreign="a launcher's command line, YAML, TOML or JSON; or a model of dense layers: Keras JSON, NAME.keras, ONNX")
def import_job(
    source: Source,
    origin: Annotated[
        str,
        typer.Option("--from", help="the launcher, perhaps with @VERSION; by the file's form where left out", metavar="TARGET[@VERSION]"),
    ] = "",
    plan: Annotated[str, typer.Option(help="a name for the plan", metavar="NAME")] = "imported",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the scenario file to write; printed where left out", metavar="SCENARIO")
    ] = None,
    json: Json = False,
) -> int:
    """Read the job that a launcher's file says as a scenario; what is assumed and what is not carried over is listed."""
    from parsim.report.importing import show_import

    return show_import(source, origin, plan, output_of(json, False), out)
