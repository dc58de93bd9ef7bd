"""What each segment of a plan does in a pass: FLOPs, bytes, parameters and seconds of one device and one micro_batch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from parsim.estimator import segment as passes
from parsim.estimator.estimate import group_of
from parsim.estimator.group import Group
from parsim.estimator.result import Estimate
from parsim.scenario import Scenario
from parsim.step.holdings import segment_elements
from parsim.step.task import Compute, Segment
from parsim.step.timing import communicate_price, compute_s


@dataclass(frozen=True, slots=True)
class LayerRow:
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

    @property
    def seconds(self) -> float:
        """Compute and communication, one after the other."""
        return self.compute_s + self.communicate_s

    def document(self) -> dict[str, object]:
        """The row as it is written."""
        return {**asdict(self), "seconds": self.seconds}


def layer_rows(scenario: Scenario, estimate: Estimate) -> list[LayerRow]:
    """The rows of a plan: embedding, one layer and head, forward and backward."""
    group = group_of(scenario, estimate.plan)
    both = ("forward", "backward")
    return [_row(group, estimate, segment, direction) for segment in group.step.segments for direction in both]


def _row(group: Group, estimate: Estimate, segment: Segment, direction: str) -> LayerRow:
    tasks = segment.forward if direction == "forward" else segment.backward
    sizes, market = group.sizes, group.market
    work = [compute_s(task, sizes, market) for task in tasks if isinstance(task, Compute)]
    talk = [communicate_price(task, sizes, market).seconds for task in tasks if not isinstance(task, Compute)]
    sent = [passes.sent_bytes(tasks, sizes, market, axis, 0) for axis in group.step.structure.axes]
    return LayerRow(
        plan=estimate.name,
        segment=segment.name,
        direction=direction,
        copies=_one(group.holding(estimate.critical_rank).of(segment)),
        flops=_one(passes.flops(tasks, sizes)),
        hbm_bytes=_one(passes.hbm_bytes(tasks, sizes)),
        sent_bytes=sum(_one(each) for each in sent),
        num_parameters=_one(segment_elements(group.step, segment, sizes, "all")),
        compute_s=float(sum(each[0] for each in work)),  # type: ignore[index]
        communicate_s=float(sum(each[0] for each in talk)),
    )


def _one(values: object) -> int:
    """The value of a single plan."""
    return int(values[0])  # type: ignore[index]
