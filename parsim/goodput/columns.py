"""The time that plans take for a step that counts, with all that failures and checkpoints cost: columns, as the planner ranks by them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from parsim.cluster.scalars import Floats, Ints
from parsim.errors import PlanError
from parsim.estimator.estimate import Priced
from parsim.estimator.passes import Stages
from parsim.goodput.predict import checkpoint_of, interval_of, times_of
from parsim.goodput.renewal import efficiency, waiting_share
from parsim.goodput.size import CheckpointBytes, checkpoint_bytes
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario


def check_ranks(scenario: Scenario) -> None:
    """Refuse a scenario whose plans cannot be ranked by goodput.

    Raises:
        PlanError: it says nothing of checkpoints, or its runs shrink, which asks for the steps of each plan on fewer devices.
    """
    checkpoint_of(scenario)
    if scenario.failures is not None and scenario.failures.elastic:
        remedy = "Rank with --set failures.elastic=false; parsim run tells the goodput of elastic runs."
        raise PlanError("ranking by goodput is not built for elastic runs", scenario.path, remedy)


def seconds_a_step(priced: Priced) -> Callable[[Ints, Ints], Floats]:
    """Of steps, or bounds below them, and the indices of their plans: picoseconds a step that counts, never less where a step is longer."""
    scenario = priced.scenario
    checkpoint, failures = checkpoint_of(scenario), scenario.failures
    once = lru_cache(maxsize=1)(lambda stages: checkpoint_bytes(stages, checkpoint.writers))
    folds = [partial(_figure, once, name) for name in CheckpointBytes.__struct_fields__]

    def whole(steps: Ints, rows: Ints) -> Floats:
        size = CheckpointBytes(*priced.figures(*folds, rows=rows))
        cycle = times_of(scenario, size).cycle
        shares = efficiency(cycle, interval_of(checkpoint, cycle, steps / PS_PER_S))
        waiting: Any = 0.0
        if failures is not None and failures.repair_s is not None:
            rates = failures.rates.by_cause(size.num_devices, scenario.cluster.num_nodes)
            waiting = waiting_share(failures.spare_nodes + 1, (rates["device"] + rates["node"]) * failures.repair_s)
        return np.asarray(steps / shares / (1 - waiting))

    return whole


def _figure(once: Callable[[Stages], CheckpointBytes], name: str, stages: Stages) -> Ints:
    return np.asarray(getattr(once(stages), name))
