"""Timing on a shared machine: each sample says how long its threads waited for a core, and those that waited are dropped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from parsim.calibrate.gate import Gate
from parsim.calibrate.samples import Samples

Seen = list[tuple[float, float]]  # of one rank: wall seconds of a call, and what its threads waited meanwhile
NONE = "SKIP, no clean sample"


def sample(gate: Gate, act: Callable[[], object], calls: int = 1) -> tuple[float, float]:
    """Wall and waiting seconds of one of `calls` calls."""
    waited, start_s = gate.wait_ns(), time.perf_counter()
    for _ in range(calls):
        act()
    end_s = time.perf_counter()
    return (end_s - start_s) / calls, (gate.wait_ns() - waited) * 1e-9 / calls


def join(ranks: Iterable[Seen], *, every: bool = False) -> Samples:
    """Samples of what all ranks did together: as long as the slowest, and clean where all are; `every` keeps the others too."""
    found = Samples()
    for seen in zip(*ranks, strict=True):
        wait_s = 0.0 if every else max(wait for _, wait in seen)
        found.add(max(wall for wall, _ in seen), wait_s, 0.0)  # the least of many is at full pace anyway
    return found


def least_s(samples: Samples | None) -> float | None:
    """The least clean sample; None where there is none."""
    return min(samples.seconds) if samples and samples.seconds else None


def ratio(above: float | None, below: float | None) -> str:
    """Two figures' ratio, as far as both are there."""
    return "SKIP" if above is None or below is None else f"{above / below:.2f}"


def counts(samples: Samples) -> str:
    """How many samples were clean."""
    return f"{len(samples.seconds)}/{len(samples.seconds) + samples.num_dropped}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
