"""`parsim calibrate` and `parsim verify --time`: what was sampled, how well laws fit it, and predictions against the clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from msgspec.structs import asdict

from parsim import units
from parsim.calibrate.calibration import SECONDS, Calibration, calibrate
from parsim.calibrate.machine import build_node, load_node, text_of
from parsim.calibrate.samples import LawFit
from parsim.calibrate.wall import RULE, StepTime, time_plans
from parsim.report.console import Output, bar, log, patience, say, show_table
from parsim.report.files import prepare_file, write
from parsim.report.manners import unwind
from parsim.report.results import check_plans
from parsim.report.running import progress
from parsim.scenario.source import Source
from parsim.units import percent

DEFAULT: Final = Path("machine.yaml")


def calibrate_machine(out: Path | None, seconds: float) -> int:
    """The exit status: 0 with the row of this machine in a file, or 1 without one where clean samples were too few.

    Raises:
        ParsimError: this machine cannot be timed.
        OSError: the file cannot be written.
    """
    path = prepare_file(out or DEFAULT)  # before the work
    unwind()
    calibration = _calibrate(seconds)
    if calibration.lacking:
        return 1
    _show(calibration)
    write(path, text_of(calibration.row, path.name))
    say(f"\n{path}: this machine's cores.  A scenario beside it runs on them with cluster: {{node: file:{path.name}}}, dtype: fp32")
    return 0


def verify_time(source: Source, machine: Path | None, output: Output) -> int:
    """The exit status: 0, or 1 where the machine could not be calibrated; an error of a prediction is a result, not a failure.

    Raises:
        ParsimError: the scenario or the machine's file is wrong, a worker died, or this machine cannot be timed.
    """
    scenario = source.load()
    check_plans(scenario)
    unwind()
    if machine is None:
        calibration = _calibrate(SECONDS)
        if calibration.lacking:
            return 1
        node = build_node(calibration.row)
    else:
        node = load_node(machine)
    with patience(f"timing the plans of {source}"):
        found = list(time_plans(scenario, node, progress=progress(len(scenario.plans))))
    documents = [{**asdict(each), "error": each.error} for each in found]
    document = {"scenario": scenario.name, "machine": node.name, "rule": RULE, "plans": documents}
    lines, title = [_line(each) for each in found], f"step time on {node.name}"
    output.show(document, documents, lambda: show_table(lines, left=("plan", "verdict"), title=title))
    log(RULE)
    return 0


def _line(each: StepTime) -> dict[str, str]:
    times = {"predicted": each.predicted_s, "measured": each.measured_s}
    return {
        "plan": each.plan,
        "ranks": str(each.num_ranks),
        **{name: "" if seconds is None else units.format(seconds, "s") for name, seconds in times.items()},
        "error": "" if each.error is None else percent(each.error, signed=True),
        "kept": str(each.num_kept),
        "dropped": str(each.num_dropped),
        "verdict": f"SKIP: {each.skipped}" if each.skipped else "measured",
    }


def _calibrate(seconds: float) -> Calibration:
    with patience(f"taking samples for about {units.format(seconds, 's')}"), bar() as show:
        calibration = calibrate(seconds, progress=show)
    if calibration.lacking:
        log(f"too few clean samples of: {', '.join(calibration.lacking)}")
        log("  Other work kept the cores busy, or other guests share them; nothing was written.")
        log("  Try again when the machine is quiet, or with more --seconds.")
    return calibration


def _show(calibration: Calibration) -> None:
    busy = {fit.name: fit for fit in calibration.busy_kernels}
    rows = []
    for fit in calibration.kernels:
        row = _row("kernel", "shapes", fit, {"call": units.format(fit.law.call_s, "s")})
        if other := busy.get(fit.name):
            row |= {"kept (all)": str(other.num_kept), "dropped (all)": str(other.num_dropped), "error (all)": percent(other.median_error)}
        rows.append(row)
    show_table(rows, left=("kernel",), title="kernels, with one core at work" + (" and with all" if busy else ""))
    rows = []
    for link in calibration.links:
        start, rate = link.law.start_s + link.law.step_s, link.law.ring_bytes_per_s
        rows.append(_row("exchange", "payloads", link, {"start": units.format(start, "s"), "bandwidth": units.format(rate, "bytes/s")}))
    if rows:
        show_table(rows, left=("exchange",), title="exchanges between processes")


def _row(kind: str, cases: str, fit: LawFit[Any], law: dict[str, str]) -> dict[str, str]:
    counts = {cases: str(fit.num_cases), "kept": str(fit.num_kept), "dropped": str(fit.num_dropped)}
    return {kind: fit.name, **counts, **law, "median error": percent(fit.median_error)}
