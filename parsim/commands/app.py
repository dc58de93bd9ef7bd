"""The program `parsim`, and the arguments that several of its commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from parsim import __version__

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
HeadroomOption = Annotated[str, typer.Option(help="the share of each memory that is to stay free, e.g. 10%", metavar="SHARE")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, and nothing else, on stdout")]
Csv = Annotated[bool, typer.Option("--csv", help="print CSV, and nothing else, on stdout")]


def seconds_from(least: float, most: float) -> Callable[[float | None], float | None]:
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


def output_of(json: bool, csv: bool) -> Output:
    """What a command prints to: tables, or one of these and nothing else."""
    from parsim.report.console import Output

    return Output(json=json, csv=csv)


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)] = False) -> None:
    """Options before the command."""
