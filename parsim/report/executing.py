"""`parsim execute`: train the plans of a scenario on numpy ranks, and show the loss of each step and what the ranks counted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from parsim import units
from parsim.data import load as load_data
from parsim.errors import ParsimError
from parsim.executor.curve import points_of
from parsim.executor.evaluate import Score
from parsim.executor.noise import NoiseScale, check_noise, noise_scale
from parsim.executor.run import Execution, Transport, check_size, execute, execute_served
from parsim.executor.served import AXIS
from parsim.executor.serving import ServedExecution
from parsim.report.console import Output, bar, log, log_files, say, show_table
from parsim.report.disturbing import links_left_out
from parsim.report.files import prepare
from parsim.report.keeping import Kept, check_one, way_on
from parsim.report.learning import CurvesAsked, save, time_to_loss, words_of_time_to_loss
from parsim.report.manners import unwind
from parsim.scenario import Scenario
from parsim.scenario.source import Source
from parsim.units import percent
from parsim.verify.room import check_room

_STEPS = 3  # of a scenario without data
_TITLE = "a rank in all steps, of all the most"
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
    curves: CurvesAsked | None = None,
    **options: Any,
) -> int:
    """The exit status: 0.  `every`: after how many steps a line is printed; `noise`: whether the gradients' noise scale is told, too;
    `kept`: what is asked of checkpoints; `curves`: of losses over time; `options`: the precision and the deadline_s of `execute`.

    Raises:
        ParsimError: the scenario is wrong or too large to execute, or a worker ended.
        OSError: the figure cannot be written.
    """
    scenario, curves = source.load(), curves or CurvesAsked()
    if seed is not None:
        scenario = replace(scenario, seed=seed)
    num_steps, epoch = _lengths(scenario, num_steps)
    every = every or _every(num_steps, epoch)
    names = tuple(dict.fromkeys(plans)) or tuple(scenario.plans)
    if not names:
        raise ParsimError("no plan here says how the work is split", str(source), "The planner fills open axes: parsim plan.")
    check_size(scenario)
    for name in names:
        chosen = scenario.legal_plan(name)  # an unknown one is told before the first runs
        check_room(scenario, chosen, name, precision=options["precision"], transport=transport)
        if noise:
            check_noise(chosen, num_steps)
    if kept:
        check_one([scenario.plan(name) for name in names], names)
    again = kept.command(source, names[0], num_steps, transport=transport, seed=seed, **options) if kept else None
    if curves.wall and transport == "lockstep":
        raise ParsimError("--wall: the ranks of lockstep run one at a time", remedy="Take --transport shared_memory, or mpi.")
    directory = prepare(curves.out or Path("reports") / scenario.name) if curves.formats else None
    unwind()
    quiet = output.json or output.csv or _is_a_follower(transport)
    options |= {"transport": transport, "evaluate_every": epoch, "num_steps": num_steps}
    rows: list[dict[str, Any]] = []
    runs: dict[str, Execution | ServedExecution] = {}
    for name in names:
        with bar(watched=not quiet) as show, way_on(again):
            runs[name] = _run(scenario, name, options, (curves, kept), rows, show, 0 if quiet else every)
    if not _is_a_follower(transport):
        scales = {name: noise_scale(run) for name, run in runs.items() if isinstance(run, Execution)} if noise else {}
        _show(scenario, runs, rows, output, (curves, directory), scales)
        if curves.are_asked and (left_out := links_left_out(scenario)):
            log(left_out)
        if not quiet:
            since = next((f"; went on after step {run.went_on_after:,}" for run in runs.values() if run.went_on_after), "")
            charged = f"bytes are charged at {scenario.batch.dtype}, as in a prediction"
            log(f"{options['precision']}, seed {scenario.seed}; {charged}{since}")
    return 0


def _show(
    scenario: Scenario,
    runs: Mapping[str, Execution | ServedExecution],
    rows: list[dict[str, Any]],
    output: Output,
    asked: tuple[CurvesAsked, Path | None],
    scales: Mapping[str, NoiseScale],
) -> None:
    """What the ranks counted, behind the steps, and the curves that were asked for, in their folder."""
    curves, directory = asked
    drawn = {name: points_of(run, _rows_of(rows, name)) for name, run in runs.items()} if curves.are_asked else {}
    by_plan = {name: _run_document(run, scales.get(name)) | time_to_loss(drawn.get(name), curves) for name, run in runs.items()}
    table = [_summary(name, run) | words_of_time_to_loss(drawn.get(name), curves) for name, run in runs.items()]
    document = {"scenario": scenario.name, "steps": rows, "plans": by_plan}
    output.show(document, rows, lambda: show_table(table, left=("plan",), title=_TITLE))
    if directory:
        steps = f"{len(rows) // len(runs):,} steps of {scenario.batch.global_batch} sequences"
        log_files(directory, save(drawn, directory, curves, f"{scenario.name}: {scenario.model.name}, {steps}"))
    if not (output.json or output.csv):
        for name, scale in scales.items():
            say(_noise_line(name, scale))


def _rows_of(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["plan"] == name]


def _run(
    scenario: Scenario,
    name: str,
    options: Mapping[str, Any],
    asked: tuple[CurvesAsked, Kept | None],
    rows: list[dict[str, Any]],
    show: Callable[[str, float], None],
    every: int,
) -> Execution | ServedExecution:
    """A plan's run, which adds a row a step; each `every`-th is said, with 0 none."""
    num_steps, begin, (curves, kept) = options["num_steps"], len(rows), asked

    def tell(step: int) -> None:
        if every and (step == 0 or step + 1 == num_steps or not (step + 1) % every):
            say(_line(rows[begin + step]))

    def report(step: int, loss: float, score: Score | None) -> None:
        rows.append({"plan": name, "step": step + 1, "loss": loss, **_measures(score)})
        show(name, (step + 1) / num_steps)
        if not served:
            tell(step)

    served = scenario.plan(name).is_served
    if not served:
        more: dict[str, Any] = {"clocks": curves.are_asked and not curves.wall, "wall": curves.wall, **(kept.arguments if kept else {})}
        return execute(scenario, name, progress=report, **more, **options)
    run = execute_served(scenario, name, progress=report, wall=curves.wall, **options)
    for step, row in enumerate(rows[begin:]):
        row.update(_measures(run.scores.get(step + 1)))  # servers hand in their weights at the end
        tell(step)
    return run


