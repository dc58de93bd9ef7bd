"""`parsim sweep`: many scenarios, or one with values that vary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parsim.commands.app import Csv, Json, OutOption, SetOption, app, output_of
from parsim.report.manners import command


@app.command(epilog="Example:  parsim sweep scenarios/sweeps/tensor-by-pipeline.yaml --workers 2")
@command
def sweep(
    files: Annotated[
        list[Path], typer.Argument(help="sweep files (scenario, over, combine, plan), or scenarios", metavar="FILE", show_default=False)
    ],
    plan: Annotated[
        str | None,
        typer.Option(help="of each point: named (its plans without open axes), best (of its open axes), or one by name", metavar="PLAN"),
    ] = None,
    workers: Annotated[int, typer.Option(help="processes; 0: no others", min=0, max=1024)] = 0,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="take what the cache has from there")] = True,
    cache: Annotated[
        Path | None,
        typer.Option(help="where results are kept as they come; DIR/cache.sqlite where left out", metavar="FILE", show_default=False),
    ] = None,
    out: OutOption = None,
    sets: SetOption = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Predict many scenarios, kept one by one as they come: results.csv and results.jsonl; exit 1 when nothing fits."""
    from parsim.report.sweeping import sweep_files

    return sweep_files(files, output_of(json, csv), out=out, sets=sets or (), cache=cache, plan=plan, workers=workers, resume=resume)
