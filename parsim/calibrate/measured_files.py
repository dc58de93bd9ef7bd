"""Files of what somebody measured, told apart by what they hold: logs of nccl-tests, tables of GEMMs, of a scenario's plans, of steps."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct, field

from parsim import catalog, units
from parsim.calibrate.collective_log import TimedCollective, read_log
from parsim.errors import Fault, did_you_mean
from parsim.scenario.named_values import VALUES
from parsim.scenario.read_files import lines_of, open_bytes

MOST_BYTES: Final = int(units.parse("1 GB", "bytes"))
_HEAD: Final = 2**20  # bytes by which files are told apart
_MOST_ROWS: Final = 1_000_000
_MOST_FAULTS: Final = 20  # of a file that are told; a file of another kind is wrong in every line
# What a column may be called, letters and digits only -> seconds, or FLOP/s, of its 1.
_TIMES: Final = {
    **dict.fromkeys(("seconds", "s", "time_s", "latency_s", "duration_s"), "1 s"),
    **dict.fromkeys(("ms", "time_ms", "latency_ms", "duration_ms", "milliseconds"), "1 ms"),
    **dict.fromkeys(("us", "time_us", "latency_us", "duration_us", "microseconds"), "1 us"),
}
_RATES: Final = {
    **dict.fromkeys(("tflops", "tflop_s", "tflops_s", "throughput_tflops"), "1 TFLOP/s"),
    **dict.fromkeys(("gflops", "gflop_s", "gflops_s"), "1 GFLOP/s"),
}
_DTYPES: Final = ("dtype", "type", "precision", "data_type", "input_dtype")
_FP8: Final = {"float8_e4m3fn": "fp8", "fp8_e4m3": "fp8", "e4m3": "fp8", "float8": "fp8"}
_APART: Final = 0.05  # of a time and a rate of the same line
_PLAN: Final = ("plan", "step_s", "tokens_per_s_per_device")
_KINDS: Final = (
    "a log of nccl-tests as it is, or a CSV table with the columns m, n, k, dtype and seconds (or tflops) of GEMMs, plan and step_s of the "
    "scenario's plans, or the columns of `parsim validate` with step_s"
)


class TimedGemm(Struct, frozen=True):
    """m x k times k x n, by itself."""

    m: int
    n: int
    k: int
    dtype: str
    seconds: float
    path: str
    line: int

    @property
    def flops(self) -> int:
        """Twice as many as products."""
        return 2 * self.m * self.n * self.k


class TimedPlan(Struct, frozen=True):
    """A step of a plan that a scenario names, its own (a path beside the table) or that of all: its seconds, or its tokens a second and
    device."""

    scenario: str
    plan: str
    step_s: float | None
    tokens_per_s_per_device: float | None
    source: str
    path: str
    line: int


class MeasuredFiles(Struct):
    """What files hold; `tables` are those of steps, whose columns `parsim validate` knows."""

    collectives: list[TimedCollective] = field(default_factory=list)
    gemms: list[TimedGemm] = field(default_factory=list)
    plans: list[TimedPlan] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_files(paths: Sequence[Path], progress: Callable[[float], None] = lambda share: None) -> MeasuredFiles:
    """All that the files hold, with all that is wrong with them."""
    found, seen = MeasuredFiles(), set[Path]()
    for number, path in enumerate(paths):
        progress(number / len(paths))
        faults: list[Fault] = []
        if path.resolve() in seen:
            faults.append(Fault(str(path), 0, 0, "", "is given twice; its measurements would count twice"))
        else:
            _read_file(path, found, faults)
        seen.add(path.resolve())
        found.faults += faults[:_MOST_FAULTS]
        if (more := len(faults) - _MOST_FAULTS) > 0:
            found.faults.append(Fault(str(path), 0, 0, "", f"and {more} more"))
    return found


def _read_file(path: Path, found: MeasuredFiles, faults: list[Fault]) -> None:
    def fault(said: str, line: int = 0) -> None:
        faults.append(Fault(str(path), line, 1 if line else 0, "", said))

    try:
        with open_bytes(path, MOST_BYTES) as file:
            if said := _no_text(file):
                fault(said)
                return
            lines = _lines(file)
            head = [*_head(lines)]
            columns, delimiter = _columns(head)
            kind = _kind_of(columns, head)
            twice = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
            if twice and kind in ("plans", "gemms"):
                fault(f"has more than one column {' and '.join(twice)}: which counts?", 1)
            elif kind == "plans":
                found.plans += _plans(str(path), _cells(head, lines, delimiter), columns, fault)
            elif kind == "gemms":
                found.gemms += _gemms(str(path), _cells(head, lines, delimiter), columns, fault)
            elif kind == "steps":
                found.tables.append(path)
            elif kind == "log":
                timed, wrong = read_log(str(path), _chain(head, lines))
                found.collectives += timed
                faults += wrong
            else:
                fault(f"is nothing that is read: {_KINDS}")
    except (OSError, csv.Error, _TooLargeError) as error:
        fault(f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error))


def _kind_of(columns: Sequence[str], head: Sequence[str]) -> str:
    """What a file with these columns, or this begin, holds; "" for nothing that is read."""
    named = {*columns}
    if "plan" in named:
        return "plans"
    if {"m", "n", "k"} <= named:
        return "gemms"
    if {*_PLAN[1:]} & named:
        return "steps"
    return "log" if any("nThread" in line or "out-of-place" in line for line in head) else ""


class _TooLargeError(Exception):
    """More bytes than are read."""


def _no_text(file: BinaryIO) -> str:
    """Why a file is not read; "" where it is."""
    if file.seekable():
        if (size := file.seek(0, os.SEEK_END)) > MOST_BYTES:
            return _too_large(size)
        file.seek(0)
    start = file.peek(4096)[:4096] if isinstance(file, io.BufferedReader) else b""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
        return "is UTF-16, or no text; save it as UTF-8 (in PowerShell: Out-File -Encoding utf8)"
    return "" if start.strip() else "is empty"


def _too_large(size: int) -> str:
    return f"is larger than the {units.format(MOST_BYTES, 'bytes')} that are read ({units.format(size, 'bytes')}); give the runs alone"


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines as text; a byte that is no UTF-8 stands for itself as a mark."""
    size = 0
    for number, line in enumerate(lines_of(file)):
        if (size := size + len(line)) > MOST_BYTES:
            raise _TooLargeError(_too_large(size))
        text = line.decode("utf-8", errors="replace")
        yield text.removeprefix("\ufeff") if number == 0 else text