def _measures(score: Score | None) -> dict[str, float | None]:
    if score is None:
        return {"validation_loss": None, "accuracy": None, "exact": None}
    return {"validation_loss": score.loss, "accuracy": score.accuracy, "exact": score.exact}


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


def _run_document(run: Execution | ServedExecution, scale: NoiseScale | None) -> dict[str, Any]:
    counts = {name: [getattr(ledger, name) for ledger in run.ledgers] for name in ("flops", "sent_bytes", "peak_bytes")}
    noise = {"noise_scale": asdict(scale)} if scale else {}
    if isinstance(run, ServedExecution):
        return {"losses": run.losses, **counts, "staleness": dict(sorted(run.staleness.items())), "num_dropped": run.num_dropped}
    return {"losses": run.losses, **counts, "wall_s": run.wall_s, **noise}


def _summary(name: str, run: Execution | ServedExecution) -> dict[str, str]:
    axes = (AXIS,) if isinstance(run, ServedExecution) else run.job.step.structure.links
    sent = {f"sent {axis}": units.format(max(each.sent_bytes.get(axis, 0) for each in run.ledgers), "bytes") for axis in axes}
    wall = {"wall, a step": units.format(statistics.median(run.step_walls_s), "s")} if run.step_walls_s else {}
    stale = {"staleness": f"{run.mean_staleness:.2f}"} if isinstance(run, ServedExecution) else {}
    return {
        "plan": name,
        "ranks": f"{len(run.workers)} + {len(run.servers)}" if isinstance(run, ServedExecution) else str(len(run.ledgers)),
        "first loss": f"{run.losses[0]:.6f}",
        "last loss": f"{run.losses[-1]:.6f}",
        "FLOPs": f"{max(ledger.flops for ledger in run.ledgers):.4g}",
        "peak": units.format(max(ledger.peak_bytes for ledger in run.ledgers), "bytes"),
        **wall,
        **sent,
        **stale,
    }
