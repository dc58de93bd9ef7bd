"""`parsim execute`: train the plans of a scenario on numpy ranks, and show the loss of each step and what the ranks counted."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parsim import units
from parsim.data import load as load_data
from parsim.errors import ParsimError
from parsim.executor.evaluate import Score
from parsim.executor.run import Execution, Transport, execute
from parsim.report.console import console, log, percent, raw, say, show_table
from parsim.report.files import csv_text, json_text
from parsim.report.running import one_format
from parsim.scenario import Scenario, load

_STEPS = 3  # of a scenario without data


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of `parsim execute`."""

    plans: Sequence[str] = ()
    num_steps: int | None = None
    transport: Transport = "shared_memory"
    seed: int | None = None
    precision: str = "float64"
    deadline_s: float | None = None
    json: bool = False
    csv: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of one plan, as it is told."""

    plan: str
    step: int
    loss: float
    score: Score | None

    def row(self) -> dict[str, object]:
        """As JSON and CSV have it."""
        score = (None, None) if self.score is None else (self.score.loss, self.score.accuracy)
        return {"plan": self.plan, "step": self.step + 1, "loss": self.loss, "validation_loss": score[0], "accuracy": score[1]}


def execute_scenario(path: Path, wanted: Wanted) -> int:
    """The exit status: 0.

    Raises:
        ParsimError: the scenario is wrong or too large to execute, a worker ended, or JSON and CSV are both asked for.
    """
    one_format(json=wanted.json, csv=wanted.csv)
    scenario = load(path)
    if wanted.seed is not None:
        scenario = replace(scenario, seed=wanted.seed)
    num_steps, epoch = _lengths(scenario, wanted.num_steps)
    names = tuple(dict.fromkeys(wanted.plans)) or tuple(scenario.plans)
    if not names:
        raise ParsimError("no plan here says how the work is split", str(path), "The planner fills open axes: parsim plan.")
    for name in names:
        scenario.plan(name)  # an unknown one is told before the first runs
    quiet = wanted.json or wanted.csv or _is_a_follower(wanted.transport)
    steps: list[_Step] = []
    runs: dict[str, Execution] = {}
    for name in names:
        with _bar(name, num_steps, quiet=quiet) as advance:

            def told(step: int, loss: float, score: Score | None, plan: str = name, advance: Any = advance) -> None:
                steps.append(_Step(plan, step, loss, score))
                advance(steps[-1])

            runs[name] = execute(
                scenario,
                name,
                num_steps=num_steps,
                transport=wanted.transport,
                precision=wanted.precision,
                clocks=False,
                evaluate_every=epoch,
                deadline_s=wanted.deadline_s,
                progress=told,
            )
    if not _is_a_follower(wanted.transport):
        _print(scenario, steps, runs, wanted)
    return 0


def _lengths(scenario: Scenario, stated: int | None) -> tuple[int, int]:
    """Steps to run, and steps of an epoch, after each of which the weights are measured; 0 where there is no data set."""
    if scenario.data is None:
        return stated or _STEPS, 0
    given = scenario.data
    dataset = load_data(given.name, given.validation_split, scenario.seed, scenario.model, scenario.batch.sequence_length)
    global_batch = scenario.batch.global_batch
    return stated or dataset.num_steps(scenario.training.epochs, global_batch), dataset.steps_per_epoch(global_batch)


def _is_a_follower(transport: str) -> bool:
    """Whether another of mpiexec's processes speaks for this one."""
    if transport != "mpi":
        return False
    try:
        from mpi4py import MPI  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError):  # no mpi4py, or no library of MPI: the transport says so
        return False

    return bool(MPI.COMM_WORLD.Get_rank())


@contextmanager
def _bar(name: str, num_steps: int, *, quiet: bool) -> Iterator[Any]:
    """What to call after each step: a line of results, or where somebody looks a bar beside them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = not quiet and sys.stderr.isatty()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), disable=not shown, transient=True) as progress:
        task = progress.add_task(name, total=num_steps)

        def advance(step: _Step) -> None:
            progress.advance(task)
            if not quiet:
                say(_line(step))

        yield advance


def _line(step: _Step) -> str:
    score = step.score
    held_back = f"  validation loss {score.loss:.6f}  accuracy {percent(score.accuracy)}" if score else ""
    return f"{step.plan}  step {step.step + 1}  loss {step.loss:.6f}{held_back}"


def _print(scenario: Scenario, steps: Sequence[_Step], runs: dict[str, Execution], wanted: Wanted) -> None:
    rows = [step.row() for step in steps]
    if wanted.csv:
        raw(csv_text(rows))
    elif wanted.json:
        raw(json_text({"scenario": scenario.name, "steps": rows, "plans": {name: _counted(run) for name, run in runs.items()}}))
    else:
        show_table([_summary(name, run) for name, run in runs.items()], left=("plan",), title="a rank in all steps, of all the most")
        log(f"{wanted.precision}, seed {scenario.seed}; bytes are charged at {scenario.batch.dtype}, as in a prediction")


def _counted(run: Execution) -> dict[str, Any]:
    """What a run's ranks counted, as JSON has it."""
    return {
        "losses": run.losses,
        "flops": [ledger.flops for ledger in run.ledgers],
        "sent_bytes": [ledger.sent_bytes for ledger in run.ledgers],
        "peak_bytes": [ledger.peak_bytes for ledger in run.ledgers],
        "wall_s": run.wall_s,
    }


def _summary(name: str, run: Execution) -> dict[str, str]:
    axes = run.job.step.structure.links
    sent = {f"sent {axis}": units.format(max(each.sent_bytes.get(axis, 0) for each in run.ledgers), "bytes") for axis in axes}
    wall = {"wall, a step": units.format(statistics.median(max(each) for each in zip(*run.wall_s, strict=True)), "s")} if run.wall_s else {}
    return {
        "plan": name,
        "ranks": str(len(run.ledgers)),
        "first loss": f"{run.losses[0]:.6f}",
        "last loss": f"{run.losses[-1]:.6f}",
        "FLOPs": f"{max(ledger.flops for ledger in run.ledgers):.4g}",
        "peak": units.format(max(ledger.peak_bytes for ledger in run.ledgers), "bytes"),
        **wall,
        **sent,
    }
