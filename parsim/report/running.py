"""`parsim run` and `parsim plot`: predict, show, write."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from parsim.report import results as made
from parsim.report.console import Output, log, show_table
from parsim.report.files import csv_text, folder, json_text, prepare, write
from parsim.report.layers import LayerRow, layer_rows
from parsim.report.sharing import show_sharing
from parsim.report.summary import show_layers, show_results, show_unfit
from parsim.scenario import Scenario, load


def run_scenario(
    path: Path, output: Output, *, out: Path | None, backend: str, contention: bool = False, layers: bool = False, figure: bool = True
) -> int:
    """The exit status: 0, or 1 where no plan fits its device.

    Raises:
        ParsimError: the scenario is wrong.
        OSError: a file cannot be written.
    """
    scenario = load(path)
    directory = prepare(out or folder(scenario.name))
    results = _predict(scenario, backend, contention=contention)
    rows = {each.estimate.name: layer_rows(results.scenario, each.estimate) for each in results.plans} if layers else {}
    document, table = made.document(results), made.table(results)
    for plan in document["plans"] if rows else ():
        plan["layers"] = [row.document() for row in rows[plan["name"]]]
    output.show(document, table, lambda: _show_tables(results, rows, contention=contention))
    written = [write(directory / "results.json", json_text(document)), write(directory / "results.csv", csv_text(table))]
    if rows:
        written.append(write(directory / "layers.csv", csv_text(row.document() for each in rows.values() for row in each)))
    _log_files(directory, [*written, *(_draw(results, directory) if figure else ())])
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
    _log_files(directory, _draw(_predict(scenario, backend), directory))
    return 0


def progress(total: int) -> Callable[[str], None] | None:
    """What tells a waiting person on stderr which of several plans is at work; None where nobody watches."""
    return (lambda name: log(f"  {name} ...")) if total > 1 and sys.stderr.isatty() else None


def _predict(scenario: Scenario, backend: str, *, contention: bool = False) -> made.Results:
    tell = progress(len(scenario.plans)) if backend == "simulate" else None
    results = made.predict(scenario, backend, contention=contention, progress=tell)
    for name in scenario.spaces:
        log(f"plan '{name}' leaves axes open; rank its choices with: parsim plan {scenario.path} --space {name}")
    return results


def _show_tables(results: made.Results, rows: dict[str, list[LayerRow]], *, contention: bool) -> None:
    show_results(results)
    for each in rows.values():
        show_layers(each)
    if results.backend == "simulate":
        events = [{"plan": each.estimate.name, "events": f"{each.num_events:,}"} for each in results.plans]
        show_table(events, left=("plan",), title="simulated")
    if contention:
        show_sharing(results)


def _draw(results: made.Results, directory: Path) -> list[Path]:
    from parsim.report.figure import save

    return save(results, directory)


def _log_files(directory: Path, written: list[Path]) -> None:
    log(f"wrote {directory}/{{{','.join(path.name for path in written)}}}")
