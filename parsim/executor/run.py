"""`execute`: the ranks of a plan train for some steps, in lockstep or as processes, and count what they do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct
from msgspec.structs import asdict

from parsim.arguments import check_arguments
from parsim.asynchrony.draws import DRAWN, factors_of
from parsim.cost.cost_model import CostModel
from parsim.data import Dataset, load
from parsim.errors import CheckpointError, EndedRun, ParsimError, PlanError, ScenarioError
from parsim.executor import lockstep, serving
from parsim.executor.evaluate import Score
from parsim.executor.job import Job, RunRequest
from parsim.executor.program import Record
from parsim.executor.serving import ServedExecution
from parsim.executor.shards import ShardKeeping
from parsim.executor.watch import ShowStep, Start, Watch, watch_over
from parsim.executor.worker import Report, work
from parsim.model import parameters
from parsim.parallel.legality import value_faults
from parsim.parallel.plan import Plan
from parsim.plain import equal
from parsim_kernels import Ledger, TransportError, launch
from parsim_kernels.signature import Array

if TYPE_CHECKING:
    from parsim.scenario import Scenario

MOST_WEIGHTS: Final = 100_000_000  # five float64 arrays of them, at least, are held: 4 GB
_RANGES: Final = {
    "num_steps": (1, 10**9),
    "seed": (0, 2**32 - 1),
    "evaluate_every": (0, 10**9),
    "deadline_s": (0.1, 1e7),
    "checkpoint_every": (1, 10**9),
    "from_step": (1, 10**9),
}
Transport = Literal["lockstep", "shared_memory", "mpi"]
Float = Literal["float64", "float32"]


class Execution(Struct, frozen=True):
    """What the ranks did: ledgers and clocks by rank, and the numbers that must equal those of one rank."""

    ledgers: tuple[Ledger, ...]
    ends_ps: tuple[int, ...]  # by step: when the last rank has ended it, on virtual clocks; all ranks begin a step together
    losses: tuple[float, ...]  # by step
    gradients: tuple[Mapping[str, Array], ...]  # by rank: each weight's in the last step, summed over all ranks, before clipping
    weights: tuple[Mapping[str, Array], ...]  # by rank, after the last update
    # By rank, then copy of a segment and micro_batch: of the outputs of those below which none has a gradient.
    input_gradients: tuple[Mapping[tuple[str, int], Array], ...]
    host_bytes: tuple[int, ...]  # by rank: the most that it kept on its host
    job: Job
    norms: tuple[float, ...]  # by step: squared, of all gradients before clipping; none where they are applied in the backward
    own_norms: tuple[tuple[float, ...], ...]  # by step and rank: of those that it hands to a sum over replicas
    wall_s: tuple[tuple[float, ...], ...] = ()  # by rank and step, where the ranks are processes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Execution) and equal(*({**asdict(each), "job": each.job.asked.training_alone} for each in (self, other)))

    @property
    def went_on_after(self) -> int:
        """Steps that lay behind it in a checkpoint; 0: it began with the first."""
        keeping = self.job.asked.keeping
        return keeping.start if keeping else 0

    @property
    def end_ps(self) -> int:
        """Of the last step."""
        return self.ends_ps[-1]

    @property
    def loss(self) -> float:
        """Of the last step."""
        return self.losses[-1]

    @property
    def step_walls_s(self) -> tuple[float, ...]:
        """By step: wall seconds of the slowest rank; none where the ranks are no processes."""
        return tuple(max(each) for each in zip(*self.wall_s, strict=True))


@check_arguments
def execute(
    scenario: Scenario,
    plan: Plan | str,
    *,
    num_steps: int = 1,
    transport: Transport = "lockstep",
    seed: int | None = None,
    precision: Float = "float64",
    clocks: bool = True,
    evaluate_every: int = 0,
    deadline_s: float | None = None,
    progress: Callable[[int, float, Score | None], None] | None = None,
    wall: bool = False,
    rounds_as: Plan | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    from_step: int | None = None,
) -> Execution:
    """Some steps of a plan, executed by numpy ranks.

    Args:
        scenario: what is trained.
        plan: one of its plans, by name, or another.
        num_steps: optimizer steps.
        transport: lockstep (all ranks in this process), shared_memory (a process each), or mpi (this process is one of mpiexec's).
        seed: of weights, data and masks; the scenario's where left out.
        precision: float64 or float32, of what is computed; bytes are charged at the declared dtypes.
        clocks: whether processes keep virtual clocks; they cost messages.  Of a scenario's disturbance they know what slows kernels, and
            nothing of links.
        deadline_s: how long processes may run [s]; None: for ever.
        evaluate_every: after so many steps, and each so many, the weights are measured on what the data set holds back; 0: never.
        progress: called with (step, loss, score) after each step; the score is None where nothing is measured.
        wall: let the slow devices of the scenario's disturbance be slow in processes, too, by sleeping; on virtual clocks they always are.
        rounds_as: scale what is quantised in the parts in which the ranks of this plan hold it, though one rank holds it all.
        checkpoint: a folder for checkpoints, of which the last two are kept: a new or empty one, or one in which a run kept some before.
        checkpoint_every: after each so many steps there is one, and at the end; a tenth of all where left out.
        resume: go on from the newest checkpoint there, if there is one; what comes of it is as if the run had never ended, but for
            `wall_s`, which is of the steps since, and gradients, of which there are none where no step is left to do.
        from_step: go on from the checkpoint after this step instead.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there.
        ScheduleError: ranks wait for one another for ever.
        CheckpointError: the newest is damaged, or of another run, or the folder is in use.
        EndedRun: a worker died, the deadline passed, or a checkpoint cannot be written.
        ParsimError: the transport cannot work here.
    """
    chosen = scenario.legal_plan(plan)
    if chosen.is_served:
        raise PlanError("gradient_sync = parameter_server has servers beside its ranks", "gradient_sync", "`execute_served` runs it.")
    if rounds_as is not None and (wrong := value_faults(rounds_as)):  # which may be of another cluster
        raise PlanError("\n".join(map(str, wrong)), "rounds_as")
    asked: dict[str, Any] = {"num_steps": num_steps, "precision": precision, "evaluate_every": evaluate_every}
    numbers = _numbers(scenario, chosen, seed, **asked, deadline_s=deadline_s, from_step=from_step)
    keeping = _checkpoints(num_steps, checkpoint, checkpoint_every, resumes=resume or from_step is not None)
    run = _request(scenario, chosen, **numbers, clocks=clocks, sleeps=wall, rounds_as=rounds_as, keeping=keeping)
    return _run(run, transport, deadline_s, progress, Start(resume or from_step is not None, from_step))


def _run(run: RunRequest, transport: Transport, deadline_s: float | None, progress: ShowStep | None, start: Start) -> Execution:
    """A run, whose steps are told and kept while it goes on."""
    with watch_over(run, transport, progress, start) as watch:
        try:
            if transport == "lockstep":
                records = lockstep.run(watch.job, run.num_steps, watch.on_step, run.evaluate_every, watch.on_saved)
                return _execution(watch.job, records, ())
            reports = _processes(watch, transport, deadline_s)
        except CheckpointError as error:
            if error.remedy:  # one that cannot be read
                raise
            raise EndedRun(f"the run ended: {error.what}", error.where, watch.way_on) from error
    return _execution(watch.job, [report.record for report in reports], tuple(tuple(report.wall_s) for report in reports))


@check_arguments
def execute_served(
    scenario: Scenario,
    plan: Plan | str,
    *,
    num_steps: int = 1,
    transport: Transport = "lockstep",
    seed: int | None = None,
    precision: Float = "float64",
    wall: bool = False,
    evaluate_every: int = 0,
    deadline_s: float | None = None,
    progress: Callable[[int, float, Score | None], None] | None = None,
) -> ServedExecution:
    """Some steps of a plan of parameter servers, executed by servers and workers; the arguments that `execute` has, too, mean the same.

    Args:
        num_steps: of asynchronous workers as many gradients as there are workers make a step.
        wall: serve requests as they come, and not by virtual clocks; servers and workers are processes then.

    Raises:
        ScenarioError: the scenario has no plan of that name.
        PlanError: the plan is not legal there, or has no parameter servers.
        ParsimError: a worker or server died, or the transport cannot work here, or not by the wall.
    """
    chosen = scenario.legal_plan(plan)
    if not chosen.is_served:
        raise PlanError(f"gradient_sync = {chosen.gradient_sync} has no parameter servers", "gradient_sync", "`execute` runs it.")
    if wall and transport == "lockstep":
        remedy = "Take transport = shared_memory, or mpi."
        raise ParsimError("execute_served: wall = True, but the ranks of lockstep run one at a time", remedy=remedy)
    asked: dict[str, Any] = {"num_steps": num_steps, "precision": precision, "evaluate_every": evaluate_every}
    run = _request(scenario, chosen, **_numbers(scenario, chosen, seed, **asked, deadline_s=deadline_s))
    return serving.run(run, transport, wall=wall, deadline_s=deadline_s, progress=progress)


def execute_legal(scenario: Scenario, plan: Plan, *, num_steps: int = 1, rounds_as: Plan | None = None) -> Execution:
    """Some steps in lockstep, with drawn numbers, of a plan that is known to be legal; `rounds_as`: as of `execute`."""
    job = job_of(scenario, plan, num_steps, rounds_as)
    return _execution(job, lockstep.run(job, num_steps), ())


def job_of(scenario: Scenario, plan: Plan, num_steps: int = 1, rounds_as: Plan | None = None) -> Job:
    """What these steps run."""
    return _request(scenario, plan, seed=scenario.seed, num_steps=num_steps, rounds_as=rounds_as).job()


def _request(scenario: Scenario, plan: Plan, **others: Any) -> RunRequest:
    model = CostModel(scenario.cluster, scenario.stack, scenario.trained_by(plan).batch)
    return RunRequest(scenario.model, model, plan, dict(scenario.itemsize_bytes), training=scenario.training, **others)


def _numbers(
    scenario: Scenario, plan: Plan, seed: int | None, *, num_steps: int, precision: Float, evaluate_every: int, **checked: float | None
) -> dict[str, Any]:
    """What runs of ranks and of parameter servers are asked alike; `checked`: numbers that are checked, and no more."""
    own_seed = scenario.seed if seed is None else seed
    check_size(scenario)
    caller = "execute_served" if plan.is_served else "execute"
    _check_numbers(caller, num_steps=num_steps, seed=own_seed, evaluate_every=evaluate_every, **checked)
    dataset = _dataset(scenario, own_seed)
    every = evaluate_every if dataset and dataset.num_validation else 0
    asked = {"seed": own_seed, "num_steps": num_steps, "data": dataset, "evaluate_every": every, "precision": precision}
    return {**asked, "factors": _factors(scenario, plan)}


def _factors(scenario: Scenario, plan: Plan) -> tuple[tuple[float, ...], ...]:
    """By rank and step, how many times as long the kernels of its device take; none where nothing disturbs."""
    if scenario.disturbance is None:
        return ()
    told = {"num_passes": 2 * plan.num_micro_batches(scenario.batch), "devices_per_node": scenario.cluster.node.devices_per_node}
    return tuple(map(tuple, factors_of(scenario.disturbance, (plan.num_devices, DRAWN), **told).tolist()))


def _processes(watch: Watch, transport: Transport, deadline_s: float | None) -> list[Report]:
    """What the ranks report, each a process."""
    num_ranks, hear = watch.job.num_ranks, watch.hear
    try:
        found: list[Report] = launch(work, num_ranks, transport, (watch.job.asked,), deadline_s=deadline_s, progress=hear)
    except TransportError as error:
        if isinstance(error.__cause__, CheckpointError):  # which a rank has met
            raise error.__cause__ from error
        raise EndedRun(f"the run ended: {error}", remedy=watch.way_on) from error
    return found


def _checkpoints(num_steps: int, folder: str | Path | None, every: int | None, *, resumes: bool) -> ShardKeeping | None:
    """What is asked of checkpoints."""
    if folder is None or folder == "":
        if folder == "" or every is not None or resumes:
            raise ParsimError("execute: checkpoints need a folder", remedy="Name it: --checkpoint DIR (checkpoint=...).")
        return None
    _check_numbers("execute", checkpoint_every=every)
    return ShardKeeping(os.path.abspath(folder), every or max(1, num_steps // 10), num_steps)


def _check_numbers(caller: str, **stated: float | None) -> None:
    """Refuse numbers outside what each may be; nan is."""
    for name, number in stated.items():
        least, most = _RANGES[name]
        if number is not None and not least <= number <= most:
            raise ParsimError(f"{caller}: {name} = {number} must be from {least:g} to {most:,.0f}")


def check_size(scenario: Scenario) -> None:
    """Refuse a model that does not fit the memory of an ordinary machine.

    Raises:
        ScenarioError: it does not.
    """
    count = parameters.num_parameters(scenario.model)
    if count > MOST_WEIGHTS:
        raise ScenarioError(
            f'model "{scenario.model.name}" has {count:,} weights, above the {MOST_WEIGHTS:,} that are executed',
            remedy="`parsim verify` executes a small likeness of each plan.",
        )


def _dataset(scenario: Scenario, seed: int) -> Dataset | None:
    """What the scenario trains on; None where numbers are drawn."""
    if scenario.data is None:
        return None
    stated = scenario.data
    return load(stated.name, stated.validation_split, seed, scenario.model, scenario.batch.sequence_length, scenario.batch.source)


def _execution(job: Job, records: list[Record], wall_s: tuple[tuple[float, ...], ...]) -> Execution:
    steps = zip(*(record.losses for record in records), strict=True)
    return Execution(
        tuple(record.ledger for record in records),
        tuple(accumulate(map(max, zip(*(record.ends_ps for record in records), strict=True)))),
        tuple(sum(part or 0.0 for part in parts) for parts in steps),
        tuple(record.gradients for record in records),
        tuple(record.weights for record in records),
        tuple(record.input_gradients for record in records),
        tuple(record.host_bytes for record in records),
        job,
        tuple(records[0].norms),
        tuple(zip(*(record.own_norms for record in records), strict=True)),
        wall_s,
    )
