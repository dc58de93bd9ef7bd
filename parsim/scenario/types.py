"""What a scenario is once it is read: frozen, in base units, with nothing left to look up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parsim.errors import ScenarioError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan, Stack

if TYPE_CHECKING:  # numpy is behind it, which `parsim --help` can do without
    from parsim.cluster import Cluster


@dataclass(frozen=True, slots=True)
class PlanSpace:
    """A plan with open axes: each stated axis with its candidate values, where ("auto",) leaves the choice to the planner."""

    name: str
    axes: Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What somebody measured of a plan; None: not stated."""

    step_s: float | None
    peak_bytes: float | None  # of the device that holds most
    source: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is trained, on what, by which software, and the plans to compare."""

    name: str
    model: ModelSpec
    cluster: Cluster
    batch: Batch
    stack: Stack
    plans: Mapping[str, Plan]
    spaces: Mapping[str, PlanSpace]  # the plans that the planner has to fill
    measured: Mapping[str, Measured]  # by plan
    seed: int
    path: str  # the file it was read from, or its name
    itemsize_bytes: Mapping[str, int]  # by dtype

    def plan(self, name: str) -> Plan:
        """The plan of that name.

        Raises:
            ScenarioError: there is none, or it has axes that only the planner can fill.
        """
        if name in self.plans:
            return self.plans[name]
        known = ", ".join((*self.plans, *self.spaces))
        if name in self.spaces:
            axes = [axis for axis, values in self.spaces[name].axes.items() if len(values) > 1 or values == ("auto",)]
            raise ScenarioError(
                f"plan '{name}' leaves {', '.join(axes)} open", self.path, "The planner fills it; or give each axis one value."
            )
        raise ScenarioError(f"unknown plan '{name}'{did_you_mean(name, (*self.plans, *self.spaces))}", self.path, f"Plans here: {known}.")
