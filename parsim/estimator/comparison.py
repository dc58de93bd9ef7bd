"""`compare`: where the step and the memory of two plans differ, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from parsim.estimator.result import Estimate
from parsim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class Side:
    """What is compared of one plan: of the step its parts on the critical rank, of the memory those of the most loaded rank."""

    name: str
    step_s: float
    tokens: int  # of a step
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    plan: Mapping[str, Any]

    @classmethod
    def of(cls, estimate: Estimate, name: str = "") -> Side:
        """The side of an estimate, under its name or another."""
        memory = estimate.memory_bytes[estimate.peak_rank]
        plan = {each.name: getattr(estimate.plan, each.name) for each in fields(estimate.plan)}
        tokens = round(estimate.tokens_per_s * estimate.step_s)
        return cls(name or estimate.name, estimate.step_s, tokens, estimate.breakdown_s, memory, plan)

    def parts_ps(self) -> dict[str, int]:
        """Picoseconds of each part, which sum to the step: what events add to it, or save, is `simulated`."""
        parts = {part: round(seconds * PS_PER_S) for part, seconds in self.breakdown_s.items()}
        rest = round(self.step_s * PS_PER_S) - sum(parts.values())
        return parts | ({"simulated": rest} if rest else {})


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two plans side by side."""

    first: Side
    second: Side

    def longer_ps(self) -> dict[str, int]:
        """By how many picoseconds each part of the second is longer; they sum to the difference of the steps."""
        first, second = self.first.parts_ps(), self.second.parts_ps()
        return {part: second.get(part, 0) - first.get(part, 0) for part in dict.fromkeys((*first, *second))}

    def keys(self) -> dict[str, tuple[Any, Any]]:
        """The keys of the plans that differ, with both values."""
        first, second = self.first.plan, self.second.plan
        pairs = {key: (first.get(key), second.get(key)) for key in dict.fromkeys((*first, *second))}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def compare(first: Estimate, second: Estimate) -> Comparison:
    """What makes the second of two estimates slower or larger than the first.

    >>> import parsim
    >>> scenario = parsim.load("scenarios/table5-22b.yaml")
    >>> found = compare(*(parsim.estimate(scenario, name) for name in ("full", "seqsel")))
    >>> max(found.longer_ps(), key=lambda part: -found.longer_ps()[part]), sorted(found.keys())
    ('compute', ['recompute', 'sequence_parallel'])
    """
    return Comparison(Side.of(first), Side.of(second))
