"""What a run keeps in storage, its data set and checkpoints, and what bandwidth reading and checkpoints need together."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.estimate import stages_of
from parsim.feed.supply import Supply
from parsim.goodput.long_run import whole_of_run
from parsim.goodput.predict import goodput_of
from parsim.goodput.size import checkpoint_bytes
from parsim.plain import Plain
from parsim.scenario.reliability import ALL

if TYPE_CHECKING:
    from parsim.estimator.result import Estimate
    from parsim.scenario import Scenario

S_PER_MONTH: Final = units.parse("730 h", "s")  # a twelfth of 8,760 h, as clouds bill
_TERABYTE: Final = units.parse("1 TB", "bytes")


class Keeping(Plain, frozen=True):
    """What the run of one plan keeps in storage; None: nobody states what it follows from.

    Reading and writing share the time of the storage: what reading leaves of it, a checkpoint can use.
    """

    name: str
    data_bytes: int | None  # all that is trained on, once
    checkpoint_bytes: int
    num_checkpoints: int
    kept_bytes: int
    room_bytes: int | None
    month_usd: float | None
    run_usd: float | None
    read_bytes_per_s: float  # that steps need
    checkpoint_bytes_per_s: float | None  # the mean, from one checkpoint to the next
    busy: float | None  # share of the storage's time that both take together; above 1 it cannot give it
    write_s: float | None  # of a checkpoint alone, by the bandwidth of all nodes
    write_beside_reads_s: float | None  # of one while steps read

    @property
    def fits(self) -> bool:
        """Whether the storage holds it, as far as anybody says."""
        return self.room_bytes is None or self.kept_bytes <= self.room_bytes

    @property
    def needs_bytes_per_s(self) -> float:
        """What reading and checkpoints need together."""
        return self.read_bytes_per_s + (self.checkpoint_bytes_per_s or 0.0)


def keeping_of(scenario: Scenario, found: Estimate, fed: Supply) -> Keeping:
    """What the run of a plan keeps, and the bandwidth that it needs; `found`: as estimated, `in_a_run`.

    Raises:
        ParsimError: the scenario states no storage.
    """
    storage, kept = scenario.storage, scenario.checkpoint
    if storage is None:
        raise ParsimError("nobody says where data are kept", scenario.path, "Say e.g. --set storage=orion.")
    num_nodes = -(-found.plan.num_devices // scenario.cluster.node.devices_per_node)
    size = checkpoint_bytes(stages_of(scenario, found.plan), kept.writers if kept else ALL)
    data, each, count = data_bytes(scenario), int(size.total[0]), kept.keep if kept else 0
    held = (data or 0) + count * each
    month = None if storage.terabyte_month_usd is None else held / _TERABYTE * storage.terabyte_month_usd
    whole = whole_of_run(scenario, found)
    reads, gives, takes = fed.needs.read_bytes_per_s, storage.read_rate(num_nodes), storage.write_rate(num_nodes)
    written = None if kept is None else each / goodput_of(scenario, found).interval_s
    return Keeping(
        name=found.name,
        data_bytes=data,
        checkpoint_bytes=each,
        num_checkpoints=count,
        kept_bytes=held,
        room_bytes=storage.room_bytes(num_nodes),
        month_usd=month,
        run_usd=None if month is None or whole is None else month * whole.time_s / S_PER_MONTH,
        read_bytes_per_s=reads,
        checkpoint_bytes_per_s=written,
        busy=None if written is None or inf in (gives, takes) else reads / gives + written / takes,
        write_s=None if takes == inf else each / takes,
        write_beside_reads_s=None if takes == inf or reads >= gives else each / takes / (1 - reads / gives),
    )


def data_bytes(scenario: Scenario) -> int | None:
    """Bytes in storage of the tokens of the whole training, those of `epochs` once; None where nobody states them or what is read."""
    if scenario.input is None or scenario.total_tokens is None:
        return None
    batch = scenario.batch
    read = batch.num_tokens / batch.global_batch
    source = batch.source if scenario.model.has_encoder else 0
    sequences = scenario.total_tokens / scenario.training.epochs / read
    return round(sequences * scenario.input.stored_bytes(read + source))
