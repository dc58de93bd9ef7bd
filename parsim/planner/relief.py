"""What saves memory and costs time, tried of the planner's own accord where a plan does not fit without: the optimizer on the host, and
single modules that run again; never both of one plan, which a space or `remedies` says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.estimator.estimate import Priced
from parsim.estimator.memory import lasting_bytes
from parsim.estimator.passes import Stages
from parsim.parallel.plan import KEYS, Plan
from parsim.parallel.plans import Plans
from parsim.parallel.stack_limits import reasons
from parsim.planner.accord import module_sets
from parsim.planner.canonical import canonical
from parsim.planner.grid import Rejected
from parsim.schedules.columnar import Bools

_BUT_RECOMPUTE: Final = tuple(name for name in KEYS if name != "recompute")


def relief(
    priced: Priced, bounds: Callable[[Ints], Ints], peaks: Ints, holds: Ints, num_in_space: int, last_ps: float = math.inf
) -> tuple[list[Plans], list[Rejected]]:
    """The variants of plans that may fit and be no slower than `last_ps`, and how many were left out, by why.

    Of the first plans, which are of the space.  A variant takes no less time than the plan, whose bound holds for it, too: `bounds`
    says that of some plans; `holds`: what the device of each of their `peaks` can hold.
    """
    scenario, found, rejected = priced.scenario, list[Plans](), list[Rejected]()
    lacks = peaks > holds
    for name, values, can, may_fit in _kinds(priced, peaks, holds):
        left = can & (np.arange(len(can)) < num_in_space)
        runs = not values or not reasons(Plan(**{name: values[0]}), scenario.model, scenario.stack)
        speaks_against = {
            "the stack cannot": np.full(len(lacks), not runs),
            "it fits without": ~lacks,
            "it saves too little": ~may_fit,
            "it is too slow without": _slower(left & runs & lacks & may_fit, bounds, last_ps),
        }
        for why, wrong in speaks_against.items():
            if count := int(np.sum(left & wrong)) * len(values):
                rejected.append(Rejected(f"{name}, {why}", count, f"of its own accord the planner does not try {name} where {why}"))
            left = left & ~wrong
        rows = priced.plans.take(np.flatnonzero(left))
        found += [rows.put(name, [value], np.zeros(len(rows), dtype=np.int64)) for value in values if len(rows)]
    return found, rejected


def _slower(asked: Bools, bounds: Callable[[Ints], Ints], last_ps: float) -> Bools:
    """Which of some plans are slower than that, of their own."""
    found, rows = np.zeros(len(asked), dtype=bool), np.flatnonzero(asked)
    found[rows] = bounds(rows) > last_ps if last_ps < math.inf else False
    return found


def _kinds(priced: Priced, peaks: Ints, holds: Ints) -> Iterator[tuple[str, list[Any], Bools, Bools]]:
    """A field with the values that save memory, the plans that can have them, and those that may fit with them."""
    plans, scenario = priced.plans, priced.scenario
    on_device = plans.numbers(("offload_optimizer",), lambda plan: not plan.offload_optimizer) > 0
    (saved,) = priced.figures(_most_on_host)
    if not scenario.cluster.groups:  # nodes of several kinds keep nothing on their hosts
        yield "offload_optimizer", [True], on_device, peaks - saved <= holds
    facts = scenario.facts
    sets = [Plan(recompute_modules=each) for each in module_sets(scenario.model, scenario.stack)]
    modules = [
        plan.recompute_modules
        for plan in sets
        if canonical(Plans.of([plan]), facts).plan(0).recompute_modules == plan.recompute_modules != ()
    ]
    again = ("recompute", "recompute_modules", "recompute_ops")
    plain = plans.numbers(again, lambda plan: not (plan.recompute_modules or plan.recompute_ops) and plan.recompute == "none") > 0
    _, alike = plans.distinct(_BUT_RECOMPUTE)
    full = plans.numbers(("recompute",), lambda plan: plan.recompute == "full") > 0
    with_full = np.isin(alike, alike[full & (peaks <= holds)])  # which holds least
    yield "recompute_modules", modules, plain, with_full


def _most_on_host(stages: Stages) -> Ints:
    """At most so many bytes of optimizer and gradients leave a device of each plan for its host."""
    lasting, w = lasting_bytes(stages), stages.workload
    chunks = np.array([shape.chunks for shape in w.shapes])[w.shape_of]
    return np.asarray((lasting["optimizer"] + lasting["gradients"]).max(axis=0) * chunks)
