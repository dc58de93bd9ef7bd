"""`parsim check`, `schema`, `list` and `show`: what may stand in a scenario, and what the catalog holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from parsim.commands.app import Csv, Json, app, output_of, takes_scenario
from parsim.commands.completing import kinds, rows_of
from parsim.errors import ScenarioError
from parsim.report.manners import OK, WRONG, command
from parsim.report.ways_out import way_out

if TYPE_CHECKING:
    from parsim.scenario.source import Source


_MOST_FAULTS = 1000  # lines; the last one on stderr says how many there are


@app.command(epilog="Example:  parsim check scenarios/table5-22b.yaml")
@command
@takes_scenario(file_only=True)
def check(source: Source) -> int:
    """Check a scenario file and report all of its faults at once, as file:line:column: path: message."""
    from parsim.report.console import log, say

    faults = source.faults()
    for fault in faults[:_MOST_FAULTS]:
        say(str(fault))
    log(f"{len(faults)} error{'s' if len(faults) > 1 else ''}" if faults else f"{source}: no errors")
    if faults and (said := way_out(ScenarioError.of(faults), "\n".join(map(str, faults)), "check")):
        log(said)
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
    kind: Annotated[
        str,
        typer.Argument(
            help="accelerators, nodes, fabrics, links, models, stacks, dtypes, schedules, targets ...", metavar="KIND", autocompletion=kinds
        ),
    ],
    csv: Csv = False,
) -> int:
    """List what the catalog holds of a kind, a line each."""
    from parsim.report.console import show_table
    from parsim.report.rows import listing

    rows = listing(kind)
    left = [key for row in rows for key in row if key not in ("layers", "hidden", "heads", "kv heads")]
    output_of(False, csv).show({}, rows, lambda: show_table(rows, left=left))
    return OK


@app.command(epilog="Example:  parsim show dgx-a100-80gb")
@command
def show(
    name: Annotated[
        str, typer.Argument(help="a name that `parsim list` prints", metavar="NAME", show_default=False, autocompletion=rows_of())
    ],
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Show a row of the catalog: every figure with its source."""
    from parsim.plain import csv_text
    from parsim.report.console import raw, show_table
    from parsim.report.files import json_text
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
