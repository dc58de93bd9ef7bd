"""`parsim verify` and `parsim validate`: the checks against executed numbers and against measured runs, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsim.report.console import Output, log, percent, say, show_table
from parsim.report.running import progress
from parsim.scenario import load

if TYPE_CHECKING:
    from parsim.verify.contract import Check


def verify_scenario(path: Path, output: Output) -> int:
    """The exit status: 0, or 1 where a check found a difference.

    Raises:
        ParsimError: the scenario is wrong.
    """
    from parsim.verify import verify
    from parsim.verify.shrink import RULE

    scenario = load(path)
    checks = verify(scenario, progress=progress(len(scenario.plans)))
    failed = sum(not check.ok for check in checks)
    rows = [asdict(check) for check in checks]
    output.show({"scenario": scenario.name, "ok": not failed, "checks": rows}, rows, lambda: _show_checks(checks))
    if any("(shrunk" in check.plan for check in checks):
        log(f"shrunk: {RULE}")
    log(f"{len(checks)} checks, {failed} failed")
    return 1 if failed else 0


def _show_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        say(f"{'ok    ' if check.ok else 'FAILED'} {check.plan}: {check.quantity}: {check.detail}")


def validate_cases(path: Path, where: Sequence[str], output: Output) -> int:
    """The exit status: 0; a large error is a result, not a failure.

    Raises:
        ParsimError: the table or a condition cannot be read.
    """
    from parsim.validate import validate

    document = validate(path, tuple(where)).to_json()
    output.show(document, document["rows"], lambda: _show_validation(document["rows"], document["summary"]))
    return 0


def _show_validation(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Error statistics, of all rows first, then of each family of sources; and why rows were not predicted."""
    groups = {"all": summary["all"], **summary["by_source_family"]}
    for quantity, title in (("step", "step time, predicted / measured - 1"), ("memory", "peak memory, predicted / measured - 1")):
        if found := [_statistics(name, group[quantity]) for name, group in groups.items() if group[quantity]["n"]]:
            show_table(found, left=("rows",), title=title)
        else:
            say(f"{title}: no row has both")
    if summary["skipped"]:
        first = {reason: next(row["id"] for row in rows if reason in str(row["skipped"])) for reason in summary["skipped"]}
        found = [{"reason": reason, "rows": str(count), "first": first[reason]} for reason, count in summary["skipped"].items()]
        show_table(found, left=("reason", "first"), title=f"not predicted: {summary['num_skipped']} of {summary['num_rows']} rows")


def _statistics(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    keys = {"median": "median_abs", "mean": "mean_abs", "p90": "p90_abs", "max": "max_abs", "bias": "bias"}
    shown = {title: "" if figures.get(key) is None else percent(figures[key], signed=key == "bias") for title, key in keys.items()}
    return {"rows": name, "n": str(figures["n"]), **shown}
