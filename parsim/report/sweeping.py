"""`parsim sweep`: its progress, its files and what it prints."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parsim import units
from parsim.report.console import Output, log, log_files, say, show_table, watch
from parsim.report.files import folder, prepare, write
from parsim.report.manners import unwind
from parsim.scenario.changes import values_of
from parsim.sweeps import SweepProgress, SweepResult, SweepRow
from parsim.sweeps.points import read_sweep
from parsim.sweeps.run import sweep_points
from parsim.units import percent

_SHOWN: Final = 10
_LONGEST: Final = 200  # characters of a reason in a table; files have all of it
_RIGHT: Final = ("step", "mean step", "p99", "goodput", "tokens/s/device", "MFU", "peak")  # columns of numbers


def sweep_files(
    paths: Sequence[Path], output: Output, *, out: Path | None, sets: Sequence[str], cache: Path | None, plan: str | None, **options: Any
) -> int:
    """The exit status: 0, or 1 where nothing fits its device; `plan` and `options` are those of `sweep`.

    Raises:
        ParsimError: a file is wrong, or the cache cannot be used.
        OSError: a file cannot be written.
    """
    unwind()
    asked = read_sweep(paths, plan, changes=values_of(sets))  # what is wrong is told before anything is made
    directory = prepare(out or folder(_name_of(paths)))
    with watch(f"sweeping {', '.join(map(str, paths))}", "rows") as told:

        def show(now: SweepProgress) -> None:
            told((now.num_known - now.num_cached) / (now.num_rows - now.num_cached))

        result = sweep_points(asked, cache=cache or directory / "cache.sqlite", progress=show, **options)
    documents = [each.to_dict() | {"reason": each.reason or None} for each in result.rows]
    written = [write(directory / "results.csv", result.to_csv()), write(directory / "results.jsonl", _lines(documents))]
    output.show({"name": result.name, "rows": documents}, result.records(), lambda: _show(result))
    log(f"{result.num_estimated:,} estimated, {result.num_cached:,} rows from the cache")
    log_files(directory, written)
    return 0 if any(row.figures.get("fits") for row in result.rows) else 1


def _name_of(paths: Sequence[Path]) -> str:
    return f"sweep-{paths[0].stem}" if len(paths) == 1 else "sweep"


def _lines(documents: Sequence[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(each, allow_nan=False)}\n" for each in documents)


def _show(result: SweepResult) -> None:
    """The fastest of what fits, and how often each reason keeps a row out."""
    fitting = sorted((row for row in result.rows if row.figures.get("fits")), key=lambda row: -_tokens_that_count(row.figures))
    say(f"{result.num_points:,} points, {len(result.rows):,} rows; {len(fitting):,} fit")
    if fitting:
        counted = " that count in a run" if any({"run_step_s", "goodput"} & row.figures.keys() for row in fitting) else ""
        title = f"most tokens a second and device{counted}" + (f", the first {_SHOWN}" if len(fitting) > _SHOWN else "")
        words = Counter(path.rpartition(".")[2] for path in dict.fromkeys(path for row in fitting for path in row.changes))
        rows = [_best(row, words) for row in fitting[:_SHOWN]]
        show_table(rows, left=[key for key in rows[0] if key not in _RIGHT], title=title)
    # What a message says of one point's figures is left out: rows that fail alike are counted together.
    reasons = Counter(row.reason.partition(":")[0].partition(" = ")[0] for row in result.rows if row.reason)
    if reasons:
        first = {reason: next(row for row in result.rows if row.reason.startswith(reason)) for reason in reasons}
        table = [
            {"rows": f"{count:,}", "why not": reason, "first": textwrap.shorten(first[reason].reason, _LONGEST, placeholder=" ...")}
            for reason, count in reasons.most_common()
        ]
        show_table(table, left=("why not", "first"), title="not fit for training")


def _tokens_that_count(figures: Mapping[str, Any]) -> float:
    """Tokens a second and device that count in a run."""
    mean_s = figures.get("run_step_s", figures["step_s"])
    return float(figures["tokens_per_s_per_device"] * figures["step_s"] / mean_s * figures.get("goodput", 1.0))


def _best(row: SweepRow, words: Mapping[str, int]) -> dict[str, str]:
    """The cells of a row; a path is shown by its last word where no other ends in it."""
    figures, last = row.figures, {path: path.rpartition(".")[2] for path in row.changes}
    of_run: dict[str, tuple[str, Callable[[float], str]]]
    of_run = {
        "mean step": ("run_step_s", _seconds),
        "p99": ("disturbed_p99_s", _seconds),
        "goodput": ("goodput", percent),
    }
    changes = {last[path] if words[last[path]] == 1 else path: _short(value) for path, value in row.changes.items()}
    return {
        **{"scenario": row.scenario, **changes, "plan": row.name},
        "step": _seconds(figures["step_s"]),
        **{title: text(figures[name]) for title, (name, text) in of_run.items() if name in figures},
        "tokens/s/device": f"{figures['tokens_per_s_per_device']:,.0f}",
        "MFU": percent(figures["mfu"]),
        "peak": units.format(figures["peak_bytes"], "GiB"),
    }


def _seconds(value: float) -> str:
    return units.format(value, "s")


def _short(value: Any) -> str:
    """A value that varies; of a row its name."""
    return str(value.get("name") or value.get("base") or "inline") if isinstance(value, dict) else str(value)
