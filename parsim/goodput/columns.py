"""The time that plans take for a step that counts, with all that failures and checkpoints cost: columns, as the planner ranks by them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from parsim.cluster.scalars import Floats, Ints
from parsim.errors import PlanError
from parsim.estimator.estimate import Priced
from parsim.estimator.passes import Stages
from parsim.estimator.result import Estimate
from parsim.feed.closed_forms import steady_stall_ps
from parsim.feed.supply import line_ps
from parsim.goodput.long_run import as_planned, in_a_run
from parsim.goodput.predict import checkpoint_of, goodput_of, interval_of, times_of
from parsim.goodput.renewal import efficiency, waiting_share
from parsim.goodput.size import CheckpointBytes, checkpoint_bytes
from parsim.parallel.plan import KEYS, MESH
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# What a plan does to a micro_batch changes nothing of what lasts: plans that differ in this alone write the same checkpoint.
_OF_PASSES: Final = ("micro_batch", "recompute", "recompute_every", "recompute_ops", "recompute_modules")
_KEPT_BY: Final = tuple(name for name in KEYS if name not in _OF_PASSES)
_FED_BY: Final = (*MESH, "rank_order", "micro_batch", "schedule")  # the fields of a plan that say what each reader makes for a step


def check_run(scenario: Scenario) -> None:
    """Refuse a scenario whose plans cannot be ranked by the time of the whole training.

    Raises:
        PlanError: it says what is kept against failures, and its runs shrink.
    """
    if scenario.checkpoint is not None:
        check_ranks(scenario)


def check_ranks(scenario: Scenario) -> None:
    """Refuse a scenario whose plans cannot be ranked by goodput.

    Raises:
        PlanError: it says nothing of checkpoints, or its runs shrink, which asks for the steps of each plan on fewer devices.
    """
    checkpoint_of(scenario)
    if scenario.failures is not None and scenario.failures.elastic:
        remedy = "Rank with --set failures.elastic=false; parsim run tells the goodput of elastic runs."
        raise PlanError("ranking by goodput is not built for elastic runs", scenario.path, remedy)


def fed_steps(priced: Priced) -> Callable[[Ints, Ints], Ints]:
    """Of steps, or bounds below them, and the indices of their plans: picoseconds with what they wait for input, at its mean times."""
    scenario = priced.scenario
    if scenario.input is None:
        return lambda steps, rows: steps
    prefetch = scenario.input.prefetch

    def made_in(first: Ints) -> Ints:  # of the slowest stage; without prefetch of all, one after another
        asked = priced.plans.some(first, _FED_BY)
        return np.array([[steady_stall_ps(line_ps(scenario, plan), 0, prefetch) for plan in asked]], dtype=np.int64)

    batches = _once(priced, _FED_BY, 1, made_in)
    return lambda steps, rows: np.maximum(steps, batches(rows)[0]) if prefetch else steps + batches(rows)[0]


def planned_steps(priced: Priced) -> Callable[[Ints, Ints], Ints] | None:
    """The same with all that the scenario states of a run, but what disturbs it; None where it states nothing."""
    if priced.scenario.checkpoint is not None:
        whole = seconds_a_step(priced)
        return lambda steps, rows: np.asarray(whole(steps, rows))
    return fed_steps(priced) if priced.scenario.input is not None else None


def planned_step_s(scenario: Scenario, found: Estimate) -> float:
    """Seconds of a step that counts of one plan, as the planner counts."""
    planned = as_planned(scenario)
    run = in_a_run(planned, found)
    share = 1.0 if planned.checkpoint is None else goodput_of(planned, run).goodput
    return run.step_s / share if share else inf


def seconds_a_step(priced: Priced) -> Callable[[Ints, Ints], Floats]:
    """Of steps, or bounds below them, and the indices of their plans: picoseconds a step that counts, never less where a step is longer."""
    scenario = priced.scenario
    checkpoint, failures, fed = checkpoint_of(scenario), scenario.failures, fed_steps(priced)
    sizes = _sizes(priced, checkpoint.writers)

    def whole(steps: Ints, rows: Ints) -> Floats:
        steps, size = fed(steps, rows), sizes(rows)
        cycle = times_of(scenario, size).cycle
        shares = efficiency(cycle, interval_of(checkpoint, cycle, steps / PS_PER_S))
        waiting: Any = 0.0
        if failures is not None and failures.repair_s is not None:
            rates = failures.rates.by_cause(size.num_devices, scenario.cluster.num_nodes)
            waiting = waiting_share(failures.spare_nodes + 1, (rates["device"] + rates["node"]) * failures.repair_s)
        with np.errstate(divide="ignore"):  # of a run that keeps nothing
            return np.asarray(steps / shares / (1 - waiting))

    return whole


def _sizes(priced: Priced, writers: str) -> Callable[[Ints], CheckpointBytes]:
    """The checkpoints of plans by their indices; of plans that write the same each is looked at once."""
    once = lru_cache(maxsize=1)(lambda stages: checkpoint_bytes(stages, writers))
    folds = [partial(_figure, once, name) for name in CheckpointBytes.__struct_fields__]
    found = _once(priced, _KEPT_BY, len(folds), lambda first: priced.figures(*folds, rows=first))
    return lambda rows: CheckpointBytes(*found(rows))


def _once(priced: Priced, fields: tuple[str, ...], num_figures: int, find: Callable[[Ints], Ints]) -> Callable[[Ints], Ints]:
    """Figures of plans by their indices, [figure, plan], that depend on these fields alone: found once, and where somebody asks."""
    first, which = priced.plans.distinct(fields)
    known, found = np.zeros(len(first), dtype=bool), np.zeros((num_figures, len(first)), dtype=np.int64)

    def figures(rows: Ints) -> Ints:
        asked = np.unique(which[rows])
        if len(new := asked[~known[asked]]):
            found[:, new], known[new] = find(first[new]), True
        return found[:, which[rows]]

    return figures


def _figure(once: Callable[[Stages], CheckpointBytes], name: str, stages: Stages) -> Ints:
    return np.asarray(getattr(once(stages), name))
