"""Chooses the published cases that parsim ships, a file a family of sources:  python tests/compare/choose_published.py DIRECTORY

DIRECTORY holds steps.csv, steps_2026.csv, memory_2026.csv and memory_limits.csv.  Of each family and kind (step, memory, label) it takes

1. the smallest whole sweep of steps, which is MANY rows or more equal in all of SWEEP;
2. then every k-th configuration in the order of ids, with all its repeats, strict rows before others, k the least that keeps to MOST rows;
3. of rows that state a peak beside their step, further ones by 2, as long as the family has PEAKS of them at most: of many steps, which
   are chosen first, few state a peak, and intervals of peaks rest on those of each stack.

Files of other families stay: tpu_trillium, tpu_ironwood, mlperf_amd, neuron and gpu_recipes hold all strict rows that one source each has.

No prediction is asked, so no row is chosen by its error; a row that parsim cannot predict is as good as any.  Rows without a measured
value and adapters (another question) are left out, and so are times of continuous integration, where launches bound them, and a row
whose figures a table before has already.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from parsim.validate.named import named_model
from parsim.validate.published import FOLDER
from parsim.validate.sweeps import MANY, SWEEP
from parsim.validate.table import TableRow

Row = Mapping[str, str]
TABLES = ("steps.csv", "steps_2026.csv", "memory_2026.csv", "memory_limits.csv")
MOST = {"step": 18, "memory": 48, "yes": 24, "no": 32}
PEAKS = 28  # of a family, and of its steps: not so many that one family is most of what is shipped
TIMES = ("step_s", "tokens_per_s_per_device")
NO_CONFIGURATION = ("id", "source", "strict", "release", "notes", "memory_metric", *TIMES, "peak_memory_bytes")


def kind_of(row: Row) -> str:
    """What a row tells, or ""."""
    if row["workload"] in ("lora", "qlora"):
        return ""
    if any(row.get(time) for time in TIMES) and row["workload"] != "ci":
        return "step"
    if row.get("peak_memory_bytes"):
        return "memory"
    return row.get("fits", "")


def alike(rows: Iterable[Row], columns: Iterable[str]) -> list[list[Row]]:
    """The rows by what these columns hold, in the order of their first."""
    names, groups = tuple(columns), defaultdict(list)
    for row in rows:
        groups[tuple(row.get(name, "") for name in names)].append(row)
    return list(groups.values())


def chosen(rows: list[Row], most: int) -> list[Row]:
    """By the rule above, of one family and kind."""
    sweeps = [each for each in alike(rows, SWEEP) if len(each) >= MANY and kind_of(each[0]) == "step"]
    whole = min(sweeps, key=len, default=[])
    return [*whole, *spread_over([row for row in rows if row not in whole], most - len(whole))]


def further_peaks(rows: list[Row], taken: list[Row]) -> list[Row]:
    """Of steps, those with a peak that step 3 adds to what is taken of their family."""
    steps, peaks = (sum(bool(row in rows and row.get(name)) for row in taken) for name in ("id", "peak_memory_bytes"))
    rest = [row for row in rows if row.get("peak_memory_bytes") and row not in taken]
    return spread_over(rest, PEAKS - max(steps, peaks))


def shapeless(rows: Iterable[Row]) -> list[Row]:
    """Of rows that state no shape and name a model of the catalog, the newest of each model, accelerator and precision."""
    named = [row for row in rows if kind_of(row) == "step" and named_model(TableRow(dict(row), {}, {}, ()))]
    return [max(each, key=lambda row: row["release"]) for each in alike(named, ("model_name", "accelerator", "dtype"))]


def spread_over(rows: list[Row], most: int) -> list[Row]:
    """Every k-th configuration, strict ones first, no more than `most` rows."""
    columns = [name for name in rows[0] if name not in NO_CONFIGURATION] if rows else []
    taken: list[Row] = []
    for strict in (True, False):
        groups = alike((row for row in rows if (row["strict"] == "yes") is strict), columns)
        taken += thinned(groups, most - len(taken))
    return taken


def thinned(groups: list[list[Row]], most: int) -> list[Row]:
    """Every k-th group, k the least that gives no more than `most` rows."""
    for k in range(1, len(groups) + 1):
        taken = [row for group in groups[::k] for row in group]
        if len(taken) <= most:
            return taken
    return []


def figures_of(row: Row) -> tuple[str, ...]:
    """What was measured, to five digits; () of a label."""
    stated = (row.get(name) for name in ("step_s", "peak_memory_bytes"))
    figures = [f"{float(each):.5g}" for each in stated if each]
    return (row["source_family"], *figures) if figures else ()


def read(directory: Path) -> list[Row]:
    """The rows of all tables, each once: what a later table says of a row that an earlier one has is added to that."""
    rows: dict[str, Row] = {}
    for name in TABLES:
        before = {figures_of(row) for row in rows.values()} - {()}
        with (directory / name).open(newline="", encoding="utf-8") as file:
            new = [row for row in csv.DictReader(file) if figures_of(row) not in before]
        rows |= {row["id"]: {**row, **rows.get(row["id"], {})} for row in new}
    return list(rows.values())


def main() -> None:
    """Write the files anew."""
    rows = read(Path(sys.argv[1]))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for family in sorted({row["source_family"] for row in rows}):
        (FOLDER / f"{family}.csv").unlink(missing_ok=True)
        own = [row for row in rows if row["source_family"] == family]
        taken = [row for kind, most in MOST.items() if (of := [row for row in own if kind_of(row) == kind]) for row in chosen(of, most)]
        taken += further_peaks([row for row in own if kind_of(row) == "step"], taken)
        taken += [row for row in shapeless(own) if row not in taken]
        if taken:
            used = [name for name in columns if any(row.get(name) for row in taken)]
            out = io.StringIO()
            lines = csv.DictWriter(out, used, extrasaction="ignore", lineterminator="\n", restval="")
            lines.writeheader()
            lines.writerows(sorted(taken, key=lambda row: row["id"]))
            (FOLDER / f"{family}.csv").write_text(out.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
