"""`parsim`: the commands.  Each reads its arguments, calls the library, and hands the result to parsim.report.

Only typer, rich and the errors are imported at the top, so that `parsim --help` is quick; a command imports what it uses.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer
import typer.core

from parsim import __version__
from parsim.report.later import later
from parsim.report.manners import FAILED, OK, WRONG, Ended, command, leave, status

if TYPE_CHECKING:
    from parsim.report.console import Output


class Commands(typer.core.TyperGroup):
    """The commands of a program, whose complaints about arguments are sentences: without the prefix that pydantic gives some."""

    def invoke(self, ctx: Any) -> Any:  # a context of click, wherever typer has it from
        """What the named command returns."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="parsim",
    cls=Commands,
    help="Predict how long a training step of a large language model takes on a cluster, how much memory it needs, and why.",
    epilog="Example:  parsim run scenarios/table5-22b.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


BackendOption = Annotated[Literal["estimate", "simulate"], typer.Option(help="arithmetic, or events for the step time")]
TransportChoice = Literal["shared_memory", "mpi", "lockstep"]
Precision = Literal["float64", "float32"]
ScenarioFile = Annotated[Path, typer.Argument(help="a scenario file (YAML or JSON)", metavar="SCENARIO", show_default=False)]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="where to write; reports/NAME where left out", metavar="DIR", show_default=False)
]
FormatOption = Annotated[
    Literal["png", "svg", "png,svg", "svg,png"] | None, typer.Option("--format", help="of the figure; png where left out")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON, and nothing else, on stdout")]
Csv = Annotated[bool, typer.Option("--csv", help="print CSV, and nothing else, on stdout")]

# Objects between two collections.  Imports and schemas leave none to collect: looking for some was a seventh of `parsim check`.
_FEW_COLLECTIONS = 100_000


def _seconds(least: float, most: float) -> Callable[[float | None], float | None]:
    """What checks an option that lies between these; nan does not."""

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"must be from {least:g} to {most:,.0f} seconds, not {value:g}.")
        return value

    return check


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"parsim {__version__}\n")
        raise typer.Exit


def _output(json: bool, csv: bool) -> Output:
    from parsim.report.console import Output

    return Output(json=json, csv=csv)


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)] = False) -> None:
    """Options before the command."""


@app.command(epilog="Example:  parsim check scenarios/table5-22b.yaml")
@command
def check(file: Annotated[Path, typer.Argument(help="a scenario file (YAML or JSON)", metavar="FILE", show_default=False)]) -> int:
    """Check a scenario file and report all of its faults at once, as file:line:column: path: message."""
    from parsim.report.console import log, say
    from parsim.scenario import check as faults_of

    faults = faults_of(file)
    for fault in faults:
        say(str(fault))
    log(f"{len(faults)} error{'s' if len(faults) > 1 else ''}" if faults else f"{file}: no errors")
    return WRONG if faults else OK


@app.command(epilog="Example:  parsim schema > scenario.schema.json")
@command
def schema() -> int:
    """Print the JSON Schema of scenario files, for editors."""
    from parsim.report.console import raw
    from parsim.report.files import json_text
    from parsim.scenario import schema as json_schema

    raw(json_text(json_schema()))
    return OK


@app.command("list", epilog="Example:  parsim list models")
@command
def list_rows(
    kind: Annotated[str, typer.Argument(help="accelerators, nodes, fabrics, links, models, stacks, dtypes, schedules ...", metavar="KIND")],
    csv: Csv = False,
) -> int:
    """List what the catalog holds of a kind, a line each."""
    from parsim.report.console import show_table
    from parsim.report.rows import listing

    rows = listing(kind)
    left = [key for row in rows for key in row if key not in ("layers", "hidden", "heads", "kv heads")]
    _output(False, csv).show({}, rows, lambda: show_table(rows, left=left))
    return OK


