"""What a run keeps in storage, its data set and checkpoints, and what bandwidth reading and checkpoints need together."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.whole import num_steps
from parsim.feed.supply import Supply
from parsim.model.dims import COMPUTE, MASTER
from parsim.model.parameters import num_parameters, num_trained_parameters
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import Plan
from parsim.plain import Plain

if TYPE_CHECKING:
    from parsim.estimator.result import Estimate
    from parsim.scenario import Scenario

S_PER_MONTH: Final = units.parse("730 h", "s")  # a twelfth of 8,760 h, as clouds bill
_TERABYTE: Final = units.parse("1 TB", "bytes")


class Keeping(Plain, frozen=True):
    """What the run of one plan keeps in storage; None: nobody states what it follows from.

    Reading and writing share the storage: while steps read, what is left of the time writes.
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
    write_s: float | None  # of a checkpoint alone
    write_beside_reads_s: float | None  # of one while steps read

    @property
    def fits(self) -> bool:
        """Whether the storage holds it, as far as anybody says."""
        return self.room_bytes is None or self.kept_bytes <= self.room_bytes

    @property
    def needs_bytes_per_s(self) -> float:
        """What reading and checkpoints need together."""
        return self.read_bytes_per_s + (self.checkpoint_bytes_per_s or 0.0)


def checkpoint_bytes(scenario: Scenario, plan: Plan) -> int:
    """Bytes of a checkpoint, each weight once: as it is computed with, its master copy, and the optimizer's states of those trained.

    >>> import parsim
    >>> scenario = parsim.load("scenarios/table5-22b.yaml")  # fp16: 2 + 4 + 2 x 4 bytes a parameter
    >>> checkpoint_bytes(scenario, scenario.plan("full")) == 14 * parsim.num_parameters(scenario.model)
    True
    """
    recipe, sizes = scenario.trained_by(plan).batch.recipe, scenario.itemsize_bytes
    weight = sizes[recipe.stores[COMPUTE]]
    updated = sizes[recipe.stores[MASTER]] if recipe.has_master else weight
    states = OPTIMIZERS[plan.optimizer].state_bytes(updated) + updated * recipe.has_master
    return num_parameters(scenario.model) * weight + num_trained_parameters(scenario.model) * states


def keeping_of(scenario: Scenario, found: Estimate, fed: Supply | None = None) -> Keeping:
    """What the run of a plan that was estimated keeps, and the bandwidth that it needs.

    Raises:
        ParsimError: the scenario states no storage.
    """
    storage, kept = scenario.storage, scenario.checkpoint
    if storage is None:
        raise ParsimError("nobody says where data are kept", scenario.path, "Say e.g. --set storage=orion.")
    num_nodes = -(-found.plan.num_devices // scenario.cluster.node.devices_per_node)
    data, each, count = data_bytes(scenario), checkpoint_bytes(scenario, found.plan), kept.keep if kept else 0
    held = (data or 0) + count * each
    month = None if storage.terabyte_month_usd is None else held / _TERABYTE * storage.terabyte_month_usd
    months = None if scenario.total_tokens is None else num_steps(scenario) * (fed.fed_step_s if fed else found.step_s) / S_PER_MONTH
    reads, writes = fed.needs.read_bytes_per_s if fed else 0.0, storage.write_rate(num_nodes)
    could_read = storage.read_rate(num_nodes)
    reading = reads / could_read
    between_s = _between_s(scenario, fed.fed_step_s if fed else found.step_s)
    return Keeping(
        name=found.name,
        data_bytes=data,
        checkpoint_bytes=each,
        num_checkpoints=count,
        kept_bytes=held,
        room_bytes=storage.room_bytes(num_nodes),
        month_usd=month,
        run_usd=None if month is None or months is None else month * months,
        read_bytes_per_s=reads,
        checkpoint_bytes_per_s=None if between_s is None else each / between_s,
        busy=None if between_s is None or inf in (writes, could_read) else reading + each / between_s / writes,
        write_s=None if writes == inf else each / writes,
        write_beside_reads_s=None if writes == inf or reading >= 1 else each / writes / (1 - reading),
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


def _between_s(scenario: Scenario, step_s: float) -> float | None:
    """Seconds from one checkpoint to the next; None where nobody states them, or asks for the best."""
    kept = scenario.checkpoint
    if kept is None:
        return None
    return kept.interval_s if kept.interval_steps is None else kept.interval_steps * step_s
