"""What the planner ranks by.

With model, batch and devices given, all objectives but energy and those of a whole run follow from the step alone, and the shortest step
is best: they rank by it; MFU of several precisions by it and the peak of each.  Goodput is of tokens that count a second, with all that
failures cost; time and cost of the training count that, too, and waiting for input, where the scenario states it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.errors import PlanError, did_you_mean
from parsim.estimator.busy import busy_ps
from parsim.estimator.estimate import Priced
from parsim.estimator.power import joules
from parsim.estimator.whole import num_steps, tdp_w, usd_per_device_hour
from parsim.goodput.columns import check_ranks, check_run, planned_steps
from parsim.parallel.plan import Plan
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario


def _power_w(scenario: Scenario) -> float:
    """The design power of a device, where all are alike."""
    if scenario.cluster.groups:
        raise PlanError("energy as an objective is not built for nodes of several kinds", scenario.path, "Rank by step_time.")
    return tdp_w(scenario.cluster.node.accelerator, scenario.path)


# Each with what it needs to be told, which raises where nobody tells it.
OBJECTIVES: Final[Mapping[str, tuple[Callable[[Scenario], object], ...]]] = {
    **dict.fromkeys(("step_time", "tokens_per_s", "tokens_per_s_per_device", "mfu"), ()),
    **dict.fromkeys(("time_to_tokens", "device_hours"), (num_steps, check_run)),
    "cost": (num_steps, usd_per_device_hour, check_run),
    "energy": (_power_w,),
    "goodput": (check_ranks,),
}
OF_RUN: Final = ("time_to_tokens", "device_hours", "cost", "goodput")  # of a step that counts in a run
# What is to be least, of steps, or bounds below them, and the indices of their plans: it never falls where a step grows, so that
# of a bound it is a bound.
Least = Callable[[Ints, Ints], Ints]


def check_objective(objective: str, scenario: Scenario) -> None:
    """Refuse one that is unknown, or needs what nobody tells: all of that at once.

    Raises:
        PlanError: it is so.
    """
    if objective not in OBJECTIVES:
        raise PlanError(f"unknown objective '{objective}'{did_you_mean(objective, OBJECTIVES)}", remedy=f"Known: {', '.join(OBJECTIVES)}.")
    lacking = []
    for needs in OBJECTIVES[objective]:
        try:
            needs(scenario)
        except PlanError as error:
            lacking.append(error)
    if lacking:
        what, remedy = "; ".join(each.what for each in lacking), " ".join(each.remedy for each in lacking)
        raise PlanError(what, lacking[0].where, remedy)


def peak_beside(scenario: Scenario, precision: str | None) -> float:
    """The peak that stands below MFU in a precision, over that of the batch's own."""
    trained = scenario.trained_by(Plan(precision=precision))
    dtypes = (each.batch.measured_against(each.model) for each in (trained, scenario))
    own, usual = (scenario.cluster.mean(lambda node: node.accelerator.peak(dtype)) for dtype in dtypes)  # noqa: B023
    return own / usual


def loss_of(objective: str, priced: Priced) -> Least:
    """What an objective makes least: picoseconds of the step, for MFU as many as in the batch's precision, or joules of a device in it;
    of a run picoseconds a step that counts.
    """
    if objective == "mfu":
        shares, which = priced.plans.each(("precision",), lambda plan: peak_beside(priced.scenario, plan.precision))
        return lambda steps, rows: np.asarray(steps * np.array(shares)[which[rows]])
    if objective in OF_RUN and (whole := planned_steps(priced)):
        return whole
    if objective != "energy":
        return lambda steps, _: steps
    tdp, ranks = _power_w(priced.scenario), priced.plans.columns["pipeline_parallel"]
    drawn = priced.scenario.cluster.node.accelerator.busy_w
    busy = priced.figures(busy_ps)[0] / ranks  # of the mean device
    return lambda steps, rows: joules(tdp, steps / PS_PER_S, busy[rows] / PS_PER_S, drawn)
