"""What each segment of a plan does on one device: counts and seconds, pass by pass."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from parsim.cost.buckets import weight_elements
from parsim.cost.count import flops, hbm_bytes, sent_bytes
from parsim.cost.sizes import Ints
from parsim.cost.timing import task_price
from parsim.cost.workload import Workload
from parsim.estimator.estimate import stages_of
from parsim.estimator.result import Estimate
from parsim.scenario import Scenario
from parsim.schedules.phase import Phase
from parsim.step.step import Segment
from parsim.step.task import Compute


class LayerRow(Struct, frozen=True):
    """One pass through one copy of a segment on one device.  `seconds` is the sum over its tasks, as if none overlapped."""

    plan: str
    segment: str  # embedding | layer | head
    direction: str  # forward | backward
    copies: int  # on the critical pipeline rank
    flops: int
    hbm_bytes: int
    sent_bytes: int  # all axes together, by the first rank of its groups
    num_parameters: int  # on one device
    compute_s: float
    communicate_s: float
    seconds: float  # compute and communication, one after the other


def layer_rows(scenario: Scenario, estimate: Estimate) -> list[LayerRow]:
    """The rows of a plan: each segment, phase by phase."""
    workload = stages_of(scenario, estimate.plan).workload
    return [_row(workload, estimate, segment, phase) for segment in workload.step.segments.values() for phase in workload.phases]


def _row(workload: Workload, estimate: Estimate, segment: Segment, phase: Phase) -> LayerRow:
    tasks, sizes = segment.phases[phase], workload.sizes
    model = workload.model.on(workload.node_of(estimate.critical_rank))
    seconds = [(isinstance(task, Compute), float(task_price(task, sizes, model).seconds[0])) for task in tasks]
    compute_s, communicate_s = (sum(each for computes, each in seconds if computes is kind) for kind in (True, False))

    def total(counts: Iterable[Ints]) -> int:
        return sum(int(each[0]) for each in counts)

    return LayerRow(
        plan=estimate.name,
        segment=segment.name,
        direction=phase.words,
        copies=int(workload.copies_on(estimate.critical_rank).get(segment.name, 0)),
        flops=total(flops(task, sizes) for task in tasks),
        hbm_bytes=total(hbm_bytes(task, sizes) for task in tasks),
        sent_bytes=total(sent_bytes(task, sizes, model, 0) for task in tasks),
        num_parameters=total(weight_elements(weight, "whole", sizes) for weight in segment.own_weights),
        compute_s=compute_s,
        communicate_s=communicate_s,
        seconds=compute_s + communicate_s,
    )
