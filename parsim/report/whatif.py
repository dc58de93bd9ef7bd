"""`parsim whatif`: what a step gains from each resource that is faster, and what another row of the catalog makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any, Final

from msgspec.structs import replace

from parsim import units
from parsim.cluster.ports import nic_port
from parsim.errors import PlanError
from parsim.estimator.cells import short, span
from parsim.estimator.estimate import estimate
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Plan
from parsim.planner import plan as rank
from parsim.planner import remedies
from parsim.planner.whatif import Gain, WhatIf, is_fed, resources_of, whatif
from parsim.report.choosing import remedy_lines
from parsim.report.console import Output, log, patience, say, show_table
from parsim.report.results import plan_document
from parsim.report.summary import headline, say_what
from parsim.report.sure import figures
from parsim.scenario import Scenario
from parsim.scenario.source import Source
from parsim.units import percent

_FIGURES: Final = ("step_s", "tokens_per_s", "tokens_per_s_per_device", "mfu", "peak_bytes", "capacity_bytes", "fits")
_BEFORE: Final = "as it is"
_ENDS: Final = ("low", "high")
_LEFT: Final = ("resource", "now", "case", "plan", "fits")


def ask_what_if(source: Source, output: Output, *, plans: Sequence[str], swaps: Sequence[str], replan: bool) -> int:
    """The exit status: 0, or 1 where no plan fits its device.

    Raises:
        ParsimError: the scenario or a change is wrong, or replanning is asked for without a change.
    """
    if replan and not swaps:
        raise PlanError("--replan looks for the best plan under a change", remedy="Give one, e.g. --swap node=hgx-h200.")
    with patience(f"estimating {source}"):
        scenario = source.load()
        other = source.swap(swaps).load() if swaps else None
        chosen = chosen_plans(scenario, plans)
        if other is None:
            answers = [(name, whatif(scenario, each)) for name, each in chosen]
            output.show(_document(scenario, answers), _rows(answers), lambda: _show_gains(scenario, answers))
        else:
            cases = [case for name, each in chosen for case in _cases(scenario, other, name, each, swaps, replan=replan)]
            document = {"scenario": scenario.name, "notes": list(scenario.notes), "swap": list(swaps), "cases": cases}
            output.show(document, (_flat(each) for each in cases), lambda: _show_cases(scenario, other, swaps, cases))
    return 0 if chosen else 1


def chosen_plans(scenario: Scenario, names: Sequence[str]) -> list[tuple[str, Plan]]:
    """The plans of these names, of an open one its best; without names the best of the scenario.  None where nothing fits."""
    if names:
        return [
            each for name in names for each in ([(name, scenario.plan(name))] if name not in scenario.spaces else _best(scenario, name))
        ]
    if scenario.spaces or not scenario.plans:
        return _best(scenario, None)
    every = [estimate(scenario, name) for name in scenario.plans]
    found = min(every, key=lambda each: (not each.fits, each.step_s))
    return [(found.name, found.plan)]


def _best(scenario: Scenario, space: str | None) -> list[tuple[str, Plan]]:
    ranking = rank(scenario, space=space, top=1, contention=False)
    if nearest := ranking.nearest:
        told = remedy_lines(scenario, remedies(scenario, nearest.plan), short(nearest.plan), elsewhere=False)
        log("\n".join(("no plan fits its device and host; the nearest:", *told)))
    return [(short(each.plan), each.plan) for each in ranking.rows]


def _document(scenario: Scenario, answers: Sequence[tuple[str, WhatIf]]) -> dict[str, Any]:
    plans = [
        {"plan": name, "step_s": each.estimate.step_s, **figures(each.estimate), "gains": [*_rows([(name, each)])]}
        for name, each in answers
    ]
    return {"scenario": scenario.name, "notes": list(scenario.notes), "plans": plans}


def _rows(answers: Sequence[tuple[str, WhatIf]]) -> Iterator[dict[str, Any]]:
    yield from ({"plan": name, **row} for name, each in answers for row in each.records())


def _show_gains(scenario: Scenario, answers: Sequence[tuple[str, WhatIf]]) -> None:
    say_what(scenario)
    shown: set[str] = set()
    for name, each in answers:
        step_s = each.estimate.step_s
        gains = [gain for gain in each.gains if gain.twice_s != step_s or gain.resource not in _idle(scenario)]
        shown |= {gain.resource for gain in gains}
        rows = [_gain_row(scenario.trained_by(each.estimate.plan), step_s, gain) for gain in gains]
        interval = f" (80 %: {span(each.estimate.step_interval_s, 's')})" if each.estimate.step_interval_s else ""
        fed = ", with what it waits for input" if is_fed(scenario) else ""
        show_table(rows, left=_LEFT, title=f"{name} takes {units.format(step_s, 's', digits=4)}{interval}{fed}; if a resource were faster")
    say("")
    for resource, meaning in resources_of(scenario).items():
        if resource in shown:
            say(f"{resource}: {meaning}")


def _gain_row(scenario: Scenario, step_s: float, gain: Gain) -> dict[str, str]:
    figures = {"resource": gain.resource, "now": _figure(scenario, gain.resource), "+1 % gives": f"{gain.elasticity:.2f} %"}
    return figures | {"twice gives": units.format(gain.twice_s, "s", digits=4), "gain": _faster(step_s, gain.twice_s)}


def _idle(scenario: Scenario) -> tuple[str, ...]:
    """Resources whose absence of effect nobody needs to be told."""
    return ("host link", "host memory", *(("network",) if scenario.cluster.num_nodes == 1 else ()))


def _figure(scenario: Scenario, resource: str) -> str:
    """What it is now, on each kind of node."""
    return " / ".join(dict.fromkeys(_figure_of(replace(scenario, cluster=each), resource) for each in scenario.cluster.kinds))


def _figure_of(scenario: Scenario, resource: str) -> str:
    cluster = scenario.cluster
    node, device = cluster.node, cluster.node.accelerator
    match resource:
        case "compute":
            return units.format(device.peak(scenario.batch.measured_against(scenario.model)), "FLOP/s")
        case "memory":
            return units.format(device.hbm_bandwidth_bytes_per_s, "bytes/s")
        case "node link":
            return f"{node.link.name}, {units.format(node.link.bandwidth_bytes_per_s, 'bytes/s')}"
        case "network" if cluster.fabric and cluster.num_nodes > 1:
            port = nic_port(node, cluster.fabric)
            return f"{cluster.nics_per_node} x {port.name}, {units.format(port.bandwidth_bytes_per_s, 'bytes/s')}"
        case "host link":
            return f"{node.host_link.name}, {units.format(node.host_link.bandwidth_bytes_per_s, 'bytes/s')}"
        case "host memory":
            return units.format(node.host_memory_bytes_per_s, "bytes/s")
        case "storage" if scenario.storage and (rate := scenario.storage.read_rate(cluster.num_nodes)) < inf:
            return f"{scenario.storage.name}, {units.format(rate, 'bytes/s')}"
        case "workers" if scenario.input:
            return f"{scenario.input.workers} a reader"
    return ""


def _cases(scenario: Scenario, other: Scenario, name: str, plan: Plan, swaps: Sequence[str], *, replan: bool) -> Iterator[dict[str, Any]]:
    """The plan as it is and under the change, and the best plan under it where asked."""
    yield _case(_BEFORE, name, estimate(scenario, plan))
    under = other.plans.get(name, plan)
    wrong = other.faults(under)
    if wrong and not replan:
        what = f"plan {name} is not legal with {', '.join(swaps)}: {wrong[0]}"
        raise PlanError(what, remedy="Add --replan for the best plan under the change.")
    if not wrong:
        yield _case("swapped", name, estimate(other, under))
    if replan:
        yield from (_case("planned anew", each, estimate(other, best)) for each, best in _best(other, None))


def _case(case: str, name: str, found: Estimate) -> dict[str, Any]:
    own = {key: getattr(found, key) for key in _FIGURES}
    return {"case": case, "plan": name, **own, **figures(found), "axes": plan_document(found.plan)}


def _flat(case: dict[str, Any]) -> dict[str, Any]:
    """A case in cells: the ends of an interval in columns of their own."""
    ends = {name: case[name] for name in ("step_interval_s", "peak_interval_bytes") if case[name]}
    low_and_high = {name.replace("interval", end): each for name, pair in ends.items() for end, each in zip(_ENDS, pair, strict=True)}
    return {key: value for key, value in case.items() if key not in ("axes", *ends)} | low_and_high


def _show_cases(scenario: Scenario, other: Scenario, swaps: Sequence[str], cases: Sequence[dict[str, Any]]) -> None:
    say_what(scenario)
    say(f"with {', '.join(swaps)}: {headline(other)}")
    rows = []
    for each in cases:
        before = next(one for one in reversed(cases[: cases.index(each) + 1]) if one["case"] == _BEFORE)
        row = {"case": each["case"], "plan": each["plan"], "step": units.format(each["step_s"], "s", digits=4)}
        row |= {"80 %": span(each["step_interval_s"], "s")} if each["step_interval_s"] else {}
        row |= {"gain": percent(each["tokens_per_s"] / before["tokens_per_s"] - 1, signed=True) if each is not before else ""}
        row |= {"token/s\n/device": f"{each['tokens_per_s_per_device']:.0f}", "MFU\n%": percent(each["mfu"]).removesuffix(" %")}
        memory = " of ".join(units.format(each[key], "GiB").removesuffix(" GiB") for key in ("peak_bytes", "capacity_bytes"))
        rows.append(row | {"GiB": memory, "fits": each["fit"]})
    say("")
    show_table(rows, left=_LEFT)


def _faster(before_s: float, after_s: float) -> str:
    return percent(before_s / after_s - 1, signed=True)
