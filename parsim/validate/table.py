"""A table of measurements (CSV) as text and checked numbers, row by row.  What the values mean together is case.py's question."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final, TextIO

from msgspec import Struct
from msgspec.structs import replace

from parsim import catalog, units
from parsim.errors import ParsimError, did_you_mean
from parsim.estimator.parts import QUANTITIES
from parsim.scenario.read_files import read_bytes

TEXTS: Final = (
    *("id", "source", "source_family", "strict", "workload", "model_name", "mlp", "accelerator", "intra_node_link", "inter_node_link"),
    *("sequence_parallel", "recompute", "attention", "schedule", "offload", "dtype", "memory_metric", "notes", "virtual_pipeline"),
    "release",
)
COUNTS: Final = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "num_experts", "top_k"),
    *("sequence_length", "num_devices", "devices_per_node", "data_parallel", "tensor_parallel", "pipeline_parallel"),
    *("context_parallel", "expert_parallel", "zero_stage", "zero_group", "micro_batch", "global_batch"),
)
MEASURES: Final = ("step_s", "tokens_per_s_per_device", "peak_memory_bytes")
COLUMNS: Final = (*TEXTS, *COUNTS, *MEASURES)
MAY_BE_ZERO: Final = ("zero_stage", "num_experts", "top_k")
METRICS: Final = (*QUANTITIES, "unknown")
_LEAST: Final = {"peak_memory_bytes": units.parse("1 MB", "bytes")}  # below, some other unit is meant
_MOST_BYTES: Final = 100_000_000
_MOST: Final = 10**7  # above any count of a training run; what still overflows, sizes.py refuses
_ALIKE: Final = 0.1  # of a step as stated and as derived: what rounding to a figure leaves apart
_SHOWN: Final = 8  # values of a column
_MOST_LAYERS: Final = 10**4  # each of which is laid out


class TableRow(Struct, frozen=True):
    """One row: its cells as text ("" where the table says nothing), the numbers among them, and what is wrong with it."""

    text: Mapping[str, str]
    counts: Mapping[str, int]
    measures: Mapping[str, float]
    faults: tuple[str, ...]
    line: int = 0  # of its file, from 1; 0: of none

    def says(self, column: str) -> str:
        """The cell, or ""."""
        return self.text.get(column, "")

    @property
    def device(self) -> str:
        """The first word of the accelerator's name in the catalog, whose row may be called otherwise, or of what stands there."""
        said = self.says("accelerator")
        return (catalog.find("accelerators", said) or said).split("-")[0]


def read(path: str | Path, where: Sequence[str] = ()) -> list[TableRow]:
    """The rows of a CSV file for which each COLUMN=VALUE of `where` holds.

    Raises:
        ParsimError: the file cannot be read, holds no column that is known, or `where` names a column that it lacks.
    """
    return [row for _, row in read_all([path], where)]


def read_all(paths: Sequence[str | Path], where: Sequence[str] = ()) -> list[tuple[str | Path, TableRow]]:
    """The rows of CSV files, each with its file, for which each COLUMN=VALUE of `where` holds; a column that a file lacks is empty there.

    Raises:
        ParsimError: a file cannot be read, holds no column that is known, or `where` names a column that all lack, or what no row has.
    """
    tables = {path: _table(path) for path in paths}
    known = list(dict.fromkeys(column for columns, _ in tables.values() for column in columns))
    conditions = [_condition(each, known) for each in where]
    rows = [(path, line, each) for path, (_, cells) in tables.items() for line, each in cells]
    for column, value in conditions:
        found = [each for each in rows if _number(each[-1].get(column, "")) == _number(value)]
        if rows and not found:
            raise _unmet(column, value, [each.get(column, "") for *_, each in rows])
        rows = found
    return [(path, _row(each, line)) for path, line, each in rows]


def _unmet(column: str, value: str, cells: Sequence[str]) -> ParsimError:
    """That no row, of those that meet the conditions before, has the value."""
    known = sorted({each for each in cells if each})
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    among = f"Its values there: {', '.join(known[:_SHOWN])}{more}." if known else f"'{column}' is empty there."
    return ParsimError(f"no row has {column} = '{value}'{did_you_mean(value, known)}", "where", among)


