"""`parsim init` and `doctor`: a first scenario, and whether the installation is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parsim.commands.app import Json, app, takes_options
from parsim.commands.completing import examples
from parsim.report.manners import command


@app.command(
    epilog="Examples:  parsim init --model llama3-8b --node a100-40gb --num-devices 16 -o mine.yaml;  parsim init --example mlp;  "
    "parsim init  (asks)"
)
@command
@takes_options
def init(
    told: dict[str, str | int | None],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the file to write; scenario.yaml, or the example's name", metavar="FILE")
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            help="instead, what trains here in miniature: softmax, regression, mlp, images, gpt, translation, roles, texts or sentiment",
            metavar="NAME",
            autocompletion=examples,
        ),
    ] = None,
) -> int:
    """Write a scenario whose comments say what each line means and what to ask next; nothing is overwritten.

    Without --model and --node it asks, where stdin is a terminal.
    """
    from parsim.report.starting import write_example, write_scenario

    if example is not None:
        if given := [f"--{name.replace('_', '-')}" for name, value in told.items() if value is not None]:
            raise typer.BadParameter(f"is a whole scenario; leave {', '.join(given)} out, and edit the file", param_hint="--example")
        return write_example(example, out)
    return write_scenario(told, out)


@app.command(epilog="Example:  parsim doctor")
@command
def doctor(json: Json = False) -> int:
    """Check the installation: dependencies and extras, MPI, cores, folders, and that a prediction equals an executed step.

    Exit 1 where parsim cannot do its work; what an extra lacks is said, with the command that installs it.
    """
    from parsim.report.doctoring import examine

    return examine(as_json=json)
