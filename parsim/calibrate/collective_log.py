"""What nccl-tests (and rccl-tests) print, read as it is: how long a collective of so many bytes took among ranks of which hosts.

Layouts of versions 2.0 to 2.18 differ by columns, which the header names.  Source: NVIDIA/nccl-tests, src/common.cu, src/util.cu.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct, field

from parsim import units
from parsim.errors import Fault

# Programs whose runs say something of a factor -> the operation.
OPERATIONS: Final = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "p2p",
}
_OTHERS: Final = ("broadcast", "reduce", "gather", "scatter", "hypercube", "alltoallv")
# What mpirun --tag-output (of Open MPI 5 with its job's name), srun --label and pdsh write before a line, and what marks a quotation.
_TAG: Final = re.compile(r"\s*(?:\[[\w.@-]+,\d+\]\s*<\w+>\s*:|[\w.-]+:(?=\s|$)|>)")
_PROGRAM: Final = re.compile(rf"\b({'|'.join(sorted((*OPERATIONS, *_OTHERS), key=len, reverse=True))})_perf")
_BEGIN: Final = re.compile(r"#\s*nThreads?:?\s+\d+\s+nGpus:?\s+\d+")
_RANK: Final = re.compile(r"#\s*Rank\s+(\d{1,9})\s+(?:Group\s+(\d+)\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+(?:\s+\[[^\]]*\]\s*(.*))?")
_COLUMNS: Final = re.compile(r"#\s*size\s+count\s+type\b.*\b(?:cpu)?time\b")
_UNITS: Final = re.compile(r"#\s*\(B\)\s+\(elements\)")
_END: Final = re.compile(r"#\s*(?:Avg bus bandwidth|Out of bounds values)\s*:")
_DATA: Final = re.compile(r"\s*-?\d+\s+-?\d+\s+[a-z]\w*(?:\s|$)")
_PROGRAMS: Final = ", ".join(f"{each}_perf" for each in OPERATIONS)
_REDUCTIONS: Final = ("sum", "prod", "max", "min", "avg", "mulsum")
_US: Final = float(units.parse("1 us", "s"))
_GB: Final = float(units.parse("1 GB", "bytes"))
_MOST_BYTES: Final = 2**50
_TIMES_US: Final = (1e-3, 1e12)
_ROUNDED: Final = 0.0051  # GB/s, of which two digits are printed
_SHARE: Final = 0.004  # of a rate or a time, of which at least three digits are printed


def bus_factor(operation: str, num_ranks: int) -> float:
    """busbw over algbw: what a rank sends over what an operation of nccl-tests calls its size.

    Source: NVIDIA/nccl-tests, doc/PERFORMANCE.md.

    >>> bus_factor("all_reduce", 8), bus_factor("all_to_all", 8), bus_factor("p2p", 8)
    (1.75, 0.875, 1.0)
    """
    ring = (num_ranks - 1) / num_ranks
    return {"all_reduce": 2.0 * ring, "p2p": 1.0}.get(operation, ring)


class TimedCollective(Struct, frozen=True):
    """One line of a run, out of place: the tensor's bytes as nccl-tests counts them, and seconds."""

    operation: str
    num_ranks: int
    num_nodes: int  # hosts, each of as many ranks
    payload_bytes: int
    seconds: float
    path: str
    line: int
    device: str = ""  # what the first rank's calls itself

    @property
    def bus_bytes_per_s(self) -> float:
        """What a rank sends a second."""
        return bus_factor(self.operation, self.num_ranks) * self.payload_bytes / self.seconds


class _Cells(Struct):
    """A line of figures: bytes, microseconds and GB/s as printed."""

    line: int
    size: int
    redop: str
    root: str
    time: float
    algbw: float
    busbw: float
    wrong: str
    wrong_in_place: str


class _LogRun(Struct):
    """What is known of a run so far."""

    line: int
    program: str = ""
    ranks: list[tuple[int, str]] = field(default_factory=list)  # number and host
    groups: set[str] = field(default_factory=set)
    device: str = ""
    columns: list[str] = field(default_factory=list)  # of the measured part
    has_root: bool = False  # a column, before these
    cells: list[_Cells] = field(default_factory=list)
    lines: int = 0  # of figures, those at fault too
    ended: bool = False


def read_log(path: str, lines: Iterable[str]) -> tuple[list[TimedCollective], list[Fault]]:
    """The measurements of all runs in a log, and what is wrong with it."""
    log = _Log(path)
    for number, text in enumerate(lines, start=1):
        log.read(number, text)
    return log.finish()


