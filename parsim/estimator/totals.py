"""A step's FLOPs, HBM bytes and sent bytes of one device, as Python integers: per micro_batch, times how often, plus the end."""

from __future__ import annotations

from collections.abc import Mapping

from parsim.estimator import segment as passes
from parsim.estimator.group import Group
from parsim.model.dims import COMPUTE, FLOAT32, GRADIENT
from parsim.model.op_kinds import COSTS
from parsim.step.choice import algorithm
from parsim.step.holdings import bucket_elements, gathered_elements, segment_elements, used_elements
from parsim.step.structure import HOST
from parsim.step.task import Finish
from parsim.step.timing import boundary, boundary_bytes

Coordinates = Mapping[str, int]


def rank_flops(group: Group, rank: int, dp: int = 0) -> int:
    """FLOPs of a step on one device of a pipeline rank."""
    total = 0
    for segment in group.step.segments:
        each = passes.flops(segment.forward, group.sizes) + passes.flops(segment.backward, group.sizes)
        total += int(each[0]) * int(group.holding(rank).of(segment)[0]) * group.num_micro_batches
    for work in group.step.finish:
        if work.kernel and not work.on_host and (dp == 0 or not work.master_only):
            elements = int(bucket_elements(group.step, group.sizes, work.bucket, group.holding(rank), work.part)[0])
            total += COSTS[work.kernel].per_element * elements
    return total


def rank_hbm_bytes(group: Group, rank: int) -> int:
    """HBM bytes of a step's passes on one device of a pipeline rank."""
    total = 0
    for segment in group.step.segments:
        each = passes.hbm_bytes(segment.forward, group.sizes) + passes.hbm_bytes(segment.backward, group.sizes)
        total += int(each[0]) * int(group.holding(rank).of(segment)[0]) * group.num_micro_batches
    return total


def rank_sent_bytes(group: Group, at: Coordinates) -> dict[str, int]:
    """Bytes that the device at these coordinates sends in a step, by axis."""
    sent = dict.fromkeys(group.step.structure.links, 0)
    for axis in group.step.structure.axes:
        for segment in group.step.segments:
            each = sum(int(passes.sent_bytes(t, group.sizes, group.market, axis, at[axis])[0]) for t in (segment.forward, segment.backward))
            sent[axis] += each * int(group.holding(at["pp"]).of(segment)[0]) * group.num_micro_batches
    _add_boundaries(group, at, sent)
    _add_reductions(group, at, sent)
    return sent


def _add_boundaries(group: Group, at: Coordinates, sent: dict[str, int]) -> None:
    own = range(at["pp"], group.num_stages, group.num_ranks)
    crossings = sum((s < group.num_stages - 1) + (s > 0) for s in own) * group.num_micro_batches  # as many in as out
    if "pp" in sent:
        sent["pp"] += crossings * int(boundary_bytes(group.step, group.sizes)[0])
    if group.step.structure.scatter_gather:
        elements = int(group.sizes.elements(boundary(group.step).sharding)[0])
        sent["tp"] += crossings * _sent(group, "all_gather", "tp", at["tp"], elements, COMPUTE)


def _add_reductions(group: Group, at: Coordinates, sent: dict[str, int]) -> None:
    holding = group.holding(at["pp"])
    structure = group.step.structure
    if structure.per_pass:
        _add_shards(group, at, sent)
    elif structure.gradient_overlap:
        part, operation = ("padded", "reduce_scatter") if structure.zero_stage else ("whole", "all_reduce")
        for segment in group.step.segments:
            elements = int(segment_elements(group.step, segment, group.sizes, "all", part)[0])
            copies = int(holding.of(segment)[0])
            sent["dp"] += copies * _sent(group, operation, "dp", at["dp"], elements, GRADIENT)
    for work in group.step.finish:
        if work.operation:
            sent[work.axis] += _finish_bytes(group, work, at)


def _add_shards(group: Group, at: Coordinates, sent: dict[str, int]) -> None:
    """ZeRO 2 scatters gradients in every backward, ZeRO 3 also gathers parameters in every pass."""
    for segment in group.step.segments:
        elements = int(used_elements(segment, group.sizes, "padded")[0])
        passes_run = int(group.holding(at["pp"]).of(segment)[0]) * group.num_micro_batches
        sent["dp"] += passes_run * _sent(group, "reduce_scatter", "dp", at["dp"], elements, GRADIENT)
        gathers = sum(group.step.structure.gathers(kind) for kind in "FB")
        elements = int(gathered_elements(segment, group.step.structure, group.sizes)[0])
        sent["dp"] += gathers * passes_run * _sent(group, "all_gather", "dp", at["dp"], elements, COMPUTE)


def _finish_bytes(group: Group, work: Finish, at: Coordinates) -> int:
    if work.master_only and at["dp"]:
        return 0
    if work.bucket == "norm":
        return _sent(group, work.operation, work.axis, at[work.axis], 1, FLOAT32)
    elements = int(bucket_elements(group.step, group.sizes, work.bucket, group.holding(at["pp"]), work.part)[0])
    if work.bucket == "tied":
        ends = {0: 0, group.num_ranks - 1: 1}
        if at["pp"] not in ends:
            return 0
        return _sent(group, "all_reduce", "pp", ends[at["pp"]], elements, GRADIENT, num_ranks=2)
    dtype = COMPUTE if work.bucket == "parameters" else GRADIENT
    if work.axis == HOST:
        return elements * group.sizes.itemsize_bytes[dtype] if work.operation == "to_host" else 0
    return _sent(group, work.operation, work.axis, at[work.axis], elements, dtype)


def _sent(group: Group, operation: str, axis: str, position: int, elements: int, dtype: str, num_ranks: int | None = None) -> int:
    """`num_ranks` where fewer than the whole group take part."""
    itemsize = group.sizes.itemsize_bytes[dtype]
    chosen = algorithm(operation, axis, elements * itemsize, group.sizes, group.market, num_ranks=num_ranks)
    return int(chosen.sent_elements(operation, position, num_ranks or int(group.sizes.degrees[axis][0]), elements)) * itemsize
