"""`parsim execute`, `verify` and `calibrate`: what this machine's cores do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parsim.commands.app import (
    Csv,
    FormatOption,
    Json,
    OutOption,
    Precision,
    TransportChoice,
    app,
    formats_of,
    output_of,
    seconds_from,
    takes_scenario,
)
from parsim.commands.completing import plans, rows_of
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(
    epilog="Examples:  parsim execute scenarios/digits-mlp.yaml --plan data_parallel --steps 20;  "
    "parsim execute scenarios/digits-mlp.yaml --plan master --steps 400 --checkpoint kept --checkpoint-every 50 --resume  (asked again "
    "after a kill, it goes on)"
)
@command
@takes_scenario(file_only=True)
def execute(
    source: Source,
    plan: Annotated[list[str] | None, typer.Option(help="only this plan; may be repeated", metavar="PLAN", autocompletion=plans)] = None,
    steps: Annotated[
        int | None, typer.Option(help="optimizer steps; the epochs of `training` where left out, or 3", min=1, max=10**9)
    ] = None,
    every: Annotated[int | None, typer.Option(help="print each n-th step; an epoch, or a twentieth of all, where left out", min=1)] = None,
    transport: Annotated[TransportChoice, typer.Option(help="a process a rank, mpiexec's processes, or all in one")] = "shared_memory",
    precision: Annotated[Precision, typer.Option(help="of the numbers")] = "float64",
    seed: Annotated[
        int | None, typer.Option(help="of weights, data and masks; the scenario's where left out", min=0, max=2**32 - 1)
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(help="seconds after which a run is ended", callback=seconds_from(0.1, 10**7), metavar="SECONDS")
    ] = None,
    noise_scale: Annotated[
        bool, typer.Option("--noise-scale", help="also that of the gradients, of plans of replicas alone (`advise` takes it)")
    ] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="keep checkpoints of the one plan there, the last two", metavar="DIR", show_default=False)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="steps between checkpoints; a tenth of all where left out", min=1, max=10**9)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest checkpoint, if there is one")] = False,
    from_step: Annotated[int | None, typer.Option(help="with --resume: go on from the checkpoint after this step", min=1)] = None,
    to_loss: Annotated[
        float | None,
        typer.Option("--to-loss", help="also when the mean loss of ten steps is at most this, in seconds of the cluster", metavar="LOSS"),
    ] = None,
    figure: Annotated[bool, typer.Option("--figure", help="draw losses against sequences and against time, with their CSV")] = False,
    wall: Annotated[
        bool, typer.Option("--wall", help="time is this machine's: parameter servers serve as requests come, not by the cluster's clocks")
    ] = False,
    out: OutOption = None,
    format: FormatOption = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Train the scenario's model with numpy, each plan on its ranks: the loss of each step, and what the ranks counted."""
    from parsim.report.executing import execute_scenario
    from parsim.report.keeping import Kept
    from parsim.report.learning import CurvesAsked

    if checkpoint == "" or (checkpoint is None and (checkpoint_every is not None or resume or from_step is not None)):
        raise typer.BadParameter("checkpoints need a folder; name it", param_hint="--checkpoint")
    if to_loss is not None and not math.isfinite(to_loss):
        raise typer.BadParameter(f"must be a number, not {to_loss:g}", param_hint="--to-loss")
    curves = CurvesAsked(to_loss, formats_of(format, figure or bool(format)), out, wall)
    options: dict[str, Any] = {"noise": noise_scale, "transport": transport, "seed": seed, "precision": precision, "deadline_s": deadline}
    options["kept"] = Kept(Path(checkpoint), checkpoint_every, resume or from_step is not None, from_step) if checkpoint else None
    return execute_scenario(source, output_of(json, csv), plans=plan or (), num_steps=steps, every=every, curves=curves, **options)


@app.command(epilog="Example:  parsim verify scenarios/tiny.yaml")
@command
@takes_scenario(file_only=True)
def verify(
    source: Source,
    time: Annotated[bool, typer.Option("--time", help="time real steps on this machine instead, and compare with the prediction")] = False,
    machine: Annotated[
        Path | None, typer.Option(help="with --time: what `parsim calibrate` wrote; calibrates first where left out", metavar="FILE")
    ] = None,
    csv: Csv = False,
    json: Json = False,
) -> int:
    """Execute each plan with numpy and compare counts, gradients and clocks with the prediction; exit 1 on any difference."""
    if time:
        from parsim.report.calibrating import verify_time

        return verify_time(source, machine, output_of(json, csv))
    from parsim.report.running import verify_scenario

    return verify_scenario(source, output_of(json, csv))


@app.command(
    epilog="Examples:  parsim calibrate --out machine.yaml;  then in a scenario  cluster: {node: file:machine.yaml}, dtype: fp32;  "
    "parsim calibrate --from all_reduce_perf.log gemms.csv steps.csv --scenario mine.yaml --out my-cluster.yaml;  then  "
    "cluster: {node: file:my-cluster.yaml, fabric: file:my-cluster.yaml}, stack: file:my-cluster.yaml"
)
@command
def calibrate(
    files: Annotated[list[Path] | None, typer.Argument(help="more files of --from", metavar="FILE...", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="where to write; machine.yaml, or my-cluster.yaml with --from", metavar="FILE")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="how long to take samples; 40 where left out", callback=seconds_from(1, 3600), metavar="SECONDS")
    ] = None,
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            help="what was measured on a cluster: nccl-tests output as it is, CSV of GEMMs (m, n, k, dtype, and seconds or tflops), of the "
            "scenario's plans (plan, step_s; scenario, a file beside it, where there are several), or of steps as `parsim validate` reads "
            "them",
            metavar="FILE",
        ),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option(help="with --from: what runs on the cluster, and where; options below come before it", metavar="FILE")
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            "--accelerator",
            "--node",
            help="with --from: a node, or an accelerator: its usual node",
            metavar="NAME",
            autocompletion=rows_of("nodes"),
        ),
    ] = None,
    fabric: Annotated[
        str | None,
        typer.Option(
            help="with --from: between nodes; the node's usual one where left out", metavar="NAME", autocompletion=rows_of("fabrics")
        ),
    ] = None,
    stack: Annotated[str | None, typer.Option(help="with --from: the software", metavar="NAME", autocompletion=rows_of("stacks"))] = None,
    date: Annotated[str | None, typer.Option(help="with --from: the day of the measurements, for their source", metavar="DATE")] = None,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Measure this machine's cores, or read what was measured on a cluster, and write rows that a scenario can name.

    Exit 1 where too few samples are clean.
    """
    options = {"--scenario": scenario, "--accelerator": accelerator, "--fabric": fabric, "--stack": stack, "--date": date}
    if measured:
        if seconds is not None:
            raise typer.BadParameter("takes samples of this machine; leave it out with --from", param_hint="--seconds")
        from parsim.report.calibrating_own import OwnGround, calibrate_from

        ground = OwnGround(scenario, accelerator, fabric, stack)
        return calibrate_from([*measured, *(files or ())], out, ground, date, output_of(json, csv))
    given = ["FILE"] * bool(files) + ["--json"] * json + ["--csv"] * csv + [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(f"{' and '.join(given)} say what was measured where; give --from, too", param_hint="--from")
    from parsim.report.calibrating import calibrate_machine

    return calibrate_machine(out, 40 if seconds is None else seconds)
