"""`parsim size`: each number of devices that was looked at, the one that does, or what would."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from parsim.estimator.cells import days, usd
from parsim.goodput.long_run import as_planned
from parsim.planner.sizing import Sized, Sizing, size
from parsim.report.console import Output, log, patience, say, show_table
from parsim.report.results import head, plan_document
from parsim.report.summary import said_of_ranking
from parsim.report.summary import size as batch_line
from parsim.report.sure import figures
from parsim.report.whole import beside_steps, sentence, sources
from parsim.scenario import Scenario
from parsim.scenario.source import Source


def size_scenario(source: Source, output: Output, tokens: str | None, *, within: str | None, budget: str | None, **options: Any) -> int:
    """The exit status: 0, or 1 where no number of devices does; `options` are those of `size`.

    Raises:
        ParsimError: the scenario, a limit or the space is wrong, or nobody states what they need.
    """
    with patience(f"looking for the devices of {source}"):
        scenario = source.load()
        found = size(scenario, tokens, within=within, budget=budget, **options)
    rows = [_document(found, each) for each in found.rows]
    output.show({**head(scenario), "rows": rows}, found.records(), lambda: _show(scenario, found))
    if found.answer is None:
        log(_what_would(scenario, found, timed=within is not None, paid=budget is not None))
    return 0 if found.answer else 1


def _document(found: Sizing, row: Sized) -> dict[str, Any]:
    return {
        **{"num_devices": row.num_devices, "num_nodes": row.num_nodes, "answer": row == found.answer},
        "plan": plan_document(row.best.plan) if row.best else None,
        "why_none": row.why or None,
        "step_s": row.best.step_s if row.best else None,
        **(figures(row.best) if row.best else {}),
        "scaling": found.efficiency(row),
        "whole_training": asdict(row.training) if row.training else None,
    }


def _show(scenario: Scenario, found: Sizing) -> None:
    node = scenario.cluster.node
    tokens = next((f", {row.training.total_tokens:,} tokens" for row in found.rows if row.training), "")
    fabric = f", {scenario.cluster.fabric.name}" if scenario.cluster.fabric else ""
    if scenario.notes:
        say("; ".join(scenario.notes))
    default = " by default" if scenario.default_stack else ""
    say(f"{scenario.model.name} on {node.accelerator.name} ({node.name}{fabric}), {scenario.stack.name}{default}{tokens}")
    say(batch_line(scenario))
    show_table(found.cells(), left=("plan",))
    for why in dict.fromkeys(row.why.partition(":")[0] for row in found.rows if row.why):
        own = [row for row in found.rows if row.why.startswith(why)]
        say(f"{why} on {', '.join(f'{row.num_devices:,}' for row in own)} devices; on {own[0].num_devices:,}{own[0].why.removeprefix(why)}")
    for each in (*beside_steps(as_planned(scenario)), *sources(scenario), *said_of_ranking(scenario)):
        say(each)
    if (answer := found.answer) and answer.training:
        say(f"{answer.num_devices:,} devices ({answer.num_nodes:,} node{'s' if answer.num_nodes > 1 else ''}): {sentence(answer.training)}")


def _what_would(scenario: Scenario, found: Sizing, *, timed: bool, paid: bool) -> str:
    """Why no number of devices does, and which limits would."""
    fitting = [each for each in found.rows if each.training]
    if not fitting:
        most = found.rows[-1].num_devices
        return f"no plan fits up to {most:,} devices\n  Try recompute, ZeRO, a smaller micro_batch, or larger memories."
    fastest = min(fitting, key=lambda each: each.time_s)
    cheapest = min(fitting, key=lambda each: each.cost_usd)
    said = []
    if timed:
        said.append(f"{fastest.num_devices:,} devices take {days(fastest.time_s)}, the least: --within '{days(fastest.time_s * 1.01)}'")
    if paid:
        said.append(
            f"{cheapest.num_devices:,} devices cost {usd(cheapest.cost_usd)}, the least: --budget '{cheapest.cost_usd * 1.01:.0f} USD'"
        )
    if scenario.cluster.fabric is None:
        said.append("several nodes need a fabric: give cluster.fabric")
    return "no number of devices does\n  " + "; ".join(said)
