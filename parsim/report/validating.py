"""`parsim validate`: errors of predictions on tables of measurements, on the terminal and, with `--report`, as a page with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parsim.errors import ParsimError
from parsim.plain import to_plain
from parsim.report.accuracy_figures import save
from parsim.report.accuracy_page import page, row_of
from parsim.report.console import Output, log_files, say, show_table, watch
from parsim.report.files import json_text, prepare, write
from parsim.units import percent
from parsim.validate.accuracy import Accuracy, accuracy_of
from parsim.validate.compare import MeasuredCase, cases_of, validation_of
from parsim.validate.published import tables as published
from parsim.validate.table import read_all

DEFAULT: Final = Path("reports") / "validation"


def validate_cases(tables: Sequence[Path], where: Sequence[str], output: Output) -> int:
    """The exit status: 0; a large error is a result, not a failure.

    Raises:
        ParsimError: a table or a condition cannot be read.
    """
    document = validation_of([case.result for case in _predict(tables, where)]).to_json()
    output.show(document, document["rows"], lambda: _show_validation(document["rows"], document["summary"]))
    return 0


def report_cases(tables: Sequence[Path], where: Sequence[str], output: Output, *, out: Path | None, formats: Sequence[str]) -> int:
    """The exit status: 0, with README.md, results.json, and figures each with its CSV.

    Raises:
        ParsimError: a table or a condition cannot be read, or no row is left.
        OSError: a file cannot be written.
    """
    if not read_all(tables or published(), where):  # which takes no time, and leaves no empty directory
        raise ParsimError("no row to report on", "; ".join(map(str, tables)), "Give a table with rows.")
    directory = prepare(out or DEFAULT)
    cases = _predict(tables, where)
    with watch("predicting rows of known steps without what was fitted", "baselines") as tell:
        found = accuracy_of(cases, tell)
    document = document_of(found)
    output.show(document, document["rows"], lambda: _show_accuracy(found))
    figures = save(found, directory, formats)
    asked = " ".join(["parsim validate", *map(str, tables), *(f"--where {each}" for each in where), "--report"])
    text = page(found, asked, [path.name for path in figures])
    log_files(directory, [*figures, write(directory / "results.json", json_text(document)), write(directory / "README.md", text)])
    return 0


def document_of(found: Accuracy) -> dict[str, Any]:
    """All of it as JSON has it, a row a plain mapping."""
    document = {name: to_plain(getattr(found, name)) for name in found.__struct_fields__ if name != "rows"}
    return {**document, "rows": [row_of(each) for each in found.rows]}


def _predict(tables: Sequence[Path], where: Sequence[str]) -> list[MeasuredCase]:
    names = ", ".join(map(str, tables)) or "the published cases"
    with watch(f"predicting the rows of {names}", "rows") as tell:
        return cases_of(tables, where, tell)


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


def _show_accuracy(found: Accuracy) -> None:
    """Errors by class, and those of predictions that did not see the source of a row; all else is on the page."""
    rows = []
    for each in found.steps:
        if each.kind == "class" and each.ours["n"]:
            others = {"left out": each.left_out, "one utilisation": each.utilisation, "one factor": each.factor}
            medians = {title: percent(figures["median_abs"] or 0.0) for title, figures in others.items()}
            rows.append({**_statistics(each.group, each.ours), **medians})
    if rows:
        show_table(rows, left=("rows",), title="step time, predicted / measured - 1; right of the bias medians of other predictors")
    else:
        say("step time: no row has both")
