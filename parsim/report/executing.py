"""`parsim execute`: train the plans of a scenario on numpy ranks, and show the loss of each step and what the ranks counted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict, replace

from parsim import units
from parsim.data import load as load_data
from parsim.errors import ParsimError
from parsim.executor.evaluate import Score
from parsim.executor.noise import NoiseScale, check_noise, noise_scale
from parsim.executor.run import Execution, Transport, execute
from parsim.report.console import Output, bar, log, say, show_table
from parsim.report.keeping import Kept, check_one, way_on
from parsim.report.manners import unwind
from parsim.scenario import Scenario
from parsim.scenario.source import Source
from parsim.units import percent

_STEPS = 3  # of a scenario without data
_LINES = 20  # of a plan, unless the user wants more


def execute_scenario(
    source: Source,
    output: Output,
    *,
    plans: Sequence[str],
    num_steps: int | None,
    every: int | None,
    transport: Transport,
    seed: int | None,
    noise: bool = False,
    kept: Kept | None = None,
    **options: Any,
) -> int:
    """The exit status: 0.  `every`: after how many steps a line is printed; `noise`: whether the gradients' noise scale is told, too;
    `kept`: what is asked of checkpoints; `options`: the precision and the deadline_s of `execute`.

    Raises:
        ParsimError: the scenario is wrong or too large to execute, or a worker ended.
    """
    scenario = source.load()
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    num_steps, epoch = _lengths(scenario, num_steps)
    every = every or _every(num_steps, epoch)
    names = tuple(dict.fromkeys(plans)) or tuple(scenario.plans)
    if not names:
        raise ParsimError("no plan here says how the work is split", str(source), "The planner fills open axes: parsim plan.")
    for name in names:
        chosen = scenario.plan(name)  # an unknown one is told before the first runs
        if noise:
            check_noise(chosen, num_steps)
    if kept:
        check_one(names)
    again = kept.command(source, names[0], num_steps, transport=transport, seed=seed, **options) if kept else None
    unwind()
    quiet = output.json or output.csv or _is_a_follower(transport)
    rows: list[dict[str, Any]] = []
    runs: dict[str, Execution] = {}
    options |= {"transport": transport, "clocks": False, "evaluate_every": epoch, **(kept.arguments if kept else {})}
    for name in names:
        with bar(watched=not quiet) as show:

            def report(step: int, loss: float, score: Score | None, plan: str = name, show: Any = show) -> None:
                scores = {"validation_loss": score and score.loss, "accuracy": score and score.accuracy, "exact": score and score.exact}
                rows.append({"plan": plan, "step": step + 1, "loss": loss, **scores})
                show(plan, (step + 1) / num_steps)
                if not quiet and (step == 0 or step + 1 == num_steps or not (step + 1) % every):
                    say(_line(rows[-1]))

            with way_on(again):
                runs[name] = execute(scenario, name, num_steps=num_steps, progress=report, **options)
    if not _is_a_follower(transport):
        _show(scenario, runs, rows, output, noise=noise, precision=options["precision"])
    return 0


def _show(
    scenario: Scenario, runs: dict[str, Execution], rows: list[dict[str, Any]], output: Output, *, noise: bool, precision: str
) -> None:
    """What the ranks counted, behind the steps."""
    scales = {name: noise_scale(run) for name, run in runs.items()} if noise else {}
    by_plan = {name: _run_document(run, scales.get(name)) for name, run in runs.items()}
    document = {"scenario": scenario.name, "steps": rows, "plans": by_plan}
    table, title = [_summary(name, run) for name, run in runs.items()], "a rank in all steps, of all the most"
    output.show(document, rows, lambda: show_table(table, left=("plan",), title=title))
    if not (output.json or output.csv):
        for name, scale in scales.items():
            say(_noise_line(name, scale))
        since = next((f"; went on after step {run.went_on_after:,}" for run in runs.values() if run.went_on_after), "")
        log(f"{precision}, seed {scenario.seed}; bytes are charged at {scenario.batch.dtype}, as in a prediction{since}")


def _lengths(scenario: Scenario, stated: int | None) -> tuple[int, int]:
    """Steps to run, and steps of an epoch, after each of which the weights are measured; 0 where there is no data set."""
    given, global_batch = scenario.data, scenario.batch.global_batch
    if given is None:
        return stated or _STEPS, 0
    lengths = scenario.batch.sequence_length, scenario.batch.source
    dataset = load_data(given.name, given.validation_split, scenario.seed, scenario.model, *lengths)
    return stated or dataset.num_steps(scenario.training.epochs, global_batch), dataset.steps_per_epoch(global_batch)


def _every(num_steps: int, epoch: int) -> int:
    """After how many steps a line is printed: an epoch or so many that few lines come.

    >>> _every(3, 0), _every(900, 45), _every(900, 0), _every(1000, 10)
    (1, 45, 45, 50)
    """
    unit = epoch if 0 < epoch < num_steps else 1
    return unit * math.ceil(num_steps / unit / _LINES)


def _is_a_follower(transport: str) -> bool:
    """Whether another of mpiexec's processes speaks for this one."""
    if transport != "mpi":
        return False
    try:
        from mpi4py import MPI  # type: ignore[import-not-found,unused-ignore]
    except (ImportError, RuntimeError):  # no mpi4py, or no library of MPI: the transport says so
        return False
    return bool(MPI.COMM_WORLD.Get_rank())


def _line(row: dict[str, Any]) -> str:
    held_back = "" if row["accuracy"] is None else f"  validation loss {row['validation_loss']:.6f}  accuracy {percent(row['accuracy'])}"
    held_back += "" if row["exact"] is None else f", of whole sequences {percent(row['exact'])}"
    return f"{row['plan']}  step {row['step']}  loss {row['loss']:.6f}{held_back}"


def _noise_line(name: str, scale: NoiseScale) -> str:
    steps = f"{scale.num_steps} steps of {scale.global_batch} over replicas of {scale.small_batch:g}"
    return f"{name}: noise scale {scale.sequences:.3g} +- {scale.error:.2g} sequences, from {steps}"


def _run_document(run: Execution, scale: NoiseScale | None) -> dict[str, Any]:
    counts = {name: [getattr(ledger, name) for ledger in run.ledgers] for name in ("flops", "sent_bytes", "peak_bytes")}
    noise = {"noise_scale": asdict(scale)} if scale else {}
    return {"losses": run.losses, **counts, "wall_s": run.wall_s, **noise}


def _summary(name: str, run: Execution) -> dict[str, str]:
    axes = run.job.step.structure.links
    sent = {f"sent {axis}": units.format(max(each.sent_bytes.get(axis, 0) for each in run.ledgers), "bytes") for axis in axes}
    steps_s = [max(each) for each in zip(*run.wall_s, strict=True)]
    wall = {"wall, a step": units.format(statistics.median(steps_s), "s")} if steps_s else {}
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
