"""One check a quantity and plan: integers with ==, real numbers within 1e-12 of the one-rank run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from parsim.estimator.estimate import group_of
from parsim.estimator.group import Group
from parsim.estimator.memory import counted_peak_bytes
from parsim.estimator.pipeline import timeline
from parsim.estimator.totals import rank_flops, rank_sent_bytes
from parsim.executor.run import Execution, execute
from parsim.executor.values import shard
from parsim.parallel.dimensions import split
from parsim.parallel.mesh import coordinates
from parsim.parallel.plan import Plan
from parsim.parallel.sharding import Sharding
from parsim.scenario.types import Training
from parsim.simulator.program import Program
from parsim.simulator.run import run
from parsim.simulator.transfers import sent_bytes
from parsim.verify.shrink import shrunk

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# Sums of the same float64 numbers in another order: measured 1e-16 to 1e-14 of the largest gradient.
TOLERANCE = 1e-12
_SMALLEST_SCALE = 1e-3  # the logits' gradients of a mean loss sum to about 1 in size: where all others cancel, rounding is held against it


@dataclass(frozen=True, slots=True)
class Check:
    """One quantity of one plan: whether the back-ends agree, and on what."""

    plan: str
    quantity: str
    ok: bool
    detail: str


def verify(scenario: Scenario, *, progress: Callable[[str], None] | None = None) -> tuple[Check, ...]:
    """All checks of all plans; a plan too large to execute is shrunk by the rule of shrink.py."""
    found: list[Check] = []
    for name, plan in scenario.plans.items():
        if progress:
            progress(name)
        small = shrunk(scenario, plan)
        label = f"{name} (shrunk to {small.plan.num_devices} ranks)" if small.was_shrunk else name
        found += verify_plan(small.scenario, small.plan, label)
    return tuple(found)


def verify_plan(scenario: Scenario, plan: Plan, name: str) -> tuple[Check, ...]:
    """The checks of one plan, which must be small enough to execute."""
    # Numbers drawn from the seed, every term of the update, and an eps at which Adam does not divide rounding by rounding.
    scenario = replace(scenario, data=None, training=Training(weight_decay=0.1, eps=1e-4))
    executed = execute(scenario, plan)
    whole = execute(*_one_rank(scenario, plan))
    group = group_of(scenario, plan)
    program = Program.of(scenario.model, executed.job.market, plan, dict(scenario.itemsize_bytes))
    return tuple(Check(name, *result) for result in (*_counts(executed, group, program), *_numbers(executed, whole)))


def _one_rank(scenario: Scenario, plan: Plan) -> tuple[Scenario, Plan]:
    """The same sums on one rank: micro_batches of all replicas together, the same padded vocabulary, nothing recomputed."""
    multiple = scenario.stack.vocab_multiple * split(plan, "V")
    return replace(scenario, stack=replace(scenario.stack, vocab_multiple=multiple)), Plan(
        micro_batch=plan.micro_batch * split(plan, "B"), optimizer=plan.optimizer
    )


Result = tuple[str, bool, str]


def _counts(executed: Execution, group: Group, program: Program) -> Iterator[Result]:
    trace = run(program)
    places = [coordinates(rank, executed.job.degrees) for rank in range(executed.job.num_ranks)]
    flops = [(rank_flops(group, at["pp"], at["dp"]), ledger.flops) for at, ledger in zip(places, executed.ledgers, strict=True)]
    yield _integers("FLOPs", flops)
    masters = [(at, led) for at, led in zip(places, executed.ledgers, strict=True) if at["dp"] == 0]  # a trace folds dp to its first rank
    yield _integers("FLOPs, simulated", [(trace.flops[at["pp"]], ledger.flops) for at, ledger in masters])
    predicted, routed = [rank_sent_bytes(group, at) for at in places], [sent_bytes(program, at) for at in places]
    for axis in group.step.structure.links:
        counted = [ledger.sent_bytes.get(axis, 0) for ledger in executed.ledgers]
        for quantity, told in ((f"bytes sent over {axis}", predicted), (f"bytes sent over {axis}, simulated", routed)):
            yield _integers(quantity, list(zip((by_axis[axis] for by_axis in told), counted, strict=True)))
    peaks = [(int(counted_peak_bytes(group, at["pp"])[0]), ledger.peak_bytes) for at, ledger in zip(places, executed.ledgers, strict=True)]
    yield _integers("peak bytes", peaks)
    marks = [(trace.peak_bytes[at["pp"]], ledger.peak_bytes) for at, ledger in zip(places, executed.ledgers, strict=True)]
    yield _integers("peak bytes, simulated", marks)
    yield _integers("picoseconds, estimate and simulate", [(int(timeline(group).step_ps[0]), trace.step_ps)])
    yield _integers("picoseconds, virtual clocks and simulate", [(executed.end_ps, trace.step_ps)])


def _integers(quantity: str, pairs: list[tuple[int, int]]) -> Result:
    wrong = [(rank, *pair) for rank, pair in enumerate(pairs) if pair[0] != pair[1]]
    if wrong:
        rank, predicted, counted = wrong[0]
        return quantity, False, f"rank {rank}: predicted {predicted:,}, executed {counted:,}; {len(wrong)} of {len(pairs)} differ"
    low, high = min(p for p, _ in pairs), max(p for p, _ in pairs)
    return quantity, True, f"{low:,}" if low == high else f"{low:,} to {high:,} by rank"


def _numbers(executed: Execution, whole: Execution) -> Iterator[Result]:
    """Gradients of weights and inputs, updated weights and the loss, against the one-rank run."""
    job = executed.job
    shardings = {(s.name, w.name): w.sharding for s in job.step.segments for w in s.weights}
    stream = job.step.embedding.y
    assert stream is not None
    largest = max(_SMALLEST_SCALE, *(float(np.abs(g).max()) for g in whole.gradients[0].values()))
    worst = {"weight gradients": 0.0, "updated weights": 0.0, "input gradients": 0.0}
    for rank in range(job.num_ranks):
        at = coordinates(rank, job.degrees)

        def part(array: np.ndarray, sharding: Sharding, at: dict[str, int] = at) -> np.ndarray:
            return shard(array, sharding, job.degrees, at)

        for key, mine, full in (
            ("weight gradients", executed.gradients[rank], whole.gradients[0]),
            ("updated weights", executed.weights[rank], whole.weights[0]),
        ):
            for name, value in mine.items():
                instance, weight = name.split("/")
                sharding = shardings[instance.rstrip("0123456789"), weight]
                reference = full.get(name, full.get(f"embedding/{weight}"))
                assert reference is not None
                scale = largest if key == "weight gradients" else 1.0
                expected = part(reference, sharding)
                if value.shape != expected.shape:  # ZeRO leaves each rank its own part of the flattened weight
                    expected = _dp_part(expected, job.degrees["dp"], at["dp"])
                worst[key] = max(worst[key], float(np.abs(value - expected).max()) / scale)
        for m, value in executed.input_gradients[rank].items():
            difference = float(np.abs(value - part(whole.input_gradients[0][m], stream.sharding)).max())
            worst["input gradients"] = max(worst["input gradients"], difference / largest)
    for key, error in worst.items():
        yield key, error <= TOLERANCE, f"{error:.1e} of the largest, one-rank run"
    yield "loss", abs(executed.loss - whole.loss) <= TOLERANCE * abs(whole.loss), f"{executed.loss:.12f}"


def _dp_part(array: np.ndarray, num_ranks: int, position: int) -> np.ndarray:
    """One of the equal parts of a flattened array, the last padded with zeros."""
    length = -(-array.size // num_ranks)
    flat = np.pad(array.reshape(-1), (0, num_ranks * length - array.size))
    return flat[position * length : (position + 1) * length]
