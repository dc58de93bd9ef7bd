"""`parsim calibrate` and `parsim verify --time`: what was sampled, how well laws fit it, and predictions against the clock."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, Progress, TextColumn

from parsim import units
from parsim.calibrate.calibration import SECONDS, Calibration, calibrate
from parsim.calibrate.machine import build_node, load_node, text_of
from parsim.calibrate.samples import LawFit
from parsim.calibrate.wall import RULE, StepTime, time_plans
from parsim.cluster.accelerator import KernelLaw
from parsim.report.console import console, log, percent, raw, say, show_table
from parsim.report.files import csv_text, json_text, prepare, write
from parsim.report.running import one_format, progress
from parsim.scenario import load

if TYPE_CHECKING:
    from parsim.calibrate.calibration import Progress as Told

DEFAULT: Final = Path("machine.yaml")


def calibrate_machine(out: Path | None, seconds: float) -> int:
    """The exit status: 0 with the row of this machine in a file, or 1 without one where clean samples were too few.

    Raises:
        ParsimError: this machine cannot be timed.
        OSError: the file cannot be written.
    """
    path = out or DEFAULT
    prepare(path.resolve().parent)  # before the work
    calibration = _calibrated(seconds)
    if calibration.lacking:
        return 1
    _show(calibration)
    write(path, text_of(calibration.row, path.name))
    say(f"\n{path}: this machine's cores.  A scenario beside it runs on them with cluster: {{node: file:{path.name}}}, dtype: fp32")
    return 0


def verify_time(path: Path, machine: Path | None, *, csv: bool = False, json: bool = False) -> int:
    """The exit status: 0, or 1 where the machine could not be calibrated; an error of a prediction is a result, not a failure.

    Raises:
        ParsimError: the scenario or the machine's file is wrong, a worker died, or this machine cannot be timed.
    """
    one_format(json=json, csv=csv)
    scenario = load(path)
    if machine is None:
        calibration = _calibrated(SECONDS)
        if calibration.lacking:
            return 1
        node = build_node(calibration.row)
    else:
        node = load_node(machine)
    found = list(time_plans(scenario, node, progress=progress(len(scenario.plans))))
    documents = [{**asdict(each), "error": each.error} for each in found]
    if json:
        raw(json_text({"scenario": scenario.name, "machine": node.name, "rule": RULE, "plans": documents}))
    elif csv:
        raw(csv_text(documents))
    else:
        show_table([_line(each) for each in found], left=("plan", "verdict"), title=f"step time on {node.name}")
    log(RULE)
    return 0


def _line(each: StepTime) -> dict[str, str]:
    def shown(seconds: float | None) -> str:
        return "" if seconds is None else units.format(seconds, "s")

    return {
        "plan": each.plan,
        "ranks": str(each.num_ranks),
        "predicted": shown(each.predicted_s),
        "measured": shown(each.measured_s),
        "error": "" if each.error is None else percent(each.error, signed=True),
        "kept": str(each.num_kept),
        "dropped": str(each.num_dropped),
        "verdict": f"SKIP: {each.skipped}" if each.skipped else "measured",
    }


def _calibrated(seconds: float) -> Calibration:
    with _bar() as told:
        calibration = calibrate(seconds, progress=told)
    if calibration.lacking:
        log(f"too few clean samples of: {', '.join(calibration.lacking)}")
        log("  Other work kept the cores busy, or other guests share them; nothing was written.")
        log("  Try again when the machine is quiet, or with more --seconds.")
    return calibration


@contextmanager
def _bar() -> Iterator[Told | None]:
    """What shows progress on stderr; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), console=console(stderr=True), transient=True) as bar:
        tasks = {}

        def told(what: str, done: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=done)

        yield told


def _while_busy(fit: LawFit[KernelLaw]) -> dict[str, str]:
    return {"kept (all)": str(fit.num_kept), "dropped (all)": str(fit.num_dropped), "error (all)": percent(fit.median_error)}


def _show(calibration: Calibration) -> None:
    busy = {fit.name: fit for fit in calibration.busy_kernels}
    rows = [
        {
            "kernel": fit.name,
            "shapes": str(fit.num_cases),
            "kept": str(fit.num_kept),
            "dropped": str(fit.num_dropped),
            "call": units.format(fit.law.call_s, "s"),
            "median error": percent(fit.median_error),
            **(_while_busy(busy[fit.name]) if fit.name in busy else {}),
        }
        for fit in calibration.kernels
    ]
    show_table(rows, left=("kernel",), title="kernels, with one core at work" + (" and with all" if busy else ""))
    rows = [
        {
            "exchange": fit.name,
            "payloads": str(fit.num_cases),
            "kept": str(fit.num_kept),
            "dropped": str(fit.num_dropped),
            "start": units.format(fit.law.start_s + fit.law.step_s, "s"),
            "bandwidth": units.format(fit.law.ring_bytes_per_s, "bytes/s"),
            "median error": percent(fit.median_error),
        }
        for fit in calibration.links
    ]
    if rows:
        show_table(rows, left=("exchange",), title="exchanges between processes")
