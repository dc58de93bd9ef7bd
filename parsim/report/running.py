"""`parsim run` and `parsim plot`: predict, show, write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parsim.errors import ParsimError
from parsim.report import results as made
from parsim.report.console import log, raw, show_table
from parsim.report.files import csv_text, folder, json_text, prepare, write
from parsim.report.layers import LayerRow, layer_rows
from parsim.report.sharing import show_sharing
from parsim.report.summary import show_layers, show_results, show_unfit
from parsim.scenario import Scenario, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of `parsim run`."""

    out: Path | None = None
    backend: str = "estimate"
    contention: bool = False
    json: bool = False
    csv: bool = False
    layers: bool = False
    figure: bool = True


def run_scenario(path: Path, wanted: Wanted) -> int:
    """The exit status: 0, or 1 where no plan fits its device.

    Raises:
        ParsimError: the scenario is wrong, or JSON and CSV are both asked for.
        OSError: a file cannot be written.
    """
    one_format(json=wanted.json, csv=wanted.csv)
    scenario = load(path)
    directory = prepare(wanted.out or folder(scenario.name))
    results = _predicted(scenario, wanted.backend, contention=wanted.contention)
    rows = {each.estimate.name: layer_rows(results.scenario, each.estimate) for each in results.plans} if wanted.layers else {}
    document = _with_layers(made.document(results), rows)
    _print(results, rows, document, wanted)
    written = [write(directory / "results.json", json_text(document)), write(directory / "results.csv", csv_text(made.table(results)))]
    if rows:
        written.append(write(directory / "layers.csv", csv_text(row.document() for each in rows.values() for row in each)))
    if wanted.figure:
        written += _draw(results, directory)
    _tell(directory, written)
    if not results.fits:
        show_unfit(results)
    return 0 if results.fits else 1


def plot_scenario(path: Path, out: Path | None, backend: str) -> int:
    """The exit status of drawing: 0.

    Raises:
        ParsimError: the scenario is wrong.
        OSError: a file cannot be written.
    """
    scenario = load(path)
    directory = prepare(out or folder(scenario.name))
    _tell(directory, _draw(_predicted(scenario, backend), directory))
    return 0


def one_format(*, json: bool, csv: bool) -> None:
    """Nothing.

    Raises:
        ParsimError: both formats are asked for, and there is one stdout.
    """
    if json and csv:
        raise ParsimError("--json and --csv both print on stdout", remedy="Ask for one of them.")


def progress(total: int) -> Callable[[str], None] | None:
    """What tells a waiting person on stderr which of several plans is at work; None where nobody watches."""
    return (lambda name: log(f"  {name} ...")) if total > 1 and sys.stderr.isatty() else None


def _predicted(scenario: Scenario, backend: str, *, contention: bool = False) -> made.Results:
    tell = progress(len(scenario.plans)) if backend == "simulate" else None
    results = made.predict(scenario, backend, contention=contention, progress=tell)
    for name in scenario.spaces:
        log(f"plan '{name}' leaves axes open; rank its choices with: parsim plan {scenario.path} --space {name}")
    return results


def _with_layers(document: dict[str, Any], rows: dict[str, list[LayerRow]]) -> dict[str, Any]:
    for plan in document["plans"] if rows else ():
        plan["layers"] = [row.document() for row in rows[plan["name"]]]
    return document


def _print(results: made.Results, rows: dict[str, list[LayerRow]], document: dict[str, Any], wanted: Wanted) -> None:
    if wanted.json:
        raw(json_text(document))
    elif wanted.csv:
        raw(csv_text(made.table(results)))
    else:
        show_results(results)
        for each in rows.values():
            show_layers(each)
        if results.backend == "simulate":
            events = [{"plan": each.estimate.name, "events": f"{each.num_events:,}"} for each in results.plans]
            show_table(events, left=("plan",), title="simulated")
        if wanted.contention:
            show_sharing(results)


def _draw(results: made.Results, directory: Path) -> list[Path]:
    from parsim.report.figure import save

    return save(results, directory)


def _tell(directory: Path, written: list[Path]) -> None:
    log(f"wrote {directory}/{{{','.join(path.name for path in written)}}}")
