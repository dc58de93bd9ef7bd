"""`parsim advise`: the tables of micro-batches, global batches and learning rates that go with a plan."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from parsim import units
from parsim.errors import ParsimError
from parsim.estimator.cells import short, span
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.planner.advice import Advice, Reference, advise
from parsim.report.console import Output, patience, say, show_table
from parsim.report.summary import say_what
from parsim.report.sure import figures
from parsim.scenario import Scenario
from parsim.scenario.source import Source

_RULES = {
    0.5: "square root of the batch (Krizhevsky 2014; Malladi et al. 2022, arXiv:2205.10343)",
    1: "linear in the batch (Goyal et al. 2017, arXiv:1706.02677)",
}


def advise_scenario(
    source: Source,
    plan: str | None,
    output: Output,
    *,
    noise_scale: float | None,
    learning_rate: float | None,
    batch: int | None,
    warmup: int,
) -> int:
    """The exit status: 0, or 1 where no micro-batch fits.  `batch` and `warmup` [steps] are of the run that had the learning rate.

    Raises:
        ParsimError: the scenario is wrong, has no such plan, or several and none is named.
    """
    scenario = source.load()
    if learning_rate is None and (batch is not None or warmup):
        raise ParsimError("a reference run without its learning rate", remedy="Add --learning-rate.")
    reference = None if learning_rate is None else Reference(batch or scenario.batch.global_batch, learning_rate, warmup)
    chosen = _plan_of(scenario, plan)
    with patience(f"estimating {source}"):
        advice = advise(scenario, chosen, noise_scale=noise_scale, reference=reference)
    micro, batches = _micro_batches(advice), advice.records()
    document = {
        "scenario": scenario.name,
        "largest_micro_batch": advice.largest_micro_batch,
        "fastest_micro_batch": advice.fastest_micro_batch,
        "noise_scale": noise_scale,
        "reference": reference and asdict(reference),
        "micro_batches": micro,
        "global_batches": batches,
    }
    output.show(document, batches, lambda: _show(scenario, chosen, advice, micro, batches))
    return 0 if advice.largest_micro_batch else 1


def _plan_of(scenario: Scenario, name: str | None) -> str:
    if name is not None:
        return name
    if len(scenario.plans) == 1:
        return next(iter(scenario.plans))
    if scenario.plans:
        raise ParsimError(f"which of its plans: {', '.join(scenario.plans)}?", scenario.path, "Name one.")
    raise ParsimError("every plan leaves axes open", scenario.path, f"The planner fills them: parsim plan {scenario.arguments}")


def _micro_batches(advice: Advice) -> list[dict[str, Any]]:
    found = ((each, {name: getattr(each, name) for name in ("step_s", "peak_bytes", "fits")}) for each in advice.micro_batches)
    return [{"micro_batch": each.plan.micro_batch, **own, **figures(each)} for each, own in found]


def _show(scenario: Scenario, name: str, advice: Advice, micro: list[dict[str, Any]], batches: list[dict[str, Any]]) -> None:
    say_what(scenario)
    say(f"{name}: {short(advice.plan)}")
    shown = [
        {
            "micro_batch": str(row["micro_batch"]),
            "step": units.format(row["step_s"], "s"),
            "80 %": span(row["step_interval_s"], "s"),
            "peak": units.format(row["peak_bytes"], "GiB"),
            "80 % of peaks": span(row["peak_interval_bytes"], "GiB"),
            "fits": row["fit"],
        }
        for row in micro
    ]
    show_table(shown, title=f"micro_batch, at global_batch {scenario.batch.global_batch}")
    say(f"largest that fits: {advice.largest_micro_batch or 'none'}; fastest that fits: {advice.fastest_micro_batch or 'none'}")
    show_table([_texts(row, stated=scenario.batch.global_batch) for row in batches], title="global_batch, the plan as it is")
    if advice.noise_scale is None:
        say("Larger batches need fewer steps up to the gradients' noise scale, which is not known: give --noise-scale,")
        say("as `parsim execute --noise-scale` measures it on a small model (it grows as the loss falls).")
    else:
        say(f"steps, sequences and time to the same loss, over those at {scenario.batch.global_batch}, where the noise scale is")
        say(f"{advice.noise_scale:g} sequences at that loss (McCandlish et al. 2018, arXiv:1812.06162)")
    if batches[0]["learning_rate"] is not None:
        say(f"learning rate: {_RULES[OPTIMIZERS[advice.plan.optimizer].rate_power]};")
        say("warm-up: as many sequences, over no fewer steps than Adam's mean of squares needs (Ma and Yarats 2021).")
        say("A start for a search, tried up to a few times the reference's batch; nothing of it is applied.")


def _texts(row: dict[str, Any], *, stated: int) -> dict[str, str]:
    mark = "*" if row["global_batch"] == stated else ""
    texts = {
        "global_batch": f"{row['global_batch']}{mark}",
        "tokens": f"{row['tokens']:,}",
        "step": units.format(row["step_s"], "s"),
        "tokens/s": f"{row['tokens_per_s']:,.0f}",
        "fits": row["fit"],
    }
    if row["relative_time"] is not None:
        names = {"steps": "num_steps", "seq.": "num_sequences", "time": "time"}
        texts |= {name: f"{row[f'relative_{key}']:.2f}" for name, key in names.items()}
    if row["learning_rate"] is not None:
        texts |= {"rate": f"{row['learning_rate']:.3g}", "warm-up": str(row["warmup_steps"])}
    return texts