@app.command(epilog="Example:  parsim show dgx-a100-80gb")
@command
def show(
    name: Annotated[str, typer.Argument(help="a name that `parsim list` prints", metavar="NAME", show_default=False)],
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Show a row of the catalog: every figure with its source."""
    from parsim.report.console import raw, show_table
    from parsim.report.files import csv_text, json_text
    from parsim.report.rows import find_rows

    rows = find_rows(name)
    if json:
        raw(json_text({"name": name, "rows": rows}))
    elif csv:
        raw(csv_text({"kind": kind, **row} for kind, each in rows.items() for row in each))
    else:
        for kind, each in rows.items():
            show_table(each, left=("figure", "value", "source"), title=f"{name} ({kind})")
    return OK


@app.command(epilog="Example:  parsim run scenarios/table5-22b.yaml --layers")
@command
def run(
    scenario: ScenarioFile,
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

    asked = bool(format) or not (json or csv) if figure is None else figure
    formats = (format or "png").split(",") if asked else ()
    return run_scenario(scenario, _output(json, csv), out=out, backend=backend, contention=contention, layers=layers, formats=formats)


@app.command(epilog="Example:  parsim plot scenarios/table5-175b.yaml -o figures")
@command
def plot(scenario: ScenarioFile, out: OutOption = None, backend: BackendOption = "estimate", format: FormatOption = None) -> int:
    """Draw step time and memory of all plans: plans.png (or as --format says) and their data, plans.csv."""
    from parsim.report.running import plot_scenario

    return plot_scenario(scenario, out, backend, (format or "png").split(","))


@app.command(epilog="Example:  parsim verify scenarios/tiny.yaml")
@command
def verify(
    scenario: ScenarioFile,
    time: Annotated[bool, typer.Option("--time", help="time real steps on this machine instead, and compare with the prediction")] = False,
    machine: Annotated[
        Path | None, typer.Option(help="with --time: what `parsim calibrate` wrote; calibrates first where left out", metavar="FILE")
    ] = None,
    csv: Csv = False,
    json: Json = False,
) -> int:
    """Execute each plan with numpy and compare counts, gradients and clocks with the prediction; exit 1 on any difference."""
    if time:
        from parsim.report.calibrating import verify_time

        return verify_time(scenario, machine, _output(json, csv))
    from parsim.report.running import verify_scenario

    return verify_scenario(scenario, _output(json, csv))


@app.command(epilog="Example:  parsim execute scenarios/digits-mlp.yaml --plan data_parallel --steps 20")
@command
def execute(
    scenario: ScenarioFile,
    plan: Annotated[list[str] | None, typer.Option(help="only this plan; may be repeated", metavar="PLAN")] = None,
    steps: Annotated[
        int | None, typer.Option(help="optimizer steps; the epochs of `training` where left out, or 3", min=1, max=10**9)
    ] = None,
    every: Annotated[int | None, typer.Option(help="print each n-th step; an epoch, or a twentieth of all, where left out", min=1)] = None,
    transport: Annotated[TransportChoice, typer.Option(help="a process a rank, mpiexec's processes, or all in one")] = "shared_memory",
    precision: Annotated[Precision, typer.Option(help="of the numbers")] = "float64",
    seed: Annotated[
        int | None, typer.Option(help="of weights, data and masks; the scenario's where left out", min=0, max=2**32 - 1)
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="seconds after which a run is ended", callback=_seconds(0.1, 10**7), metavar="SECONDS")
    ] = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Train the scenario's model with numpy, each plan on its ranks: the loss of each step, and what the ranks counted."""
    from parsim.report.executing import execute_scenario

    options: dict[str, Any] = {"transport": transport, "seed": seed, "precision": precision, "deadline_s": deadline}
    return execute_scenario(scenario, _output(json, csv), plans=plan or (), num_steps=steps, every=every, **options)


@app.command(epilog="Example:  parsim calibrate --out machine.yaml;  then in a scenario  cluster: {node: file:machine.yaml}, dtype: fp32")
@command
def calibrate(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="where to write; machine.yaml where left out", metavar="FILE")] = None,
    seconds: Annotated[float, typer.Option(help="how long to take samples", callback=_seconds(1, 3600), metavar="SECONDS")] = 40,
) -> int:
    """Measure this machine's cores and write them as a node that a scenario can name, or paste; exit 1 where too few samples are clean."""
    from parsim.report.calibrating import calibrate_machine

    return calibrate_machine(out, seconds)


@app.command(epilog="Examples:  parsim explain scenarios/table5-22b.yaml full up_gemm;  parsim explain scenarios/table5-22b.yaml full mfu")
@command
def explain(
    scenario: ScenarioFile,
    plan: Annotated[str, typer.Argument(help="a plan of the scenario", metavar="PLAN", show_default=False)],
    op: Annotated[str, typer.Argument(help="a task, the start of its name, forward, backward, or a figure such as mfu", metavar="OP")],
) -> int:
    """Explain a task of a plan (expression, shapes, counts, what bounds it, sources), or what a figure means."""
    from parsim.report.console import lines, say
    from parsim.report.explain import explain as notes_on
    from parsim.scenario import load

    for note in notes_on(load(scenario), plan, op):
        say(note.title)
        lines(note.lines)
    return OK


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

    return rank_scenario(scenario, _output(json, csv), top=top, space=space, runnable=runnable)


@app.command(epilog="Example:  parsim validate tests/witnesses/table5.csv --where source_family=papers")
@command
def validate(
    cases: Annotated[Path, typer.Argument(help="a table of measured runs", metavar="CASES.csv", show_default=False)],
    where: Annotated[list[str] | None, typer.Option(help="only rows with this value; may be repeated", metavar="COLUMN=VALUE")] = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Predict each row of a table of measurements and print the errors of step time and peak memory."""
    from parsim.report.running import validate_cases

    return validate_cases(cases, where or [], _output(json, csv))


def main() -> None:
    """The command line as a program."""
    gc.set_threshold(_FEW_COLLECTIONS)
    later("numpy")  # a quarter of `parsim check`, which computes nothing
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where the shell closed them
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="replace")
    raise SystemExit(status(_run) or OK)


def _nowhere() -> TextIO:
    """A stream that nobody reads, open until the process ends."""
    return open(os.devnull, "w")


def _run() -> int:
    try:
        app(prog_name="parsim")
    except SystemExit as end:
        if isinstance(end.code, str):
            raise  # a text, which the interpreter prints before it ends with 1
        code = end.code or OK
        return leave() if code == FAILED and not isinstance(end, Ended) else code  # so typer ends where nobody reads its help any more
    return OK


if __name__ == "__main__":
    main()
