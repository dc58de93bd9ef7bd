"""Plans as columns, each with what it holds: its step is bounded where that is asked, and exact where the bounds leave a choice."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.estimator.estimate import OnProgress, Priced, estimates_of
from parsim.estimator.pipeline import lower_bound
from parsim.estimator.result import Estimate, Estimates
from parsim.parallel.plans import Plans
from parsim.planner.relief import relief
from parsim.planner.space import AnySpace, candidates, space_named
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_TIES: Final = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch", "recompute")


class Bounded:
    """Plans as columns, and what they hold; each is bounded, and priced exactly, at most once."""

    def __init__(self, scenario: Scenario, plans: Plans, progress: OnProgress = None, known: Bounded | None = None) -> None:
        """`known`: the same of the first of the plans."""
        self.priced, self.plans = Priced(scenario, plans), plans
        more = np.arange(len(known.plans), len(plans)) if known else None
        found = self.priced.sizes(more, progress)
        self.sizes: Ints = np.hstack([known.sizes, found]) if known else found
        self.peaks, self.holds, self.hosts = self.sizes
        self.bound_ps, self.exact_ps = np.full((2, len(plans)), -1)  # of those that were asked for
        every = estimates_of(self.priced, np.arange(len(plans)), np.zeros(len(plans)), self.sizes)
        self.fill, self.short_of = every.fill, every.short_of
        self.fits = self.fill <= 1

    @classmethod
    def of(cls, scenario: Scenario, space: AnySpace = None, *, runnable: bool = False, progress: OnProgress = None) -> Bounded:
        """The legal plans of a space; without one all that `plan` tries, whatever the last place takes.  Arguments and errors as there."""
        chosen = space_named(scenario, space)
        found = candidates(scenario, chosen, runnable=runnable)
        first = cls(scenario, found.plans, progress)
        variants = relief(first.priced, first.bounds, first.peaks, first.holds, found.num_in_space)[0] if chosen is None else []
        return cls(scenario, functools.reduce(Plans.join, variants, found.plans), progress, first) if variants else first

    def explain(self, rows: Ints, names: Mapping[int, str] | None = None) -> list[Estimate]:
        """Some of the plans, each with its reasons and the name of its row."""
        return self.priced.explain(rows, [(names or {}).get(row, "") for row in rows.tolist()])

    def estimates(self, rows: Ints) -> Estimates:
        """Some of the plans with their exact steps."""
        return estimates_of(self.priced, rows, self.finish(rows) / PS_PER_S, self.sizes)

    def bounds(self, rows: Ints) -> Ints:
        """Picoseconds below the steps of some plans."""
        new = rows[self.bound_ps[rows] < 0]
        if len(new):
            self.bound_ps[new] = self.priced.figures(lower_bound, rows=new)[0]
        return np.asarray(self.bound_ps[rows])

    def finish(self, rows: Ints) -> Ints:
        """The exact steps of some plans."""
        new = rows[self.exact_ps[rows] < 0]
        if len(new):
            self.exact_ps[new] = self.priced.steps(new, explained=True)
        return np.asarray(self.exact_ps[rows])

    def front(self, rows: Ints) -> Ints:
        """Those of some plans that no other of them beats in step and memory, least memory first; of equals the smallest degrees."""
        return self.fronts([rows])[0]

    def fronts(self, many: Sequence[Ints], progress: OnProgress = None) -> list[Ints]:
        """The same of several sets of plans: what they leave open is priced together; `progress` is told the share of the sets."""
        orders = [rows[np.lexsort((*_tie_columns(self.plans.take(rows)), self.peaks[rows]))] for rows in many]
        self.bounds(np.concatenate([*orders, np.zeros(0, np.int64)]))
        found, left, ahead = dict[int, Ints](), dict(enumerate(orders)), 1
        while left:
            for number, order in [*left.items()]:
                stairs = self._stairs(order)
                if (self.exact_ps[stairs] >= 0).all():
                    found[number] = stairs[np.diff(self.peaks[stairs], append=-1) != 0]  # the last of those that hold as much
                    del left[number]
            self.finish(np.concatenate([*(self._open(order, ahead) for order in left.values()), np.zeros(0, np.int64)]))
            ahead *= 2  # plans of one structure cost little more than one of them
            if progress:
                progress(len(found) / max(1, len(many)))
        return [found[number] for number in range(len(many))]

    def _stairs(self, order: Ints) -> Ints:
        """Those of some plans, least memory first, whose steps, or bounds below them, are below all that hold no more."""
        least = np.minimum.accumulate(np.maximum(self.bound_ps[order], self.exact_ps[order]))
        return order[np.flatnonzero(np.diff(least, prepend=np.iinfo(np.int64).max))]

    def _open(self, order: Ints, ahead: int) -> Ints:
        """Plans that are not priced and may be of the front; then, so often, those that may where none of these is."""
        found = [np.zeros(0, np.int64)]
        for _ in range(ahead):
            stairs = self._stairs(order)
            found.append(stairs[self.exact_ps[stairs] < 0])
            if not len(found[-1]):
                break
            order = order[~np.isin(order, found[-1])]
        return np.concatenate(found)


def _tie_columns(plans: Plans) -> list[Ints]:
    """What plans that are equal are ordered by, for lexsort."""
    ranks = {name: np.argsort(np.argsort(values)) for name, values in plans.values.items() if name in _TIES}
    return [ranks[name][plans.columns[name]] if name in ranks else plans.columns[name] for name in reversed(_TIES)]
