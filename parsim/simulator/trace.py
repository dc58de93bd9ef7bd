"""What a simulation saw: spans on streams, and the memory of each rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """One event on a stream of a rank."""

    start_ps: int
    end_ps: int
    rank: int
    stream: str  # compute | tp | dp | send_F | send_B
    name: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A simulated step: one pipeline rank stands for all its data- and tensor-parallel copies."""

    step_ps: int
    spans: tuple[Span, ...]
    num_events: int
    peak_bytes: tuple[int, ...]  # by rank: the high-water mark in issue order, without the stack's overheads
    flops: tuple[int, ...]  # by rank: the sum over what ran

    @property
    def step_s(self) -> float:
        """Seconds of the step."""
        return self.step_ps / 1e12
