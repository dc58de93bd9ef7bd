"""What `plan` answers: the best plans, best first, and how many others there were."""

from __future__ import annotations

from typing import ClassVar, Final

from parsim.errors import NoFeasiblePlan
from parsim.estimator.cells import rows_of
from parsim.estimator.result import Estimate
from parsim.plain import Plain
from parsim.planner.constraints import Cut
from parsim.planner.grid import Rejected

_ADVICE: Final = "parsim.remedies(scenario, ranking.nearest.plan) says which changes would fit."


class Contention(Plain, frozen=True):
    """What is known of a ranking by simulated contention beside the steps."""

    alone_s: tuple[float | None, ...]  # of each row that was simulated: its estimate, the step if each collective had its links to itself
    is_best: bool  # no plan beyond the rows, or not simulated, can take less than the first


class Ranking(Plain, frozen=True):
    """The best plans by an objective, best first, and how many were considered.

    A plan that the scenario names bears that name, others none.  `nearest` is the plan that misses its memory, the device's or the host's,
    by least, where none fits; `beyond` the best of those that fit where the limits leave none.
    """

    # Share of a step by which runs of one configuration and software differ in the median.  Source: 21 groups of equal submissions to
    # MLPerf Training (mlcommons.org/benchmarks/training).
    NOISE: ClassVar[float] = 0.022

    rows: tuple[Estimate, ...]
    num_legal: int
    num_over_memory: int
    nearest: Estimate | None
    rejected: tuple[Rejected, ...]  # combinations of values that are no legal plan, or not tried, by why
    num_combinations: int = 0  # of values of the axes: those that are legal plans of the space, and those rejected
    # How many of all that fit cannot be told from the first: their steps differ by less than repeated runs of one plan do.  How far the
    # energy of repeated runs differs is not known: ranked by it, 1.
    alike: int = 0
    outside: tuple[str, ...] = ()  # plans that the scenario names and that are none of the space
    nothing_legal: str = ""  # where no plan of the space is legal, why not those that other rules leave
    num_over_host: int = 0  # of those over memory: they fit their device
    objective: str = "step_time"
    cuts: tuple[Cut, ...] = ()  # plans that fit, by the limit that keeps them out
    beyond: Estimate | None = None
    # Of each row: whether links are asked for more than they carry by collectives that overlap, which its estimate leaves out.
    shares: tuple[bool | None, ...] = ()  # None: not known, since not looked at or by too many events only
    contention: Contention | None = None  # ranked anew by simulated contention

    @property
    def best(self) -> Estimate:
        """The first.

        Raises:
            NoFeasiblePlan: none fits.
        """
        if self.rows:
            return self.rows[0]
        said = f"; the nearest: {self.nearest.shortage}" if self.nearest else ""
        raise NoFeasiblePlan(f"none of {self.num_legal:,} legal plans fits{said}", remedy=_ADVICE, ranking=self)

    def records(self) -> list[dict[str, object]]:
        """A row a plan."""
        alone = [{"alone_step_s": each} for each in self.contention.alone_s] if self.contention else [{}] * len(self.rows)
        return [{"place": place, **each.records()[0], **more} for place, (each, more) in enumerate(zip(self.rows, alone, strict=True), 1)]

    def cells(self) -> list[dict[str, str]]:
        """The same as `parsim plan` shows it."""
        names = [f"{each.name}{' (not of the space)' if each.name in self.outside else ''}" for each in self.rows]
        named = [{"plan": name} if any(names) else {} for name in names]
        rows = zip(named, rows_of(self.rows), strict=True)
        return [{"#": str(place), **name, **row} for place, (name, row) in enumerate(rows, 1)]

    @property
    def not_simulated(self) -> tuple[int, ...]:
        """Places of rows whose collectives overlap, and whose steps do not count that."""
        simulated = [each is not None for each in self.contention.alone_s] if self.contention else [False] * len(self.rows)
        return tuple(place for place, (own, done) in enumerate(zip(self.shares, simulated, strict=False), 1) if own and not done)

    def slower_by(self, place: int) -> dict[str, float]:
        """Seconds of each part of the step beyond those of the first plan, what costs most first; they sum to how much slower it is."""
        first, other = (dict(self.rows[each].breakdown_s) for each in (0, place))
        more = {part: other.get(part, 0.0) - first.get(part, 0.0) for part in dict.fromkeys((*first, *other))}
        return dict(sorted(more.items(), key=lambda each: -each[1]))

    @property
    def num_fit(self) -> int:
        """Plans that fit their device."""
        return self.num_legal - self.num_over_memory
