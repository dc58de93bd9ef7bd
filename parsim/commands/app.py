"""The program `parsim`, and the arguments that several of its commands share."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_type_hints

import typer
import typer.core

from parsim import __version__
from parsim.commands.completing import plans, precisions, rows_of

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
    epilog="Examples:  parsim run scenarios/table5-22b.yaml;  parsim plan --model llama3-8b --node a100-40gb --num-devices 16;  "
    "parsim size --model llama3-8b --node h100 --tokens 1T --within '30 days';  "
    "parsim whatif scenarios/table5-22b.yaml  (what if the network were twice as fast?)",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


BackendOption = Annotated[Literal["estimate", "simulate"], typer.Option(help="arithmetic, or events for the step time")]
TransportChoice = Literal["shared_memory", "mpi", "lockstep"]
Precision = Literal["float64", "float32"]
_FILE: Final = typer.Argument(help="a scenario file (YAML or JSON)", metavar="SCENARIO", show_default=False)
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help='set a key, in rows of the catalog, too, e.g. batch.global_batch=512; "2x" is twice a figure; may be repeated',
        metavar="PATH=VALUE",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="where to write; reports/NAME where left out", metavar="DIR", show_default=False)
]
FormatOption = Annotated[
    Literal["png", "svg", "png,svg", "svg,png"] | None, typer.Option("--format", help="of the figure; png where left out")
]
SpaceOption = Annotated[
    str | None, typer.Option(help="the plan with open axes; needed where there are several", metavar="PLAN", autocompletion=plans)
]
Runnable = Annotated[bool, typer.Option("--runnable", help="leave out what the software stack cannot run")]
HeadroomOption = Annotated[str, typer.Option(help="the share of each memory that is to stay free, e.g. 10%", metavar="SHARE")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, and nothing else, on stdout")]
Csv = Annotated[bool, typer.Option("--csv", help="print CSV, and nothing else, on stdout")]


def _in_place_of_a_file(kind: Any, help: str, metavar: str, offer: Callable[[str], list[str]] | None = None) -> Any:
    least = 1 if kind is int else None
    panel = "Without a file, or in place of what it says"
    return Annotated[kind | None, typer.Option(help=help, metavar=metavar, min=least, rich_help_panel=panel, autocompletion=offer)]


_NODES: Final = rows_of("nodes", "accelerators")
# What stands for a scenario file.
_OPTIONS: Final = {
    "model": _in_place_of_a_file(str, "a model of the catalog, or hf:path/to/config.json", "NAME", rows_of("models")),
    "node": _in_place_of_a_file(str, "a node of the catalog, or an accelerator: the usual node of it", "NAME", _NODES),
    "num_devices": _in_place_of_a_file(int, "how many devices; a node's where left out", "N"),
    "num_nodes": _in_place_of_a_file(int, "how many nodes", "N"),
    "fabric": _in_place_of_a_file(str, "the network between nodes; the node's usual one where left out", "NAME", rows_of("fabrics")),
    "global_batch": _in_place_of_a_file(int, "sequences of a step; about 4 M tokens where left out", "N"),
    "sequence_length": _in_place_of_a_file(int, "tokens of a sequence; the model's longest, at most 8192, where left out", "N"),
    "dtype": _in_place_of_a_file(str, "the precision; bf16 where left out", "NAME", precisions),
    "stack": _in_place_of_a_file(str, "the software", "NAME", rows_of("stacks")),
}


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def takes_scenario(*, file_only: bool = False, foreign: str = "") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """What makes a command of a function whose first argument is a Source.

    The command takes a file with --set, or, unless `file_only`, options that stand for one; `foreign`: options beside a file of that kind.
    """

    def around(work: Callable[..., int]) -> Callable[..., int]:
        hints = get_type_hints(work, localns={"Source": object}, include_extras=True)
        own = {name: each.replace(annotation=hints[name]) for name, each in list(inspect.signature(work).parameters.items())[1:]}
        options = {} if file_only else _OPTIONS
        needed = typer.Argument(help=foreign, metavar="FILE", show_default=False) if foreign else _FILE if file_only else None
        file = _parameter("scenario", Annotated[Path, needed]) if needed else _parameter("scenario", Annotated[Path | None, _FILE], None)
        shared = [_parameter(name, kind, None) for name, kind in {"sets": SetOption, **options}.items()]

        @functools.wraps(work)
        def command(**given: Any) -> int:
            from parsim.scenario.source import Source

            told = {name: given.pop(name) for name in options}
            return work(Source(given.pop("scenario"), told, given.pop("sets") or ()), **given)

        every = [file, *(each.replace(kind=file.kind) for each in own.values()), *shared]
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in every} | {"return": int}
        return command

    return around


def takes_options(work: Callable[..., int]) -> Callable[..., int]:
    """What makes a command of a function whose first argument is what stands for a scenario file, by name; None where it is not given."""
    hints = get_type_hints(work, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in list(inspect.signature(work).parameters.items())[1:]]

    @functools.wraps(work)
    def command(**given: Any) -> int:
        told = {name: given.pop(name) for name in _OPTIONS}
        return work(told, **given)

    every = [*own, *(_parameter(name, kind, None) for name, kind in _OPTIONS.items())]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in every} | {"return": int}
    return command


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


def formats_of(format: str | None, wanted: bool) -> tuple[str, ...]:
    """The formats of a figure: none where it is not wanted, PNG where none is named."""
    return tuple((format or "png").split(",")) if wanted else ()


def output_of(json: bool, csv: bool) -> Output:
    """What a command prints to: tables, or one of these and nothing else."""
    from parsim.report.console import Output

    return Output(json=json, csv=csv)


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version, is_eager=True)] = False) -> None:
    """Options before the command."""
