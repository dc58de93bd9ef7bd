"""`compare`: where the step and the memory of two plans differ, part by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from parsim.arguments import check_arguments
from parsim.confidence.spread import pair_spread
from parsim.estimator.result import Estimate
from parsim.parallel.plan import KEYS, Plan
from parsim.plain import Plain
from parsim.units import PS_PER_S

_NOTHING: Final[Mapping[str, str]] = {}


class Side(Struct, frozen=True):
    """What is compared of one plan: of the step its parts on the critical rank, of the memory those of the most loaded rank."""

    name: str
    step_s: float
    tokens: int  # of a step
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, int]
    plan: Plan
    about: Mapping[str, str] = field(default_factory=dict)  # what is trained, on what; nothing of a bare estimate
    kind: str = ""  # the class of training by which errors differ; "": not known
    step_interval_s: tuple[float, float] | None = None
    peak_interval_bytes: tuple[int, int] | None = None

    @classmethod
    def of(cls, estimate: Estimate, name: str = "", about: Mapping[str, str] = _NOTHING) -> Side:
        """The side of an estimate, under its name or another."""
        memory = estimate.memory_bytes[estimate.peak_rank]
        tokens = round(estimate.tokens_per_s * estimate.step_s)
        return cls(
            name or estimate.name,
            estimate.step_s,
            tokens,
            estimate.breakdown_s,
            memory,
            estimate.plan,
            about,
            step_interval_s=estimate.step_interval_s,
            peak_interval_bytes=estimate.peak_interval_bytes,
        )

    def parts_ps(self) -> dict[str, int]:
        """Picoseconds of each part, which sum to the step: what events add to it, or save, is `simulated`."""
        parts = {part: round(seconds * PS_PER_S) for part, seconds in self.breakdown_s.items()}
        rest = round(self.step_s * PS_PER_S) - sum(parts.values())
        return parts | ({"simulated": rest} if rest else {})


class Comparison(Plain, frozen=True):
    """Two plans side by side."""

    first: Side
    second: Side

    def longer_ps(self) -> dict[str, int]:
        """By how many picoseconds each part of the second is longer; they sum to the difference of the steps."""
        first, second = self.first.parts_ps(), self.second.parts_ps()
        return {part: second.get(part, 0) - first.get(part, 0) for part in dict.fromkeys((*first, *second))}

    def memory_bytes(self) -> dict[str, tuple[int, int]]:
        """What each part of the memory holds in both."""
        first, second = self.first.memory_bytes, self.second.memory_bytes
        return {part: (first.get(part, 0), second.get(part, 0)) for part in dict.fromkeys((*first, *second))}

    def keys(self) -> dict[str, tuple[Any, Any]]:
        """The keys of the plans that differ, with both values."""
        pairs = {name: (getattr(self.first.plan, name), getattr(self.second.plan, name)) for name in KEYS}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def otherwise(self) -> dict[str, tuple[str, str]]:
        """In what else they differ than in their plans, as far as it is known of both."""
        pairs = {key: (about, self.second.about.get(key, about)) for key, about in self.first.about.items()}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    @property
    def sure_beyond(self) -> float | None:
        """By what share one must be slower so that their order is sure in 9 of 10; None where they differ in more than plans.

        Two plans of one scenario share most of their error.
        """
        first, second = self.first, self.second
        alike = first.kind and first.kind == second.kind and first.tokens == second.tokens and not self.otherwise()
        return math.expm1(pair_spread(first.kind)) if alike else None

    def records(self) -> list[dict[str, object]]:
        """A row a part: of the step in seconds, of the memory in bytes."""
        first, second = self.first.parts_ps(), self.second.parts_ps()
        steps = {part: (first.get(part, 0) / PS_PER_S, second.get(part, 0) / PS_PER_S) for part in self.longer_ps()}
        parts = (("step_s", steps), ("memory_bytes", self.memory_bytes()))
        return [{"of": of, "part": part, "first": pair[0], "second": pair[1]} for of, each in parts for part, pair in each.items()]


@check_arguments
def compare(first: Estimate, second: Estimate) -> Comparison:
    """What makes the second of two estimates slower or larger than the first.

    >>> import parsim
    >>> scenario = parsim.load("scenarios/table5-22b.yaml")
    >>> found = compare(*(parsim.estimate(scenario, name) for name in ("full", "seqsel")))
    >>> max(found.longer_ps(), key=lambda part: -found.longer_ps()[part]), sorted(found.keys())
    ('compute', ['recompute', 'sequence_parallel'])
    """
    return Comparison(Side.of(first), Side.of(second))
