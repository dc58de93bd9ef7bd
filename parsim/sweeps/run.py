"""`sweep`: all points in chunks of about half a second, each kept as soon as it is there; the rows stand in the order of the points."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from parsim.arguments import check_arguments
from parsim.parallel.plan import KEYS
from parsim.plain import Plain, flat
from parsim.sweeps.cache import ResultCache
from parsim.sweeps.chunk import SweepQuestion
from parsim.sweeps.key import keys_of
from parsim.sweeps.points import Sweep, SweepPoint, SweepSource, read_sweep
from parsim.sweeps.workers import chunks, open_executor

_NONE: Final[Mapping[str, Any]] = {}


class SweepRow(Plain, frozen=True):
    """A plan of a point: its figures in SI units, or why there are none."""

    point: int
    scenario: str
    changes: Mapping[str, Any]
    name: str  # of the plan
    plan: Mapping[str, Any]  # under the names of a scenario file; of one that is no plan, what was written
    figures: Mapping[str, Any]
    reason: str  # why it cannot be trained so; "" where it can

    def records(self) -> list[dict[str, object]]:
        """Itself: what varies by its path, then plan, figures and reason."""
        changes = {path: json.dumps(value) if isinstance(value, list | dict) else value for path, value in self.changes.items()}
        place = {"point": self.point, "scenario": self.scenario, **changes, "plan": self.name}
        return [{**place, **flat(self.plan), **self.figures, "reason": self.reason}]


class SweepResult(Plain, frozen=True):
    """The rows in the order of the points, whoever computed them and when."""

    name: str
    rows: tuple[SweepRow, ...]
    num_points: int
    num_estimated: int  # plans and best plans, each once
    num_cached: int  # rows that were in the cache

    def records(self) -> list[dict[str, object]]:
        """Its rows."""
        return [row for each in self.rows for row in each.records()]


class SweepProgress(Struct, frozen=True):
    """How many rows are there, of how many, and how many of these were in the cache from the first."""

    num_known: int
    num_rows: int
    num_cached: int


@check_arguments
def sweep(
    sources: SweepSource | Sequence[SweepSource],
    *,
    over: Mapping[str, Sequence[Any]] = _NONE,
    changes: Mapping[str, Any] = _NONE,
    plan: str | None = None,
    executor: Executor | None = None,
    workers: int = 0,
    cache: str | Path | None = None,
    resume: bool = True,
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """The plans of every point of sweep files or scenarios; the same rows, whatever executes them and in which order.

    Args:
        over: values by dotted path, beside those of a sweep file: {"cluster.num_nodes": [1, 2, 4]}.
        changes: values in all points, by dotted path, as `parsim.load` takes them.
        plan: "named", each plan without open axes; "best", the best of each space; or the name of one.  None: as the file says, or named.
        executor: any executor of the standard library's kind; it stays open.
        workers: chunks that are under way at a time; without an executor as many processes, 0: this one alone.
        cache: the file where results are kept as soon as they are there.  None: they are not.
        resume: whether what the cache has is taken from there.
        progress: is told how far it is.

    Raises:
        ScenarioError: a file is wrong, other than in what varies.
        ParsimError: the cache cannot be used, or a worker ended before its work.

    >>> found = sweep("scenarios/table5-22b.yaml", over={"batch.global_batch": [4, 8]})
    >>> [(row.changes["batch.global_batch"], row.name) for row in found.rows]
    [(4, 'full'), (4, 'seqsel'), (8, 'full'), (8, 'seqsel')]
    """
    asked = read_sweep([sources] if isinstance(sources, str | Path | Mapping) else sources, plan, over, changes)
    return sweep_points(asked, executor=executor, workers=workers, cache=cache, resume=resume, progress=progress)


def sweep_points(
    asked: Sweep,
    *,
    executor: Executor | None = None,
    workers: int = 0,
    cache: str | Path | None = None,
    resume: bool = True,
    progress: Callable[[SweepProgress], None] | None = None,
) -> SweepResult:
    """The same of points that are read already."""
    with ResultCache(cache) as kept:
        work = _Work.of(asked.points)
        if resume:
            work.results.update((key, found) for key in work.questions if (found := kept.find(key)) is not None)
        missing = [(key, each) for key, each in work.questions.items() if key not in work.results]
        rows = Counter(each.key for each in work.cells)  # of each question; of none: those that need no answer
        num_cached = sum(rows[key] for key in work.results)
        num_known = num_cached + rows[""]
        with open_executor(executor, workers) as (chosen, width):
            for finished in chunks(chosen, missing, width):
                kept.keep(finished)
                work.results.update(finished)
                num_known += sum(rows[key] for key, _ in finished)
                if progress:
                    progress(SweepProgress(num_known, len(work.cells), num_cached))
    return SweepResult(asked.name, tuple(work.rows(asked.points)), len(asked.points), len(missing), num_cached)


class _Cell(Struct, frozen=True):
    """A row that waits for its result; with a reason it needs none."""

    point: int
    scenario: str
    name: str
    written: Any
    key: str
    reason: str


class _Work(Struct, frozen=True):
    """All rows, what is to be answered for them, each once, and the answers that are there."""

    cells: list[_Cell]
    questions: dict[str, SweepQuestion]
    results: dict[str, str]

    @classmethod
    def of(cls, points: Sequence[SweepPoint]) -> _Work:
        """All that the points ask."""
        work = cls([], {}, {})
        for index, point in enumerate(points):
            built = point.build()
            names = built.names(point.plan)
            keys = keys_of(built.scenario, names) if built.scenario else {}
            for name in names:
                reason = built.reason(name)
                key = "" if reason else keys[name]
                work.cells.append(_Cell(index, built.name, name, built.plans.get(name), key, reason))
                if key:
                    work.questions.setdefault(key, SweepQuestion(point, name))
        return work

    def rows(self, points: Sequence[SweepPoint]) -> Iterator[SweepRow]:
        """The rows, once all answers are there."""
        for each in self.cells:
            result: dict[str, Any] = {"plan": {}, "figures": {}, "reason": each.reason}
            if each.key:
                result = json.loads(self.results[each.key])
            written = each.written if isinstance(each.written, dict) else {}
            plan = result["plan"] or {name: value for name, value in written.items() if name in KEYS and isinstance(value, str | int)}
            changes = dict(points[each.point].changes)
            yield SweepRow(each.point, each.scenario, changes, each.name, plan, result["figures"], result["reason"])
