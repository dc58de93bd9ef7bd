"""What a launcher is told of one plan, and what is read of a launcher's file: the same table of entries, used both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from parsim.errors import PlanError
from parsim.registry import Registry

if TYPE_CHECKING:
    from parsim.cluster.cluster import Cluster
    from parsim.model.spec import ModelSpec
    from parsim.parallel.plan import Batch, Plan, Stack
    from parsim.scenario.types import Scenario, Training

Neighbours = Callable[[str], "str | None"]  # a path from the root of a package that a file is of -> the text there
MICRO_BATCHES: Final = "num_micro_batches"  # a key of a job beside those of a scenario: those of a replica in a step
KeyValue = Any  # text, a number, a bool, None, or lists and mappings of these, as a launcher's file holds them


class NotExpressible(PlanError):
    """A target has no key for what a plan says, or for a figure of the model ("model.dropout"); nothing is written then.

    >>> print(NotExpressible("pipeline_parallel", "accelerate", "1.15.0", "it runs no pipeline"))
    plans.pipeline_parallel: accelerate 1.15.0 cannot express it: it runs no pipeline
    """

    def __init__(self, field: str, target: str, version: str, why: str, remedy: str = "") -> None:
        super().__init__(f"{target} {version} cannot express it: {why}", field if "." in field else f"plans.{field}", remedy)
        self.args = (field, target, version, why, remedy)
        self.field, self.target, self.version = field, target, version


class Setup(Struct, frozen=True):
    """One plan of a scenario, with all that launchers are told."""

    name: str  # of the plan
    scenario: Scenario
    plan: Plan  # legal for the scenario, its data_parallel filled in

    @property
    def model(self) -> ModelSpec:
        """What is trained."""
        return self.scenario.model

    @property
    def batch(self) -> Batch:
        """A step's worth of data."""
        return self.scenario.batch

    @property
    def cluster(self) -> Cluster:
        """What it runs on."""
        return self.scenario.cluster

    @property
    def training(self) -> Training:
        """How it is trained, beside what plans decide."""
        return self.scenario.training

    @property
    def stack(self) -> Stack:
        """The software that the scenario assumes."""
        return self.scenario.stack

    @property
    def dtype(self) -> str:
        """The precision recipe of the plan."""
        return self.stack.precision(self.plan.precision or self.batch.dtype)

    @property
    def num_micro_batches(self) -> int:
        """Those of a replica in a step."""
        return self.plan.num_micro_batches(self.batch)


class Launch(Struct, frozen=True):
    """What an export writes: files by name, the main one first, the lines that start it, and what a user must know of both."""

    target: str
    version: str
    files: Mapping[str, str]
    command: str
    notes: tuple[str, ...] = ()
    data: Mapping[str, Callable[[], bytes]] = {}  # files of numbers by name, made when they are written


class Left(Struct, frozen=True):
    """What an import did not carry over, and why."""

    key: str
    value: KeyValue
    why: str
    line: int = 0  # of the file; 0: unknown


class ForeignJob(Struct, frozen=True):
    """What was read of a launcher's file: keys of a scenario, by dotted path, of its one plan as `plan.KEY`."""

    target: str
    version: str  # "" where the file does not say, and all versions read alike
    keys: Mapping[str, KeyValue]  # e.g. {"model.num_layers": 32, "batch.global_batch": 64, "plan.tensor_parallel": 8}
    left: tuple[Left, ...] = ()
    num_devices: int | None = None  # where it says


class Target(Struct, frozen=True):
    """A launcher: how a setup becomes its files, and these a job.

    `entries(version)` is the table of entries.py that both directions use.  `fields` that a plan states and no entry covers are
    refused as NotExpressible, so that nothing is dropped.
    """

    name: str
    versions: tuple[str, ...]  # newest first
    title: str  # for `parsim list targets`
    entries: Callable[[str], tuple[Any, ...]]  # version -> Entry each
    write: Callable[[Mapping[str, KeyValue], Setup, str], Launch]  # the keys that the entries gave, setup, version
    read: Callable[[str, str], tuple[Mapping[str, KeyValue], str] | None]  # text and file name -> keys and version; None: not its file
    refuses: Callable[[Setup, str], Iterable[PlanError]] = lambda setup, version: ()  # what it or its parser would not run, or run wrongly
    source: str = ""
    read_with: Callable[[str, str, Neighbours], tuple[Mapping[str, KeyValue], str] | None] | None = (
        None  # in place of read, with files beside it
    )


TARGETS: Final = Registry[Target]("target")
