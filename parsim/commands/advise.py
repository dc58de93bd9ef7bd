"""`parsim advise`: which batch and learning rate go with a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from parsim.commands.app import Csv, Json, app, output_of, takes_scenario
from parsim.commands.completing import plans
from parsim.report.manners import command

if TYPE_CHECKING:
    from parsim.scenario.source import Source


@app.command(epilog="Example:  parsim advise scenarios/gpt3-175b-recompute.yaml full --noise-scale 1500")
@command
@takes_scenario(file_only=True)
def advise(
    source: Source,
    plan: Annotated[
        str | None, typer.Argument(help="a plan of the scenario; its only one where left out", show_default=False, autocompletion=plans)
    ] = None,
    noise_scale: Annotated[
        float | None, typer.Option(help="of the gradients, as `execute --noise-scale` measures it", metavar="SEQUENCES")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="of a run that went well, to be scaled")] = None,
    reference_batch: Annotated[
        int | None, typer.Option(help="its global_batch; the scenario's where left out", min=1, metavar="SEQUENCES")
    ] = None,
    warmup_steps: Annotated[int, typer.Option(help="its warm-up", min=0)] = 0,
    json: Json = False,
    csv: Csv = False,
) -> int:
    """Advise on micro_batch, global_batch and learning rate of a plan, each with its source; nothing is applied.

    Exit 1 where no micro_batch fits.
    """
    from parsim.report.advising import advise_scenario

    reference: dict[str, Any] = {"learning_rate": learning_rate, "batch": reference_batch, "warmup": warmup_steps}
    return advise_scenario(source, plan, output_of(json, csv), noise_scale=noise_scale, **reference)
