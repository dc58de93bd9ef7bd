"""`parsim verify` and `parsim validate`: the checks against executed numbers and against measured runs, a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parsim.report.console import log, percent, raw, say, show_table
from parsim.report.files import csv_text, json_text
from parsim.report.running import one_format, progress
from parsim.scenario import load


def verify_scenario(path: Path, *, csv: bool = False, json: bool = False) -> int:
    """The exit status: 0, or 1 where a check found a difference.

    Raises:
        ParsimError: the scenario is wrong, or JSON and CSV are both asked for.
    """
    from parsim.verify import verify
    from parsim.verify.shrink import RULE

    one_format(json=json, csv=csv)
    scenario = load(path)
    checks = verify(scenario, progress=progress(len(scenario.plans)))
    failed = sum(not check.ok for check in checks)
    if json:
        raw(json_text({"scenario": scenario.name, "ok": not failed, "checks": [asdict(check) for check in checks]}))
    elif csv:
        raw(csv_text([asdict(check) for check in checks], ("plan", "quantity", "ok", "detail")))
    else:
        for check in checks:
            say(f"{'ok    ' if check.ok else 'FAILED'} {check.plan}: {check.quantity}: {check.detail}")
    if any("(shrunk" in check.plan for check in checks):
        log(f"shrunk: {RULE}")
    log(f"{len(checks)} checks, {failed} failed")
    return 1 if failed else 0


def validate_cases(path: Path, where: Sequence[str], *, json: bool = False, csv: bool = False) -> int:
    """The exit status: 0; a large error is a result, not a failure.

    Raises:
        ParsimError: the table or a condition cannot be read, or JSON and CSV are both asked for.
    """
    from parsim.validate import validate

    one_format(json=json, csv=csv)
    validation = validate(path, tuple(where))
    document = validation.to_json()
    if json:
        raw(json_text(document))
    elif csv:
        raw(csv_text(document["rows"]))
    else:
        _show_summary(document["summary"])
        _show_skipped(document["rows"], document["summary"])
    return 0


def _show_summary(summary: Mapping[str, Any]) -> None:
    """Error statistics: all rows first, then each family of sources."""
    groups = {"all": summary["all"], **summary["by_source_family"]}
    for quantity, title in (("step", "step time, predicted / measured - 1"), ("memory", "peak memory, predicted / measured - 1")):
        rows = [_statistics(name, group[quantity]) for name, group in groups.items() if group[quantity]["n"]]
        if rows:
            show_table(rows, left=("rows",), title=title)
        else:
            say(f"{title}: no row has both")


def _statistics(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    def shown(key: str, *, signed: bool = False) -> str:
        return "" if figures.get(key) is None else percent(figures[key], signed=signed)

    return {
        "rows": name,
        "n": str(figures["n"]),
        "median": shown("median_abs"),
        "mean": shown("mean_abs"),
        "p90": shown("p90_abs"),
        "max": shown("max_abs"),
        "bias": shown("bias", signed=True),
    }


def _show_skipped(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    """Why rows were not predicted: each reason with how many rows it stops, and the first of them."""
    if summary["skipped"]:
        first = {reason: next(row["id"] for row in rows if reason in str(row["skipped"])) for reason in summary["skipped"]}
        shown = [{"reason": reason, "rows": str(count), "first": first[reason]} for reason, count in summary["skipped"].items()]
        title = f"not predicted: {summary['num_skipped']} of {summary['num_rows']} rows"
        show_table(shown, left=("reason", "first"), title=title)
