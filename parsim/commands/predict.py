"""`parsim run`, `plot`, `explain` and `validate`: what the plans of a scenario take, why, and how near that comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import BackendOption, Csv, FormatOption, Json, OutOption, app, formats_of, output_of, takes_scenario
from parsim.commands.completing import plans
from parsim.errors import ParsimError
from parsim.report.manners import OK, command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(epilog="Example:  parsim run scenarios/table5-22b.yaml --layers")
@command
@takes_scenario()
def run(
    source: Source,
    out: OutOption = None,
    backend: BackendOption = "estimate",
    contention: Annotated[
        bool, typer.Option("--contention", help="collectives that overlap share links; needs --backend simulate")
    ] = False,
    json: Json = False,
    csv: Csv = False,
    layers: Annotated[bool, typer.Option("--layers", help="also FLOPs, bytes, parameters and seconds of each segment")] = False,
    figure: Annotated[
        bool | None, typer.Option("--figure/--no-figure", help="draw the plans; so it is but with --json or --csv", show_default=False)
    ] = None,
    format: FormatOption = None,
) -> int:
    """Predict step time and memory of every plan of a scenario, with the reasons; exit 1 when no plan fits."""
    from parsim.report.running import run_scenario

    formats = formats_of(format, bool(format) or not (json or csv) if figure is None else figure)
    return run_scenario(source, output_of(json, csv), out=out, backend=backend, contention=contention, layers=layers, formats=formats)


@app.command(
    epilog="Examples:  parsim plot scenarios/table5-175b.yaml -o figures;  "
    "parsim plot reports/s/results.csv --x tensor_parallel --y pipeline_parallel --value step_s"
)
@command
@takes_scenario(file_only=True)
def plot(
    source: Source,
    out: OutOption = None,
    backend: BackendOption = "estimate",
    format: FormatOption = None,
    x: Annotated[str | None, typer.Option("--x", help="of the CSV of a sweep: the column along x of a heatmap", metavar="COLUMN")] = None,
    y: Annotated[str | None, typer.Option("--y", help="the column along y", metavar="COLUMN")] = None,
    value: Annotated[str, typer.Option(help="the column that the heatmap shows, where it fits", metavar="COLUMN")] = "step_s",
) -> int:
    """Draw step time and memory of all plans, plans.png and plans.csv; or a heatmap of a sweep, heatmap.png and heatmap.csv."""
    formats = formats_of(format, True)
    if source.file and (x or y or source.file.suffix == ".csv"):
        from parsim.report.heatmap import plot_heatmap

        return plot_heatmap(source.file, out, formats, x=x or "", y=y or "", value=value)
    from parsim.report.running import plot_scenario

    return plot_scenario(source, out, backend, formats)


@app.command(epilog="Examples:  parsim explain scenarios/table5-22b.yaml full up_gemm;  parsim explain scenarios/table5-22b.yaml full mfu")
@command
@takes_scenario(file_only=True)
def explain(
    source: Source,
    plan: Annotated[str, typer.Argument(help="a plan of the scenario", metavar="PLAN", show_default=False, autocompletion=plans)],
    op: Annotated[
        str | None, typer.Argument(help="a task, the start of its name, forward, backward, or a figure such as mfu", metavar="OP")
    ] = None,
) -> int:
    """Explain a task of a plan (expression, shapes, counts, what bounds it, sources) or a figure; without OP, whether a plan fits.

    Where a plan does not fit, the nearest changes that would, with what they cost.
    """
    from parsim.report.console import lines, say
    from parsim.report.explain import explain as notes_on

    if op is None:
        from parsim.report.choosing import explain_fit

        explain_fit(source.load(), plan)
        return OK
    for note in notes_on(source.load(), plan, op):
        say(note.title)
        lines(note.lines)
    return OK


@app.command(epilog="Examples:  parsim validate tests/witnesses/table5.csv --where source_family=papers;  parsim validate --report")
@command
def validate(
    tables: Annotated[
        list[Path] | None,
        typer.Argument(
            help="tables of measured runs; the published ones of parsim where left out", metavar="TABLE.csv", show_default=False
        ),
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="only rows with this value; may be repeated", metavar="COLUMN=VALUE")] = None,
    report: Annotated[bool, typer.Option("--report", help="write a page of errors by class, source, scale, with figures, too")] = False,
    out: OutOption = None,
    format: FormatOption = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Predict each row of tables of measurements and print the errors of step time and peak memory."""
    output = output_of(json, csv)
    if report:
        from parsim.report.validating import report_cases

        return report_cases(tables or [], where or [], output, out=out, formats=formats_of(format, True))
    if out or format:
        raise ParsimError(f"{'--out' if out else '--format'} is for what --report writes", remedy="Add --report, or leave it out.")
    from parsim.report.validating import validate_cases

    return validate_cases(tables or [], where or [], output)
