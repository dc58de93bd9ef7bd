"""One check a quantity and plan: integers with ==, real numbers within 1e-12 of the one-rank run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim.arguments import check_arguments
from parsim.cost.workload import Prices, Workload
from parsim.estimator.estimate import stages_of
from parsim.estimator.host import host_bytes
from parsim.estimator.lists import Measures
from parsim.estimator.memory import counted_peak_bytes
from parsim.estimator.passes import Stages
from parsim.estimator.pipeline import timeline
from parsim.estimator.totals import Totals, device_totals
from parsim.executor.job import Job
from parsim.executor.names import is_told
from parsim.executor.run import Execution, execute_legal, job_of
from parsim.executor.values import shard
from parsim.parallel.dimensions import split
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.parallel.plan import Plan
from parsim.parallel.precision import NARROW_FLASH, Narrowing
from parsim.scenario.types import Training
from parsim.simulator.run import run
from parsim.simulator.trace import Trace
from parsim.simulator.transfers import sent_bytes
from parsim.step.attend import HOW
from parsim.step.task import Weight
from parsim.verify.by_hand import by_hand
from parsim.verify.dense_by_hand import FORWARDS
from parsim.verify.local_by_hand import apart_by_hand, own_part, weights_at
from parsim.verify.servers import Verdict, integers, of_servers
from parsim.verify.shrink import shrunk
from parsim.verify.walk import late_frees, moved_bytes

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# Sums of the same float64 numbers in another order: measured 1e-16 to 1e-14 of the largest gradient.
TOLERANCE = 1e-12
_SMALLEST_SCALE = 1e-3  # the logits' gradients of a mean loss sum to about 1 in size: where all others cancel, rounding is held against it


class Check(Struct, frozen=True):
    """One quantity of one plan: whether the back-ends agree, and on what."""

    plan: str
    quantity: str
    ok: bool
    detail: str


@check_arguments
def verify(scenario: Scenario, *, progress: Callable[[str], None] | None = None) -> tuple[Check, ...]:
    """All checks of all plans; a plan too large to execute is shrunk by the rule of shrink.py.

    Raises:
        PlanError: a plan is not legal there.
    """
    found: list[Check] = []
    for name in scenario.plans:
        if progress:
            progress(name)
        if scenario.legal_plan(name).is_served:
            found += verify_plan(scenario, scenario.plan(name), name)
            continue
        small = shrunk(scenario, scenario.legal_plan(name))
        label = f"{name} (shrunk to {small.plan.num_devices} ranks)" if small.was_shrunk else name
        found += verify_plan(small.scenario, small.plan, label)
    return tuple(found)


def verify_plan(scenario: Scenario, plan: Plan, name: str) -> tuple[Check, ...]:
    """The checks of one plan, which must be small enough to execute."""
    if plan.is_served:
        return tuple(Check(name, *result) for result in of_servers(scenario, plan))
    # Numbers drawn from the seed, every term of the update, gradients long enough to be clipped, and an eps at which Adam does not divide
    # rounding by rounding.
    max_norm = inf if plan.optimizer_in_backward else 0.01
    scenario = replace(scenario.trained_by(plan), data=None, training=Training(weight_decay=0.1, eps=1e-4, max_norm=max_norm))
    if plan.gradient_sync == LOCAL_SGD:
        return tuple(Check(name, *result) for result in _apart(scenario, plan))
    executed = execute_legal(scenario, plan)
    alone = _one_rank(scenario, plan)
    whole = execute_legal(*alone, rounds_as=plan)
    rounds = scenario.batch.recipe.narrows or scenario.stack.flash_of(scenario.batch.dtype) in NARROW_FLASH
    by_itself = execute_legal(*alone) if rounds else whole  # scaled as one rank would
    found = (*_counts(executed, stages_of(scenario, plan)), *_numbers(executed, whole), *_by_hand(by_itself))
    return tuple(Check(name, *result) for result in found)


def _one_rank(scenario: Scenario, plan: Plan) -> tuple[Scenario, Plan]:
    """The same sums on one rank: micro_batches of all replicas together, the same padded vocabulary, nothing recomputed."""
    multiple = scenario.stack.vocab_multiple * split(plan, "V")
    return replace(scenario, stack=replace(scenario.stack, vocab_multiple=multiple)), Plan(
        micro_batch=plan.micro_batch * split(plan, "B"), optimizer=plan.optimizer
    )


def _apart(scenario: Scenario, plan: Plan) -> Iterator[Verdict]:
    """Of replicas that train apart two periods, of two steps at most, against the papers."""
    plan = replace(plan, local_steps=min(plan.local_steps, 2))
    executed = execute_legal(scenario, plan, num_steps=2 * plan.local_steps)
    yield from _counts(executed, stages_of(scenario, plan))
    wide, of_replica = _one_rank(scenario, plan)
    each = replace(of_replica, micro_batch=of_replica.micro_batch // executed.job.num_apart)
    yield from apart_by_hand(executed, job_of(wide, each), FORWARDS, TOLERANCE)


def _counts(executed: Execution, stages: Stages) -> Iterator[Verdict]:
    """Integers of every rank at its own place, over all steps."""
    ranks, workload, structure = _Ranks(executed, stages), executed.job.workload, executed.job.step.structure
    asked, parts = executed.job.asked, [(ranks, 1)]
    if workload.step.quiet:
        last, quiet = asked.num_steps // asked.plan.local_steps, Stages.of(workload.quiet, Measures(workload.prices))
        parts = [(ranks, last), (_Ranks(executed, quiet), asked.num_steps - last)]

    def every(count: Callable[[_Ranks], int]) -> int:
        return sum(times * count(each) for each, times in parts)

    yield integers("FLOPs", ranks.against(lambda rank: (every(lambda each: each.totals(rank).flops), ranks.ledgers[rank].flops)))
    # A trace shows the first of those of which one alone updates.
    firsts = [rank for rank, at in enumerate(ranks.places) if not structure.master or not any(at[axis] for axis in structure.master.axes)]
    simulated = [(every(lambda each, rank=rank: each.trace(rank).flops[each.stage(rank)]), ranks.ledgers[rank].flops) for rank in firsts]  # type: ignore[misc]
    yield integers("FLOPs, simulated", simulated)
    yield _moved_bytes(parts)
    yield _late_frees(workload)
    routed = [[(sent_bytes(each.stages.workload, at), times) for each, times in parts] for at in ranks.places]
    for link in dict.fromkeys((*structure.links, *(link for ledger in ranks.ledgers for link in ledger.sent_bytes))):
        counted = [ledger.sent_bytes.get(link, 0) for ledger in ranks.ledgers]
        predicted = [every(lambda each, r=r, link=link: each.totals(r).sent_bytes.get(link, 0)) for r in range(len(counted))]  # type: ignore[misc]
        by_events = [sum(times * sent.get(link, 0) for sent, times in each) for each in routed]
        yield integers(f"bytes sent over {link}", list(zip(predicted, counted, strict=True)))
        yield integers(f"bytes sent over {link}, simulated", list(zip(by_events, counted, strict=True)))
    yield integers("peak bytes", ranks.against(lambda rank: (ranks.peak_bytes(rank), ranks.ledgers[rank].peak_bytes)))
    simulated = ranks.against(lambda rank: (ranks.trace(rank).peak_bytes[ranks.stage(rank)], ranks.ledgers[rank].peak_bytes))
    yield integers("peak bytes, simulated", simulated)
    on_hosts = executed.host_bytes
    yield integers("host bytes", ranks.against(lambda rank: (ranks.host_bytes(rank), on_hosts[rank])))
    yield integers("host bytes, simulated", ranks.against(lambda rank: (ranks.trace(rank).host_bytes[ranks.stage(rank)], on_hosts[rank])))
    step_ps = every(lambda each: each.of_worst.step_ps)
    yield integers("picoseconds, estimate and simulate", [(every(lambda each: timeline(each.stages).step_ps), step_ps)])
    yield integers("picoseconds, virtual clocks and simulate", [(executed.end_ps, step_ps)])


def _moved_bytes(parts: Sequence[tuple[_Ranks, int]]) -> Verdict:
    """What all kernels read and write, each compared by itself; fusion is a matter of prices, since numpy fuses nothing."""
    ranks, predicted = parts[0][0], list[Counter[str]]()
    for place in ranks.places:
        predicted.append(Counter())
        for each, times in parts:
            predicted[-1].update({kernel: times * count for kernel, count in moved_bytes(each.stages.workload, place).items()})
    counted = [ledger.moved_bytes for ledger in ranks.ledgers]
    for kernel in sorted({kernel for each in (*predicted, *counted) for kernel in each}):
        pairs = [(mine.get(kernel, 0), theirs.get(kernel, 0)) for mine, theirs in zip(predicted, counted, strict=True)]
        _, ok, detail = integers("HBM bytes", pairs)
        if not ok:
            return "HBM bytes", False, f"{kernel}: {detail}"
    return integers("HBM bytes", [(sum(mine.values()), sum(theirs.values())) for mine, theirs in zip(predicted, counted, strict=True)])


def _late_frees(workload: Workload) -> Verdict:
    """A buffer that nobody reads any more is freed at once."""
    late = [each for rank in range(workload.num_ranks) for each in late_frees(workload, rank)]
    return "frees", not late, f"{late[0]} too late; {len(late)} do" if late else "each by the last that uses the buffer"


class _Ranks:
    """What estimate and simulate say of each rank.  Ranks that stand alike are asked about once."""

    def __init__(self, executed: Execution, stages: Stages) -> None:
        self.ledgers, self.stages = executed.ledgers, stages
        self.places = [executed.job.mesh.coordinates(rank) for rank in range(executed.job.num_ranks)]
        self._totals: dict[tuple[int, ...], tuple[Totals, ...]] = {}
        self.of_worst = run(stages.workload)
        self._traces: dict[tuple[int, ...], tuple[Workload, Trace]] = {(): (stages.workload, self.of_worst)}
        self._peaks: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

    def against(self, pair: Callable[[int], tuple[int, int]]) -> list[tuple[int, int]]:
        """A pair of each rank."""
        return [pair(rank) for rank in range(len(self.places))]

    def stage(self, rank: int) -> int:
        """The place of a rank along the pipeline."""
        return self.places[rank]["pp"]

    def totals(self, rank: int) -> Totals:
        """What estimate says that a rank does."""
        at = {**self.places[rank], "pp": 0}
        key = tuple(at.values())
        if key not in self._totals:
            self._totals[key] = device_totals(self.stages, at)
        return self._totals[key][self.stage(rank)]

    def trace(self, rank: int) -> Trace:
        """What simulate says of ranks at this place."""
        return self._here(rank)[1]

    def peak_bytes(self, rank: int) -> int:
        """What estimate says that a rank holds at most."""
        return int(self._memory(rank)[0][self.stage(rank), 0])

    def host_bytes(self, rank: int) -> int:
        """What estimate says that a rank keeps on its host."""
        return int(self._memory(rank)[1][self.stage(rank), 0])

    def _memory(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        key, (workload, _) = self._key(rank), self._here(rank)
        if key not in self._peaks:
            stages = Stages.of(workload, Measures(workload.prices))
            self._peaks[key] = counted_peak_bytes(stages), host_bytes(stages)
        return self._peaks[key]

    def _key(self, rank: int) -> tuple[int, ...]:
        """Where it stands along the axes by which extents differ."""
        return tuple(self.places[rank][axis] for axis in self.stages.workload.sizes.telling)

    def _here(self, rank: int) -> tuple[Workload, Trace]:
        key, workload = self._key(rank), self.stages.workload
        if key not in self._traces:
            sizes = workload.sizes.at(self.places[rank])
            own = replace(workload, sizes=sizes, prices=Prices(sizes, workload.model))
            self._traces[key] = own, run(own)
        return self._traces[key]


def _numbers(executed: Execution, whole: Execution) -> Iterator[Verdict]:
    """Gradients of weights and inputs, updated weights and the loss, against the one-rank run."""
    job = executed.job
    largest = max(_SMALLEST_SCALE, *(float(np.abs(g).max()) for g in whole.gradients[0].values()))
    worst = {"weight gradients": 0.0, "updated weights": 0.0, "input gradients": 0.0}
    master = job.step.structure.master
    for rank in range(job.num_ranks):
        at = job.mesh.coordinates(rank)
        sizes = job.sizes.at(at)
        held = weights_at(job, at)
        lasting = {**{name: w for name, w in held.items() if is_told(job, w)}, **_steers(job, at["pp"])}
        trained = {name: w for name, w in held.items() if w.trained}
        sums = trained if master is None or not any(at[axis] for axis in master.axes) else {}  # only the master has them
        stage = job.step.structure.zero_stage
        for key, wanted, mine, full, scale, in_parts in (
            ("weight gradients", sums, executed.gradients[rank], whole.gradients[0], largest, stage > 0),
            ("updated weights", lasting, executed.weights[rank], whole.weights[0], 1.0, stage > 2),
        ):
            if mine.keys() != wanted.keys():
                worst[key] = np.inf
            for name, weight in wanted.items():
                expected = shard(full[name if name in full else f"{weight.copy_of}/{weight.name}"], weight.sharding, sizes)
                # ZeRO leaves each rank its own part of the flattened weight, which of a single number looks as if it were whole.
                if mine[name].shape != expected.shape or (in_parts and expected.size == 1):
                    expected = own_part(expected, weight, job.mesh, at)
                worst[key] = max(worst[key], float(np.abs(mine[name] - expected).max(initial=0.0)) / scale)
        lowest = dict(copy for stage in job.workload.stages(at["pp"]) for copy in job.copies(stage))
        for (copy, m), value in executed.input_gradients[rank].items():
            operand = lowest[copy].gradient_of_output
            assert operand
            difference = float(np.abs(value - shard(whole.input_gradients[0][copy, m], operand.sharding, sizes)).max(initial=0.0))
            worst["input gradients"] = max(worst["input gradients"], difference / largest)
    structure = job.step.structure
    narrows = structure.narrows or (HOW if structure.attends_narrow else None)
    tolerance = _coarse(narrows, job.spec.num_layers) if structure.copies_kv_heads and narrows else TOLERANCE
    for key, error in worst.items():
        yield key, error <= tolerance, f"{error:.1e} of the largest, one-rank run"
    yield "loss", abs(executed.loss - whole.loss) <= TOLERANCE * abs(whole.loss), f"{executed.loss:.12f}"


def _coarse(narrows: Narrowing, num_layers: int) -> float:
    """A step of the coarsest format, such as E5M2, for each layer: there ranks with copies of a kv head round the gradients of their own
    query heads each, which one rank adds before, and what that makes of a layer's input passes by those below."""
    return num_layers * 2.0 ** -min(int(name[-1]) for name in (narrows.forward, narrows.gradient))


