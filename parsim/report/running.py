"""`parsim run`, `plot` and `verify`: predict, show, write.  The tables for people are in summary.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import asdict

from parsim.plain import csv_text
from parsim.report import results as made
from parsim.report.console import Output, log, log_files, patience, say, show_table
from parsim.report.disturbing import show_disturbed
from parsim.report.files import folder, json_text, prepare, write
from parsim.report.layers import LayerRow, layer_rows
from parsim.report.manners import unwind
from parsim.report.summary import show_layers, show_results, show_sharing
from parsim.scenario import Scenario
from parsim.scenario.source import Source

if TYPE_CHECKING:
    from parsim.planner.workers import WorkersRow


def run_scenario(
    source: Source, output: Output, *, out: Path | None, backend: str, contention: bool, layers: bool, formats: Sequence[str]
) -> int:
    """The exit status: 0, or 1 where no plan fits its device.  No figure is drawn without `formats`.

    Raises:
        ParsimError: the scenario is wrong.
        OSError: a file cannot be written.
    """
    with patience(f"reading {source}"):
        scenario = source.load()
    directory = prepare(out or folder(scenario.name))
    results = _predict(scenario, backend, contention=contention)
    rows = {each.estimate.name: layer_rows(results.scenario, each.estimate) for each in results.plans} if layers else {}
    document, table = made.document(results), made.table(results)
    workers = _rows_of_workers(scenario, curves=bool(formats))
    if workers:
        document["workers"] = [row.to_dict() for row in workers]
    for plan in document["plans"] if rows else ():
        plan["layers"] = [asdict(row) for row in rows[plan["name"]]]
    output.show(document, table, lambda: _show_tables(results, rows, workers, contention=contention))
    written = [write(directory / "results.json", json_text(document)), write(directory / "results.csv", csv_text(table))]
    if rows:
        written.append(write(directory / "layers.csv", csv_text(asdict(row) for each in rows.values() for row in each)))
    log_files(directory, [*written, *_draw(results, workers, directory, formats)])
    fits = any(result.estimate.fits for result in results.plans)
    if not fits:
        _log_remedies(results)
    return 0 if fits else 1


def _log_remedies(results: made.Results) -> None:
    """What would make the nearest plan fit; the planner is imported only where somebody needs it."""
    from parsim.planner import remedies
    from parsim.report.choosing import remedy_lines

    nearest = min((result.estimate for result in results.plans), key=lambda each: each.fill)
    told = remedy_lines(results.scenario, remedies(results.scenario, nearest.plan), nearest.name, elsewhere=False)
    log("\n".join(("no plan fits its device and host", *told)))


def plot_scenario(source: Source, out: Path | None, backend: str, formats: Sequence[str]) -> int:
    """The exit status of drawing: 0.

    Raises:
        ParsimError: the scenario is wrong.
        OSError: a file cannot be written.
    """
    scenario = source.load()
    directory = prepare(out or folder(scenario.name))
    results = _predict(scenario, backend)
    log_files(directory, _draw(results, _rows_of_workers(scenario, curves=True), directory, formats))
    return 0


def _rows_of_workers(scenario: Scenario, *, curves: bool) -> list[WorkersRow]:
    """Plans of replicas beside those of parameter servers; nothing is imported where none has them."""
    if not any(plan.is_served for plan in scenario.plans.values()):
        return []
    from parsim.report.serving import workers_rows

    return workers_rows(scenario, curves=curves)


def _draw(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    """The files of all figures of a scenario; nothing that draws is imported for those that it does not have."""
    return [path for figure in _FIGURES for path in figure(results, workers, directory, formats)]


def _draw_plans(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    if not formats:
        return []
    from parsim.report.figure import save

    return save(results, directory, formats)


def _draw_feed(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    fed = [each.fed for each in results.plans if each.fed]
    if not (fed and formats):
        return []
    from parsim.report.feed_figure import save

    storage, num_nodes = results.scenario.storage, results.scenario.cluster.num_nodes
    rate = storage.read_rate(num_nodes) if storage else math.inf
    return save(fed, None if rate == math.inf else rate, directory, formats)


def _draw_goodput(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    if results.scenario.checkpoint is None or not formats:
        return []
    from parsim.report.goodput_figure import save

    return save(results, directory, formats)


def _draw_disturbance(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    """The CSV in any case: single steps stand nowhere else."""
    disturbed = [each.disturbed for each in results.plans if each.disturbed]
    if not disturbed:
        return []
    from parsim.report.distributions import save

    return save(disturbed, directory, formats)


def _draw_servers(results: made.Results, workers: Sequence[WorkersRow], directory: Path, formats: Sequence[str]) -> list[Path]:
    if not (workers and formats):
        return []
    from parsim.report.serving import save_workers

    return save_workers(workers, directory, formats)


_FIGURES: Final = (_draw_plans, _draw_feed, _draw_goodput, _draw_disturbance, _draw_servers)  # each none where a scenario does not say so


def progress(total: int) -> Callable[[str], None] | None:
    """What tells on stderr which of several plans is at work; None for one alone."""
    return (lambda name: log(f"  {name} ...")) if total > 1 else None


def _predict(scenario: Scenario, backend: str, *, contention: bool = False) -> made.Results:
    results = made.predict(scenario, backend, contention=contention, progress=progress(len(scenario.plans)))
    for name in scenario.spaces:
        log(f"plan '{name}' leaves axes open; rank its choices with: parsim plan {scenario.arguments} --space {name}")
    return results


def _show_tables(results: made.Results, rows: dict[str, list[LayerRow]], workers: Sequence[WorkersRow], *, contention: bool) -> None:
    show_results(results)
    if workers:
        from parsim.report.serving import show_workers

        show_workers(results.scenario, workers)
    for each in rows.values():
        show_layers(each)
    if results.backend == "simulate":
        events = [{"plan": each.estimate.name, "events": f"{each.num_events:,}"} for each in results.plans]
        show_table(events, left=("plan",), title="simulated")
    if contention:
        show_sharing(results)
    show_disturbed([each.disturbed for each in results.plans if each.disturbed])


def verify_scenario(source: Source, output: Output) -> int:
    """The exit status: 0, or 1 where a check found a difference.

    Raises:
        ParsimError: the scenario is wrong.
    """
    from parsim.verify import verify
    from parsim.verify.shrink import RULE

    scenario = source.load()
    made.check_plans(scenario)
    unwind()
    checks = verify(scenario, progress=progress(len(scenario.plans)))
    failed = sum(not check.ok for check in checks)
    rows = [asdict(check) for check in checks]
    lines = [f"{'ok    ' if check.ok else 'FAILED'} {check.plan}: {check.quantity}: {check.detail}" for check in checks]
    output.show({"scenario": scenario.name, "ok": not failed, "checks": rows}, rows, lambda: say("\n".join(lines)))
    if any("(shrunk" in check.plan for check in checks):
        log(f"shrunk: {RULE}")
    log(f"{len(checks)} checks, {failed} failed")
    return 1 if failed else 0
