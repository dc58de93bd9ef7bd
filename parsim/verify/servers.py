"""What both readers say of parameter servers, and of integers in general.  How servers train is no question of the sums of one rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from parsim.estimator.estimate import estimate_legal, stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.estimator.serving import service_in
from parsim.parallel.plan import Plan
from parsim.simulator import simulate

if TYPE_CHECKING:
    from parsim.scenario import Scenario

Verdict = tuple[str, bool, str]


def of_servers(scenario: Scenario, plan: Plan) -> Iterator[Verdict]:
    """FLOPs and memory of a worker, and where the closed form is exact the picoseconds of one gradient of each."""
    found, trace, stages = estimate_legal(scenario, plan), simulate(scenario, plan), stages_of(scenario, plan)
    assert found.served is not None
    yield integers("FLOPs, simulated", [*zip(found.flops, trace.flops, strict=True)])
    yield integers("peak bytes, simulated", [(int(counted_peak_bytes(stages)[0, 0]), trace.peak_bytes[0])])
    if not plan.backup_workers and service_in(stages, plan).most_at_a_port == 1:
        yield integers("picoseconds of one gradient of each worker, simulated", [(found.served.step_ps, trace.step_ps)])


def integers(quantity: str, pairs: list[tuple[int, int]]) -> Verdict:
    """Whether what was predicted is what was executed, rank by rank."""
    wrong = [(rank, *pair) for rank, pair in enumerate(pairs) if pair[0] != pair[1]]
    if wrong:
        rank, predicted, counted = wrong[0]
        return quantity, False, f"rank {rank}: predicted {predicted:,}, executed {counted:,}; {len(wrong)} of {len(pairs)} differ"
    low, high = min(p for p, _ in pairs), max(p for p, _ in pairs)
    return quantity, True, f"{low:,}" if low == high else f"{low:,} to {high:,} by rank"