def _steers(job: Job, place: int) -> dict[str, Weight]:
    """The biases that steer choices, of a rank at a place of the pipeline."""
    copies = [each for stage in job.workload.stages(place) for each in job.copies(stage)]
    return {f"{copy}/{each.name}": each for copy, segment in copies for each in segment.steers}


def _by_hand(whole: Execution) -> Iterator[Verdict]:
    """The one-rank run against the mathematics; nothing for a family of models, or an update rule, that is not written there."""
    expected = by_hand(whole.job, FORWARDS)
    if expected is None:
        return
    loss, error = expected.loss, abs(whole.loss - expected.loss)
    yield "loss, by hand", error <= TOLERANCE * abs(loss), f"{loss:.12f}"
    of_weights = ("weight gradients", whole.gradients[0], expected.gradients), ("updated weights", whole.weights[0], expected.weights)
    for key, mine, theirs in of_weights:
        scale = max(_SMALLEST_SCALE, *(float(np.abs(each).max()) for each in theirs.values()))
        error = np.inf if mine.keys() != theirs.keys() else max(float(np.abs(mine[name] - theirs[name]).max()) for name in theirs) / scale
        yield f"{key}, by hand", error <= TOLERANCE, f"{error:.1e} of the largest, by the formulas"
    yield integers("lasting bytes, by hand", [(expected.lasting_bytes, whole.ledgers[0].live_bytes)])
