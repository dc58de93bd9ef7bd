"""The rows of failure rates, and the sections of a scenario on failures and checkpoints.  What they become stands in reliability.py."""

from collections.abc import Iterator, Mapping
from math import isinf
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from parsim.scenario.fields import Natural, Quantity, Section, complaint
from parsim.scenario.inline import InlineRow, NameOrRow, resolve
from parsim.scenario.reliability import ALL, EACH, FIRST, Checkpoint, FailureRates, Failures
from parsim.scenario.tree import Place

OPTIMUM: Final = "optimum"
_WRITERS: Any = Literal[ALL, FIRST, EACH]
_MTBF: Final = ("device_mtbf", "node_mtbf", "switch_mtbf", "job_mtbf")
Between = Annotated[float, Quantity("s", most="1000000 days")]
Lasting = Annotated[float, Quantity("s", zero=True, most="365 days")]


class FailureRow(InlineRow):
    """How often the parts of a cluster fail so that a run stops: mean times between failures."""

    kind: ClassVar[str] = "failures"
    form: ClassVar[Any] = FailureRates
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("mtbf", "mttf", "gpu_mtbf", "device_mttf"), "device_mtbf"),
        **dict.fromkeys(("node_mttf", "host_mtbf"), "node_mtbf"),
        **dict.fromkeys(("software_mtbf", "run_mtbf"), "job_mtbf"),
    }
    device_mtbf: Between | None = Field(None, description="of one device; where left out none fails")
    node_mtbf: Between | None = Field(None, description="of one node, without its devices; where left out none fails")
    switch_mtbf: Between | None = Field(None, description="of one switch with its cables; where left out none fails")
    nodes_per_switch: Natural = Field(1, description="the nodes on a switch")
    job_mtbf: Between | None = Field(None, description="of the whole run, however large: its software; where left out it does not fail")

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if all(getattr(self, key) is None for key in _MTBF):
            raise complaint(f"states no rate of failures; give one of {', '.join(_MTBF)}")
        return self


class FailuresSection(Section):
    """How often a run fails, and what is done about it."""

    place: ClassVar[str | None] = "failures"
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys((*_MTBF, "mtbf", "base"), "rates"),
        **dict.fromkeys(("restart_time", "reload", "recovery"), "restart"),
        **dict.fromkeys(("spares", "spare"), "spare_nodes"),
        **dict.fromkeys(("repair_time", "mttr"), "repair"),
    }
    rates: Annotated[str | FailureRow, NameOrRow(FailureRow)] = Field(
        description="how often what fails: a name of the catalog, or an inline row such as {device_mtbf: 2000 days}"
    )
    restart: Lasting = Field(
        description="the time from when a failure is known until steps go on, without reading the checkpoint, which storage says"
    )
    detection: Lasting = Field(0.0, description="the time until a failure is known")
    repair: Lasting | None = Field(
        None, description="the time until a node that failed is back; where left out, another stands ready at any time"
    )
    spare_nodes: Annotated[int, Field(ge=0, le=1_000_000)] = Field(0, description="nodes that stand ready beside those of the cluster")
    elastic: bool = Field(False, description="whether the run goes on with fewer replicas where no spare is left; else it waits for one")

    @model_validator(mode="after")
    def _check_repair(self) -> Self:
        if self.repair is None and (stated := sorted({"spare_nodes", "elastic"}.intersection(self.model_fields_set))):
            raise complaint(f"{stated[0]} counts where nodes take time to come back: give repair, or leave {stated[0]} out")
        return self

    def build(self) -> Failures:
        """What it says."""
        return Failures(resolve("failures", self.rates), self.restart, self.detection, self.repair, self.spare_nodes, elastic=self.elastic)


def _interval(value: object) -> object:
    """A number of steps, a time, or the word for the best."""
    if value == OPTIMUM or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10**9):
        return value
    if isinstance(value, str):
        return Quantity("s", most="365 days").check(value)
    raise complaint(f"must be {OPTIMUM}, a number of steps, or a time such as '30 min', not {value!r}")


class CheckpointSection(Section):
    """What a run keeps against failures."""

    place: ClassVar[str | None] = "checkpoint"
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("every", "save_interval", "period"), "interval"),
        **dict.fromkeys(("async", "async_save"), "asynchronous"),
        **dict.fromkeys(("write", "save_time"), "write_time"),
        **dict.fromkeys(("read", "load_time"), "read_time"),
    }
    interval: Annotated[int | float | str, BeforeValidator(_interval)] = Field(
        OPTIMUM, description="the work between two checkpoints: optimum, a number of steps, or a time such as '30 min'"
    )
    asynchronous: bool = Field(False, description="whether steps go on while a copy on the hosts is written; else they wait")
    writers: _WRITERS = Field(
        ALL,
        description="which replicas of a weight write it: all, each its part; the first alone; or each all of it, as `parsim execute` does",
    )
    keep: Natural = Field(1, description="how many checkpoints storage holds")
    write_time: Lasting | None = Field(None, description="as measured; where left out, by the bytes and the bandwidth of storage")
    read_time: Lasting | None = Field(None, description="as measured; where left out, by the bytes and the bandwidth of storage")

    def build(self) -> Checkpoint:
        """What it says; an int is steps, a float seconds."""
        steps = self.interval if isinstance(self.interval, int) else None
        seconds = self.interval if isinstance(self.interval, float) else None
        return Checkpoint(seconds, steps, self.asynchronous, self.writers, self.keep, self.write_time, self.read_time)


def reliability_faults(sections: Any, value: Mapping[Any, Any]) -> Iterator[tuple[Place, str]]:
    """What is wrong with these sections of a file beside one another; `value` has those that are at fault themselves, too."""
    failures, checkpoint = sections.failures, sections.checkpoint
    if failures is not None and value.get("checkpoint") is None:
        yield ("checkpoint",), "missing: a run that fails and has kept nothing begins anew; give checkpoint: {interval: optimum}"
    if checkpoint is None:
        return
    if value.get("failures") is None and checkpoint.interval == OPTIMUM:
        yield ("checkpoint", "interval"), "the optimum follows from how often a run fails: give failures, too, or a time or number of steps"
    storage = None if sections.storage is None else resolve("storage", sections.storage)
    for key in ("write", "read"):
        if getattr(checkpoint, f"{key}_time") is not None:
            continue
        if value.get("storage") is None:
            yield ("checkpoint",), f"nobody says how long it takes to {key} one: give storage, or checkpoint.{key}_time"
        elif storage is not None and isinf(getattr(storage, f"{key}_rate")(1)):
            said = f'storage "{storage.name}" states no rate to {key} at: give its {key}_bandwidth, or checkpoint.{key}_time'
            yield ("checkpoint",), said