def _head(lines: Iterator[str]) -> Iterator[str]:
    """Lines from the begin by which a file is told: of a log as far as its first run begins."""
    size = 0
    for line in lines:
        yield line
        size += len(line)
        if size > _HEAD or "nThread" in line:
            return


def _chain(head: Sequence[str], lines: Iterator[str]) -> Iterator[str]:
    yield from head
    yield from lines


def _columns(head: Sequence[str]) -> tuple[list[str], str]:
    """The names of columns in the first line that is not empty, plain, and what is between them."""
    first = next((line for line in head if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    return [_plain(name) for name in next(csv.reader([first], delimiter=delimiter), [])], delimiter


def _plain(name: str) -> str:
    """The name in small letters, digits and single underscores.

    >>> _plain("Time (us)"), _plain(" TFLOP/s")
    ('time_us', 'tflop_s')
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _cells(head: Sequence[str], lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each line that is not empty, behind that of the columns, with its number."""
    rows = csv.reader(_chain(head, lines), delimiter=delimiter)
    filled = ((rows.line_num, [cell.strip() for cell in row]) for row in rows if any(cell.strip() for cell in row))
    next(filled, None)
    for place, row in enumerate(filled):
        if place == _MOST_ROWS:
            raise _TooLargeError(f"has more than the {_MOST_ROWS:,} rows that are read; give fewer")
        yield row


NumberedCells = Iterator[tuple[int, list[str]]]
Tell = Callable[..., None]


def _gemms(path: str, rows: NumberedCells, columns: list[str], fault: Tell) -> Iterator[TimedGemm]:
    times, rates = [each for each in columns if each in _TIMES], [each for each in columns if each in _RATES]
    dtype = next((each for each in _DTYPES if each in columns), "")
    missing = [*([] if times or rates else ["seconds (or time_us, time_ms, tflops)"]), *([] if dtype else ["dtype"])]
    if missing:
        fault(f"a table of GEMMs lacks the column {' and '.join(missing)}; its columns: {', '.join(columns)}", 1)
        return
    any_row = False
    for line, cells in rows:
        row, any_row = dict(zip(columns, cells, strict=False)), True
        if row.get("op", "gemm") not in ("gemm", "matmul", "mm", ""):
            continue
        wrong: list[str] = []
        sides = [_whole(row, side, wrong) for side in "mnk"]
        known = _dtype(row.get(dtype, ""), wrong)
        flops = 2.0 * math.prod(sides)
        by_name = {name: _positive(row, name, wrong) for name in (*times, *rates) if row.get(name)}
        if not by_name:
            wrong.append("it states neither a time nor a rate")
        if wrong:
            fault("; ".join(wrong), line)
            continue
        seconds = {name: _seconds_of(name, each, flops) for name, each in by_name.items()}
        longest, shortest = max(seconds, key=seconds.__getitem__), min(seconds, key=seconds.__getitem__)
        if seconds[longest] > seconds[shortest] * (1 + _APART):
            both = f"{shortest} = {row[shortest]} says {seconds[shortest]:.4g} s, and {longest} = {row[longest]} {seconds[longest]:.4g} s"
            fault(f"{both}, of {flops:.4g} FLOP: units are mixed", line)
            continue
        m, n, k = map(int, sides)
        yield TimedGemm(m, n, k, known, seconds[next(iter(seconds))], path, line)
    if not any_row:
        fault("has no line of figures below the names of its columns", 1)


def _seconds_of(name: str, value: float, flops: float) -> float:
    """Seconds by a column of times or rates."""
    return value * units.parse(_TIMES[name], "s") if name in _TIMES else flops / (value * units.parse(_RATES[name], "FLOP/s"))


def _plans(path: str, rows: NumberedCells, columns: list[str], fault: Tell) -> Iterator[TimedPlan]:
    if not {*_PLAN[1:]} & {*columns}:
        fault(f"a table of plans lacks the column step_s (or tokens_per_s_per_device); its columns: {', '.join(columns)}", 1)
        return
    any_row = False
    for line, cells in rows:
        row, any_row = dict(zip(columns, cells, strict=False)), True
        wrong: list[str] = []
        step_s, rate = (_positive(row, name, wrong) if row.get(name) else None for name in _PLAN[1:])
        if not row.get("plan"):
            wrong.append("names no plan")
        if step_s is None and rate is None and not wrong:
            wrong.append("states neither step_s nor tokens_per_s_per_device")
        if wrong:
            fault("; ".join(wrong), line)
        else:
            yield TimedPlan(row.get("scenario", ""), row["plan"], step_s, rate, row.get("source", "") or path, path, line)
    if not any_row:
        fault("has no line of figures below the names of its columns", 1)


def _whole(row: Mapping[str, str], name: str, wrong: list[str]) -> float:
    number = _number(row.get(name, ""))
    if number != number or number < 1 or number != int(number) or number > 2**31:
        wrong.append(f"{name} = '{row.get(name, '')[:40]}' is no whole number from 1")
        return 1.0
    return number


def _positive(row: Mapping[str, str], name: str, wrong: list[str]) -> float:
    number = _number(row[name])
    if not number > 0:
        wrong.append(f"{name} = '{row[name][:40]}' is no number above 0")
        return 1.0
    return number


def _number(text: str) -> float:
    """The finite number that a cell holds; nan where it holds none."""
    try:
        return float(text) if math.isfinite(float(text)) else math.nan
    except ValueError:
        return math.nan


def _dtype(text: str, wrong: list[str]) -> str:
    """The dtype of the catalog that people call so."""
    name = _plain(text.lower().removeprefix("torch."))
    others = {alias: row for row, aliases in VALUES["dtype"].items() for alias in aliases.split()} | _FP8
    found = catalog.find("dtypes", name) or others.get(name, name)
    if found not in catalog.names("dtypes"):
        known = catalog.names("dtypes")
        wrong.append(f"dtype = '{text[:40]}' is unknown{did_you_mean(name, known)}; known: {', '.join(known)}")
    return found
