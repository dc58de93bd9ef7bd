"""`pareto`: the plans of a space that no other beats in step time, memory and devices; and the same by tensor and pipeline degree.

All plans are bounded as columns; only those whose bound leaves a choice are priced exactly, and the answer is that of pricing all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.errors import PlanError
from parsim.estimator.cells import SPEED, rows_of
from parsim.estimator.estimate import OnProgress
from parsim.estimator.result import Estimate, Estimates
from parsim.goodput.long_run import as_planned
from parsim.plain import Plain
from parsim.planner.bounded import Bounded
from parsim.planner.space import AnySpace

if TYPE_CHECKING:
    from parsim.scenario import Scenario

CELL: Final = ("tensor_parallel", "pipeline_parallel")


class Front(Plain, frozen=True):
    """The plans that fit and that no other beats, fastest first: less memory, or fewer devices, only for a longer step."""

    rows: tuple[Estimate, ...]
    num_legal: int
    num_fit: int

    def records(self) -> list[dict[str, object]]:
        """A row a plan."""
        return [{"devices": each.plan.num_devices, **each.records()[0]} for each in self.rows]

    def cells(self) -> list[dict[str, str]]:
        """The same as `parsim plan --pareto` shows it: where their number varies, the devices stand in place of the speed."""
        counts = [f"{each.plan.num_devices:,}" for each in self.rows]
        if len({*counts}) < 2:
            return rows_of(self.rows)
        rows = rows_of(self.rows, [{"devices": count} for count in counts])
        return [{name: text for name, text in row.items() if name != SPEED} for row in rows]


class Landscape(Struct, frozen=True):
    """Of each tensor and pipeline degree the plans that no other of these degrees beats; where none fits, the nearest instead."""

    plans: Estimates  # with exact steps
    on_front: tuple[bool, ...]  # whether no other plan at all beats it; never one that does not fit


@check_arguments
def pareto(
    scenario: Scenario, *, space: AnySpace = None, runnable: bool = False, num_nodes: Sequence[int] = (), progress: OnProgress = None
) -> Front:
    """The plans that fit and that no other beats in step time, memory and devices: of those that `plan` ranks.

    Without a space, the optimizer on the host and modules that run again take part where a plan does not fit without, as there; a space
    with offload_optimizer = auto has them everywhere.

    Args:
        scenario: as in `plan`; so are space, runnable and progress.
        num_nodes: clusters of so many nodes are considered; the scenario's own where left out.

    Raises:
        PlanError: no plan of the space is legal on any of the clusters.
        ScenarioError: as in `plan`, or several nodes without a fabric.

    >>> import parsim
    >>> rows = pareto(parsim.load("scenarios/tiny.yaml"), space={"tensor_parallel": "auto", "recompute": ["none", "full"]}).rows
    >>> rows[0].step_s < rows[-1].step_s, rows[0].peak_bytes > rows[-1].peak_bytes
    (True, True)
    """
    found: list[Estimate] = []
    num_legal, num_fit, error = 0, 0, None
    for count in num_nodes or (scenario.cluster.num_nodes,):
        sized = on_nodes(scenario, count)
        try:
            bounded = Bounded.of(sized, space, runnable=runnable, progress=progress)
        except PlanError as nothing:
            error = nothing
            continue
        num_legal, num_fit = num_legal + len(bounded.plans), num_fit + int(bounded.fits.sum())
        members = bounded.front(np.flatnonzero(bounded.fits))
        found += bounded.explain(members)
    if error and not num_legal:
        raise error
    rows = sorted(_unbeaten(found), key=lambda each: (each.step_s, each.peak_bytes, each.plan.num_devices))
    return Front(tuple(rows), num_legal, num_fit)


def on_nodes(scenario: Scenario, num_nodes: int) -> Scenario:
    """The scenario on so many nodes; its plans stay only where these are as many as before, and so does what disturbs devices and links,
    which it names by their numbers.

    Raises:
        PlanError: its nodes are of several kinds, and these are not as many.
    """
    if scenario.cluster.groups and num_nodes != scenario.cluster.num_nodes:
        raise PlanError("other numbers of nodes are not built for nodes of several kinds", scenario.path, "Change cluster.nodes.")
    cluster = replace(scenario.cluster, num_nodes=num_nodes)
    return scenario if cluster == scenario.cluster else replace(as_planned(scenario), cluster=cluster, plans={})


def _unbeaten(found: Sequence[Estimate]) -> list[Estimate]:
    """Those that no other equals or beats in all of step, memory and devices; of equals the first."""
    each = np.array([(one.step_s, one.peak_bytes, one.plan.num_devices) for one in found]).reshape(-1, 3)
    kept = []
    for place, row in enumerate(each):
        as_good = np.all(each <= row, axis=1)
        if not np.any(as_good & np.any(each < row, axis=1)) and not np.any(as_good[:place]):
            kept.append(found[place])
    return kept


def landscape(bounded: Bounded, progress: OnProgress = None) -> Landscape:
    """What a figure of a space shows; `progress` is told the share of its cells that is done."""
    _, cell = bounded.plans.distinct(CELL)
    cells = [np.flatnonzero(cell == each) for each in sorted({*cell.tolist()})]
    fitting = [own[bounded.fits[own]] for own in cells]
    fronts = bounded.fronts(fitting, progress)
    shown = [front if len(front) else own[[np.argmin(bounded.fill[own])]] for own, front in zip(cells, fronts, strict=True)]
    chosen = [bool(len(front)) for front in fronts for _ in range(max(1, len(front)))]
    rows, fit = np.concatenate(shown), np.array(chosen)
    bounded.finish(rows)
    best = set(bounded.front(rows[fit]).tolist()) if fit.any() else set()
    return Landscape(bounded.estimates(rows), tuple(row in best for row in rows.tolist()))