def _table(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        raw = read_bytes(path, _MOST_BYTES)
        if len(raw) > _MOST_BYTES:
            most = units.format(_MOST_BYTES, "bytes")
            raise ParsimError(f"is larger than the {most} that are read", str(path), "Give its rows in several tables.")
        columns, cells = _cells(io.StringIO(raw.decode("utf-8-sig"), newline=""))
    except OSError as error:
        raise ParsimError(f"cannot read the table: {error.strerror}", str(path), "Give the path of a CSV file.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ParsimError(f"is no CSV file in UTF-8: {error}", str(path)) from None
    if not set(columns) & set(COLUMNS):
        shown = ", ".join(columns[:8]) or "nothing"
        raise ParsimError(f"no column of this table is known; its first line holds {shown}", str(path), f"Known: {', '.join(COLUMNS)}.")
    return columns, cells


def _cells(file: TextIO) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The names of the columns, and the cells of each line that is not empty, with its number."""
    lines = csv.reader(file)
    columns = [name.strip() for name in next(lines, [])]
    rows = ({name: cell.strip() for name, cell in zip_longest(columns, cells[: len(columns)], fillvalue="")} for cells in lines)
    return columns, [(lines.line_num, row) for row in rows if any(row.values())]


def _condition(text: str, columns: Sequence[str]) -> tuple[str, str]:
    column, equals, value = (each.strip() for each in text.partition("="))
    if not equals:
        raise ParsimError(f"'{text}' is no condition", "where", "Write COLUMN=VALUE, e.g. strict=yes.")
    if column not in columns:
        what = f"the table has no column '{column}'{did_you_mean(column, columns)}"
        raise ParsimError(what, "where", f"Its columns: {', '.join(columns)}.")
    return column, value


def _row(text: dict[str, str], line: int) -> TableRow:
    counts: dict[str, int] = {}
    measures: dict[str, float] = {}
    faults: list[str] = []
    for column in (each for each in (*COUNTS, *MEASURES) if text.get(each)):
        number, low = _number(text[column]), 0 if column in MAY_BE_ZERO else 1
        most = _MOST_LAYERS if column == "num_layers" else _MOST
        if column in MEASURES and isinstance(number, float) and number > 0:
            measures[column] = number
        elif column in COUNTS and isinstance(number, float) and number == int(number) and low <= number <= most:
            counts[column] = int(number)
        else:
            kind = "number above 0" if column in MEASURES else f"whole number from {low} to {most:,}"
            faults.append(f"{column} = '{text[column][:40]}' is no {kind}")
    faults += [
        f"{column} = {measures[column]:g} is less than any run needs: another unit?" for column in _LEAST if _is_below(measures, column)
    ]
    if (metric := text.get("memory_metric", "")) not in ("", *METRICS):
        faults.append(f"memory_metric = '{metric[:40]}' is none of {', '.join(METRICS)}")
    row = TableRow({**text, "id": text.get("id") or f"line {line}"}, counts, measures, tuple(faults), line)
    if (derived_s := derived_step_s(row)) and abs(measures.get("step_s", derived_s) / derived_s - 1) > _ALIKE:
        said = f"step_s = {measures['step_s']:g} is not the {derived_s:.4g} s that tokens_per_s_per_device says"
        return replace(row, faults=(*faults, said))
    return row


def derived_step_s(row: TableRow) -> float | None:
    """Seconds of a step by the tokens that a device takes in a second; None where the row does not say these, or of how many."""
    tokens_per_s = row.measures.get("tokens_per_s_per_device")
    sizes = [row.counts.get(column) for column in ("global_batch", "sequence_length", "num_devices")]
    if tokens_per_s is None or None in sizes:
        return None
    sequences, tokens, devices = (each or 0 for each in sizes)
    return sequences * tokens / (tokens_per_s * devices)


def _is_below(measures: Mapping[str, float], column: str) -> bool:
    return measures.get(column, math.inf) < _LEAST[column]


def _number(text: str) -> float | str:
    """The finite number that a cell holds, or else its text."""
    try:
        return float(text) if math.isfinite(float(text)) else text
    except ValueError:
        return text