class _Log:
    """Reads a log line by line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.runs: list[_LogRun] = []
        named = re.search("|".join(OPERATIONS), path.rpartition("/")[2].replace("-", "_").replace("all_to_all", "alltoall"))
        self.by_path = named[0] if named else ""
        self.program = ""  # that was named last

    def read(self, number: int, text: str) -> None:
        """One more line."""
        body = text[tag.end() :] if (tag := _TAG.match(text)) else text
        body = body.strip()
        run = self.runs[-1] if self.runs else None
        if _BEGIN.search(body):
            if run is None or run.lines or run.ended:
                self.runs.append(_LogRun(number, self.program))
                self.program = ""  # the next run may be of another that nobody names
            return
        if _DATA.match(body) and not body.startswith("#"):
            if run is not None and run.columns:
                run.lines += 1
                self._figures(run, number, body)
            return
        if named := _PROGRAM.search(body):
            self.program = "" if "concluded" in body else named[1]
        elif run is not None:
            self._header(run, number, body)

    def _header(self, run: _LogRun, number: int, body: str) -> None:
        if rank := _RANK.search(body):
            run.ranks.append((int(rank[1]), rank[3]))
            run.groups.add(rank[2] or "0")
            run.device = run.device or (rank[4] or "").strip()
        elif _COLUMNS.search(body):
            names = body.lstrip("# ").split()
            first = next(place for place, name in enumerate(names) if name in ("time", "cputime"))
            run.columns, run.has_root = names[first:], "root" in names[:first]
        elif _UNITS.search(body):
            if wrong := [each for each in re.findall(r"\(([^)]*)\)", body)[2:] if each not in ("us", "GB/s")]:
                self._fault(number, f"times or rates are in ({wrong[0]}), where nccl-tests has (us) and (GB/s); give the output as it is")
        elif _END.search(body):
            run.ended = True

    def _figures(self, run: _LogRun, number: int, body: str) -> None:
        cells = body.split()
        size, rest, redop, root = cells[0], cells[3:], "", ""
        if rest and not _is_number(rest[0]):
            redop, *rest = rest
        if rest and run.has_root:
            root, *rest = rest
        if len(rest) < len(run.columns):
            self._fault(number, f"the line ends after {len(cells)} columns: the log is cut off here; give the whole output")
            return
        found = dict(reversed([*zip(run.columns, rest, strict=False)]))  # the first of two columns of a name: out of place
        try:
            time, algbw, busbw = (float(found[name]) for name in ("time", "algbw", "busbw"))
            payload = int(size)
        except (KeyError, ValueError):
            self._fault(
                number, f"'{body[:60]}' holds no time, algbw and busbw; give the output of nccl-tests as it is, timed by the device"
            )
            return
        wrong = [cell for name, cell in zip(run.columns, rest, strict=False) if name in ("#wrong", "error")]
        wrong = wrong or [""]
        run.cells.append(_Cells(number, payload, redop, root, time, algbw, busbw, wrong[0], wrong[-1]))

    def finish(self) -> tuple[list[TimedCollective], list[Fault]]:
        """All that was measured, and all faults."""
        found = [each for run in self.runs for each in self._collectives(run)]
        if not self.runs:
            self._fault(0, "holds no run of nccl-tests (a line '# nThread 1 nGpus 8 ...')")
        return found, sorted(self.faults, key=lambda fault: fault.line)

    def _collectives(self, run: _LogRun) -> Iterator[TimedCollective]:
        if said := _unfit(run):
            self._fault(run.line, said)
            return
        ranks, hosts = len(run.ranks), len({host for _, host in run.ranks})
        timed = [each for each in run.cells if each.size > 0]
        known = len(self.faults)
        for each in timed:
            if said := _fault_of(each):
                self._fault(each.line, said)
        if len(self.faults) > known:
            return
        if not timed:
            self._fault(run.line, "this run has no line of figures of more than 0 bytes; give the output of a run that ended")
            return
        program = run.program or self.by_path
        operation, said = _operation(program, ranks, timed)
        if said:
            self._fault(timed[0].line if program in OPERATIONS else run.line, said)
            return
        for each in timed:
            yield TimedCollective(operation, ranks, hosts, each.size, each.time * _US, self.path, each.line, run.device)

    def _fault(self, line: int, said: str) -> None:
        self.faults.append(Fault(self.path, line, 1, "", said))


def _unfit(run: _LogRun) -> str:
    """Why a run says nothing, whatever its figures; "" where it may."""
    numbers = [number for number, _ in run.ranks]
    if not numbers:
        return "this run names no ranks (lines '#  Rank  0 ... on HOST device  0'), so nobody knows how many there are, nor on which nodes"
    if len(set(numbers)) < len(numbers):
        twice = max(numbers, key=numbers.count)
        return f"rank {twice} is there twice: programs built without MPI run each by itself; build nccl-tests with MPI=1"
    if len(numbers) != max(numbers) + 1:
        return f"{len(numbers)} ranks are named, the last of them {max(numbers)}: lines are missing; give the whole output"
    if len(run.groups) > 1:
        return f"{len(run.groups)} groups of ranks talk at the same time (NCCL_TESTS_SPLIT), which no factor rests on; give a run of one"
    if len(numbers) == 1:
        return "1 rank talks to nobody; run on 2 or more devices (-g 8, or MPI=1 and a process each)"
    hosts = [host for _, host in run.ranks]
    counts = {hosts.count(host) for host in hosts}
    if len(counts) > 1:
        return f"hosts hold unequal numbers of ranks ({', '.join(map(str, sorted(counts)))}), which no law describes; give as many of each"
    if not run.columns:
        return "this run has no line that names its columns (# size count type ... time algbw busbw); give the whole output"
    if not run.lines:
        return "this run has no line of figures; give the output of a run that ended"
    if not run.ended:
        return "this run has no end (a line '# Avg bus bandwidth'): the log is cut off; give the whole output"
    return ""


def _fault_of(cells: _Cells) -> str:
    """What is wrong with a line of figures by itself."""
    if cells.size > _MOST_BYTES:
        return f"size = {str(cells.size)[:40]} bytes is more than any device holds"
    if not _TIMES_US[0] <= cells.time <= _TIMES_US[1]:
        return f"time = {cells.time:g} us is none that a collective takes"
    if min(cells.algbw, cells.busbw) < 0 or not math.isfinite(cells.algbw + cells.busbw):
        return f"algbw = {cells.algbw:g} and busbw = {cells.busbw:g} GB/s must be at least 0"
    if _is_number(cells.wrong) and float(cells.wrong) >= 1:
        return f"{cells.wrong} values were wrong: what computes wrong says nothing of its speed"
    rate = cells.size / (cells.time * _US) / _GB
    if abs(rate - cells.algbw) > _ROUNDED + _SHARE * rate:
        return (
            f"{cells.size} bytes in {cells.time:g} us are {rate:.4g} GB/s, where the line has algbw = {cells.algbw:g}: units are mixed, "
            "or lines of several logs"
        )
    return ""


def _operation(program: str, ranks: int, cells: list[_Cells]) -> tuple[str, str]:
    """What ran, and what is wrong with that; of an unnamed program as far as its columns say."""
    if program and program not in OPERATIONS:
        return "", f"is a run of {program}_perf, on which no factor rests; read are {_PROGRAMS}"
    fits = [name for name, operation in OPERATIONS.items() if all(_is_ratio(each, bus_factor(operation, ranks)) for each in cells)]
    if program in fits:
        return OPERATIONS[program], ""
    if program:
        each = max(cells, key=lambda cell: cell.algbw)
        others = f", as of {' or '.join(f'{name}_perf' for name in fits)}" if fits else ""
        what = f"busbw / algbw = {each.busbw:g} / {each.algbw:g}{others}"
        own = f"of {program}_perf with {ranks} ranks it is {bus_factor(OPERATIONS[program], ranks):.4g}"
        return "", f"{what}, but {own}: the log of another program, or of another number of ranks"
    likely = [name for name in fits if _is_likely(name, ranks, cells[-1])]
    if len(likely) == 1:
        return OPERATIONS[likely[0]], ""
    how = "keep its command in the log, or name the file after it, e.g. all_gather_perf.log"
    return "", f"no line says which program ran; {how}; read are {_PROGRAMS}"


def _is_likely(program: str, ranks: int, cells: _Cells) -> bool:
    """Whether a line whose rates fit a program has also its other columns; rates alike to those of broadcast and reduce tell nothing."""
    adds, in_place = cells.redop in _REDUCTIONS, _is_number(cells.wrong_in_place)
    checked = cells.root == "-1" and _is_number(cells.wrong)
    return {
        "all_reduce": adds and ranks > 2,
        "reduce_scatter": adds,
        "all_gather": checked and not adds and in_place,
        "alltoall": checked and not adds and not in_place,
    }.get(program, False)


def _is_ratio(cells: _Cells, factor: float) -> bool:
    return abs(cells.busbw - factor * cells.algbw) <= _ROUNDED * (1.0 + factor) + _SHARE * cells.busbw


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
