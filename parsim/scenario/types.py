"""What a scenario is once it is read: frozen, in base units, with nothing left to look up."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msgspec import Struct, field
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.described import Described, Told
from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.disturbance import Disturbance
from parsim.scenario.feeding import Input
from parsim.scenario.left_open import Assumed
from parsim.scenario.reliability import Checkpoint, Failures

if TYPE_CHECKING:  # numpy is behind it, which `parsim --help` can do without
    from parsim.cluster import Cluster, Storage
    from parsim.parallel.fault import PlanFault
    from parsim.parallel.legality import Facts


class PlanSpace(Struct, frozen=True):
    """A plan with open axes: each stated axis with its candidate values, where ("auto",) leaves the choice to the planner."""

    name: str
    axes: Mapping[str, tuple[object, ...]]


class Measured(Struct, frozen=True):
    """What somebody measured of a plan; None: not stated."""

    step_s: float | None
    peak_bytes: float | None  # of the device that holds most
    source: str


class DataSpec(Struct, frozen=True):
    """What an executed step is fed with."""

    name: str  # of a data set
    validation_split: float = 0.2  # share of its sequences held back


def _figure(default: float, description: str, **limits: float) -> Any:
    return Told(default, {"description": description, **limits})


class Training(Described, frozen=True):
    """How an executed training goes.

    The optimizer of the plan takes what it knows.  The limits are pydantic's: gt, ge, lt, le.

    Source of the defaults: Adam's rate, beta1, beta2 and eps: Kingma and Ba 2015 (arXiv:1412.6980), algorithm 1; without weight decay
    AdamW is Adam; momentum: Sutskever et al. 2013 (ICML), section 3; max_norm: Brown et al. 2020 (arXiv:2005.14165), appendix B; the
    outer optimizer's: Douillard et al. 2023 (arXiv:2311.08105).
    """

    epochs: int = _figure(1, "how often the data set is gone through", gt=0, le=1_000_000)
    learning_rate: float = _figure(1e-3, "the step size of the optimizer", gt=0, le=10)
    beta1: float = _figure(0.9, "what Adam keeps of its mean of gradients", ge=0, lt=1)
    beta2: float = _figure(0.999, "what Adam keeps of its mean of squares", ge=0, lt=1)
    eps: float = _figure(1e-8, "what Adam adds to a root, against division by 0", gt=0, le=1)
    weight_decay: float = _figure(0.0, "AdamW's; with 0 it is Adam", ge=0, le=1)  # decoupled
    momentum: float = _figure(0.9, "what SGD keeps of its velocity", ge=0, lt=1)
    max_norm: float = _figure(1.0, "the longest that all gradients together may be; longer ones are shortened", gt=0)
    outer_learning_rate: float = _figure(0.7, "the step size of the outer optimizer of replicas that train apart", gt=0, le=10)
    outer_momentum: float = _figure(0.9, "what that keeps of its velocity", ge=0, lt=1)


class Scenario(Struct, frozen=True, dict=True):
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
    data: DataSpec | None = None  # None: an executed step draws its numbers from the seed
    training: Training = Training()
    default_stack: bool = False  # no stack was stated
    notes: tuple[str, ...] = ()  # what its file does not say: changes, and defaults where there is no file
    total_tokens: int | None = None  # of the whole training; None: not stated
    disturbance: Disturbance | None = None  # None: a step is as it is estimated
    changes: Mapping[str, Any] = field(default_factory=dict)  # values set beside the file, or in place of one, by path
    has_file: bool = True  # else all of it stands in `changes`
    assumed: tuple[Assumed, ...] = ()  # what was left open, and what stands for it
    failures: Failures | None = None  # None: nothing fails
    checkpoint: Checkpoint | None = None  # None: nothing is kept
    storage: Storage | None = None  # of data and checkpoints; None: not stated
    input: Input | None = None  # what a run reads; None: not stated

    def to_dict(self) -> dict[str, Any]:
        """Where it is read from: its file, if there is one, and what was set beside it or in place of one."""
        return {"path": self.path if self.has_file else None, "changes": dict(self.changes)}

    @classmethod
    @check_arguments
    def from_dict(cls, document: Mapping[str, Any]) -> Scenario:
        """The scenario that `to_dict` said, read anew.

        Raises:
            ScenarioError: it cannot be read, as one that stands in no file, or is wrong by now.
        """
        from parsim.scenario.source import Source

        path = document.get("path")
        return Source(path and Path(path), changes=document.get("changes", {})).load()

    @property
    def arguments(self) -> str:
        """What a command takes for it: its file or the options in place of one, and what was set beside."""
        from parsim.scenario.changes import SHORT

        names = {SHORT.get(name, name): f"--{name.replace('_', '-')} " for name in (*SHORT, "model", "stack") if name != "accelerator"}
        options = {} if self.has_file else names
        told = (f"{options.get(path, f'--set {path}=')}{shlex.quote(str(value))}" for path, value in self.changes.items())
        return " ".join([*([self.path] if self.has_file else []), *told])

    @property
    def facts(self) -> Facts:
        """What plans are checked against."""
        from parsim.parallel.legality import Facts

        cluster = self.cluster
        return Facts(
            self.model, self.batch, cluster.num_devices, self.stack, cluster.peak_flops_per_s, cluster.runs if cluster.groups else ()
        )

    def misfits(self) -> Sequence[str]:
        """All that is wrong with it but for its plans, which a file would be refused for, too."""
        return self._misfits

    def sound(self) -> Self:
        """The same, of which nobody need ask what is wrong with it: it was read from a file, and not changed since."""
        vars(self)["_misfits"] = ()
        return self

    @cached_property
    def _misfits(self) -> Sequence[str]:
        from parsim.scenario.given import faults

        return faults(self)

    def faults(self, plan: Plan) -> list[PlanFault]:
        """All that is illegal in a plan here."""
        from parsim.parallel.legality import faults_of

        return faults_of(plan, self.facts)

    def legal_plan(self, plan: Plan | str, where: str = "plan") -> Plan:
        """A plan that is given, or the one of that name, which is legal here: public functions ask once, and what they call no more.

        Raises:
            ScenarioError: there is none of that name, or it has axes that only the planner can fill.
            PlanError: it is not legal; the error says all that is wrong.
        """
        chosen, place = (self.plan(plan), f"{self.path}: plans.{plan}") if isinstance(plan, str) else (plan, where)
        if wrong := self.faults(chosen):
            raise PlanError("\n".join(map(str, wrong)), place, f"It is no legal plan of {self.path}.")
        return chosen

    def trained_by(self, plan: Plan) -> Scenario:
        """The same in the precision that a plan states; as it is where it states none."""
        if plan.precision is None:
            return self
        return replace(self, batch=replace(self.batch, dtype=self.stack.precision(plan.precision)))

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
