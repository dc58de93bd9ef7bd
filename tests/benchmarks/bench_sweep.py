"""A sweep in one run: points a second with 0 and 2 workers, the length of chunks, and what a second run takes from the cache.

python tests/benchmarks/bench_sweep.py [POINTS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clean import table

from parsim.sweeps import SweepResult, sweep, workers

BASE = Path(__file__).parents[2] / "scenarios/table5-22b.yaml"


@contextmanager
def chunk_seconds() -> Iterator[list[tuple[int, float]]]:
    """The results and the seconds of each chunk that is taken back meanwhile."""
    seen: list[tuple[int, float]] = []
    wait = workers.wait

    def noted(pending: object, **how: str) -> object:
        found = wait(pending, **how)  # type: ignore[arg-type]
        seen.extend((len(results), seconds) for results, seconds in (each.result() for each in found.done))
        return found

    workers.wait = noted  # type: ignore[assignment]
    try:
        yield seen
    finally:
        workers.wait = wait


def run(count: int, num_workers: int, cache: Path) -> tuple[SweepResult, float, list[tuple[int, float]]]:
    """The result, its seconds, and its chunks."""
    over = {"batch.global_batch": [4 * n for n in range(1, count + 1)]}
    with chunk_seconds() as chunks:
        start = time.perf_counter()
        result = sweep(BASE, over=over, plan="seqsel", workers=num_workers, cache=cache)
        return result, time.perf_counter() - start, chunks


def main() -> None:
    """Print a row for each number of workers, and one for the second run."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rows, seconds, results = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, num_workers, file in (("0 workers", 0, "a"), ("2 workers", 2, "b"), ("again", 0, "b")):
            results[name], seconds[name], chunks = run(count, num_workers, Path(folder) / file)
            longest = f"{max(each for _, each in chunks):.2f}" if chunks else ""
            middle = f"{sorted(each for _, each in chunks)[len(chunks) // 2]:.2f}" if chunks else ""
            hits = f"{results[name].num_cached / count:.0%}"
            rows.append([name, f"{count / seconds[name]:.1f}", str(len(chunks)), middle, longest, hits])
    print(table(["run", "points/s", "chunks", "median s", "longest s", "cache hits"], rows))
    print(f"2 workers : 0 = {seconds['0 workers'] / seconds['2 workers']:.2f}, start of processes included; the rows are equal:", end=" ")
    print(results["0 workers"].rows == results["2 workers"].rows == results["again"].rows)


if __name__ == "__main__":
    main()
