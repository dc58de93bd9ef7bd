"""Goodput of plans in words, tables and documents: what is kept of the time, where the rest goes, and what checkpoints take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Final

from parsim import units
from parsim.errors import ParsimError, PlanError
from parsim.estimator.result import Estimate
from parsim.goodput.long_run import NEVER_ENDS, in_a_run
from parsim.goodput.outage import LOSSES, Lived
from parsim.goodput.predict import Goodput, goodput_of, lives_of
from parsim.goodput.rows import of_goodput
from parsim.report.console import log, say, show_table
from parsim.scenario import Scenario
from parsim.scenario.reliability import ALL, EACH
from parsim.units import percent

SEEDS: Final = 8  # runs that are simulated
MEANS: Final[Mapping[str, str]] = {
    "goodput": "the share of the time of a run in which steps are done that count; the rest are its losses: "
    + "; ".join(f"{name}: {said}" for name, said in LOSSES.items()),
    "checkpoint_bytes": "weights as they lie and the optimizer's states, each once, padding of ZeRO included",
    "checkpoint_interval": "the work between two checkpoints; sqrt(2 d M) by Young 1974, with the stall d of steps and the time M between "
    "failures; to higher order by Daly 2006; and where (e^((tau + d) / M) - 1) / tau is least, exactly",
}
_RANKED: Final = ("tokens_per_s", "checkpoint_bytes", "interval_s", "time_s", "cost_usd")  # of a plan in a ranking
_WRITERS: Final = {ALL: "all replicas, each its part", EACH: "every rank, all that it holds"}


def found_for(scenario: Scenario, estimate: Estimate) -> Goodput | None:
    """The goodput of a plan in a run; None where the scenario says nothing of checkpoints."""
    return None if scenario.checkpoint is None else goodput_of(scenario, estimate)


def lived_by(scenario: Scenario, estimate: Estimate) -> tuple[Lived, ...]:
    """The same by events; nothing where nothing fails, or so much that a run would not end, which is said."""
    if scenario.failures is None or scenario.checkpoint is None:
        return ()
    try:
        return lives_of(scenario, estimate, SEEDS)
    except PlanError as error:
        log(f"not simulated: {estimate.name}: {error.what}")
        return ()


def document(found: Goodput | None, lives: Sequence[Lived]) -> dict[str, Any]:
    """What JSON has of it; nothing where there is nothing."""
    if found is None:
        return {}
    lived = {"simulated": _mean_life(lives)} if lives else {}
    return {"goodput": {name: each for name, each in found.to_dict().items() if name != "name"} | {"mtbf_s": found.mtbf_s} | lived}


def row(found: Goodput | None, lives: Sequence[Lived]) -> dict[str, object]:
    """What CSV has of it, where other columns have no such name."""
    lived = {f"goodput_simulated_{name}": each for name, each in _mean_life(lives).items()} if lives else {}
    return of_goodput(found) | lived


def ranking_columns(plan: Mapping[str, Any]) -> dict[str, object]:
    """Of the document of a plan in a ranking what CSV has; nothing where there is nothing."""
    found = plan.get("goodput")
    return {"goodput": found["goodput"], **{f"goodput_{name}": found[name] for name in _RANKED}} if found else {}


def _mean_life(lives: Sequence[Lived]) -> dict[str, float | int]:
    """The mean of runs and its standard error, each run by its time."""
    mean = sum(each.work_s for each in lives) / sum(each.time_s for each in lives)
    spread = sqrt(sum((each.goodput - mean) ** 2 for each in lives) / max(1, len(lives) - 1) / len(lives))
    return {"goodput": mean, "standard_error": spread, "runs": len(lives), "failures": sum(each.num_failures for each in lives)}


def show_goodput(scenario: Scenario, plans: Mapping[str, tuple[Goodput, Sequence[Lived]]], label: str = "plan") -> None:
    """What is kept of the time under each plan and where the rest goes; what checkpoints take; what both follow from."""
    losses = [name for name in LOSSES if any(found.losses[name] for found, _ in plans.values())]
    rows, kept = [], []
    for name, (found, lives) in plans.items():
        lived = {"simulated": _in_words(lives)} if lives else {}
        lost = {each: _share(found.losses[each]) for each in losses}
        rows.append({label: name, "goodput": _share(found.goodput), **lived, **lost})
        best = {"optimum": found.optimum_s, "Daly": found.daly_s, "Young": found.young_s}
        intervals = {"interval": _time(found.interval_s), **{key: _time(each) for key, each in best.items() if each is not None}}
        sizes = {"size": units.format(found.checkpoint_bytes, "bytes"), "most of\na device": units.format(found.device_bytes, "bytes")}
        times = {"write": found.write_s, "steps\nwait": found.stall_s, "read": found.read_s}
        kept.append({label: name, **sizes, **{key: _time(each) for key, each in times.items()}, **intervals})
    show_table(rows, left=(label,), title="goodput, % of the time in steps that count, and where the rest goes")
    show_table(kept, left=(label,), title="checkpoints")
    if hopeless := [name for name, (found, _) in plans.items() if found.never_ends]:
        say(f"{', '.join(hopeless)}: {NEVER_ENDS}")
    for line in follows_from(scenario, next(iter(plans.values()))[0]):
        say(line)


def _share(value: float) -> str:
    """Percent without their sign, to the hundredth: most plans keep nearly all."""
    return f"{100 * value:.2f}"


def _time(seconds: float) -> str:
    minute, hour = units.parse("2 min", "s"), units.parse("2 h", "s")
    return units.format(seconds, "h" if seconds >= hour else "min" if seconds >= minute else "s")


def _in_words(lives: Sequence[Lived]) -> str:
    found = _mean_life(lives)
    return f"{_share(found['goodput'])} ± {_share(found['standard_error'])}"


def follows_from(scenario: Scenario, found: Goodput, *, sources: bool = False) -> list[str]:
    """What goodput rests on, a sentence each; `sources`: also who says how often what fails."""
    failures, checkpoint, lines = scenario.failures, scenario.checkpoint, []
    if failures is not None and found.mtbf_s is not None:
        rates = sorted(found.failures_per_s.items(), key=lambda each: -each[1])
        causes = ", ".join(f"{name} {percent(rate * found.mtbf_s)}" for name, rate in rates if rate)
        source = f" ({failures.rates.source})" if sources and failures.rates.source else ""
        lines.append(f"a failure in {_time(found.mtbf_s)}: {causes}; failure rates {failures.rates.name}{source}")
        spares = "another node stands ready at any time"
        if failures.repair_s is not None:
            short = "goes on with fewer replicas" if failures.elastic else "waits"
            spares = f"{units.count(failures.spare_nodes, 'spare node')}, repair {_time(failures.repair_s)}, without spares the run {short}"
        lines.append(f"restart {_time(found.restart_s)}, of it reading {_time(found.read_s)}; {spares}")
    if checkpoint is not None:
        storage = f" to {scenario.storage.name}" if scenario.storage and checkpoint.write_s is None else ""
        how = "while steps go on, behind a copy to the hosts" if checkpoint.asynchronous else "while steps wait"
        writers = _WRITERS.get(checkpoint.writers, "the first replica")
        lines.append(f"checkpoints are written{storage} {how}, by {writers}")
    if found.room_bytes is not None and found.kept_bytes > found.room_bytes:
        needs, holds = (units.format(each, "bytes") for each in (found.kept_bytes, found.room_bytes))
        lines.append(f"storage holds too little: {holds}, and the checkpoints that it is to keep are {needs}")
    return lines


def explanation(scenario: Scenario, estimate: Estimate, name: str) -> str:
    """The value of one of MEANS of a plan with what it follows from; or what is not stated."""
    try:
        found = goodput_of(scenario, in_a_run(scenario, estimate))
    except ParsimError as error:
        return f"{error.what}: {error.remedy}"
    if name == "checkpoint_bytes":
        most = f"{found.device_bytes:,} of the device and {found.node_bytes:,} of the node that write most"
        return f"{found.checkpoint_bytes:,}: {most}; a restart reads {found.read_bytes:,}"
    if name == "checkpoint_interval":
        rules = {"optimum": found.optimum_s, "Daly": found.daly_s, "Young": found.young_s}
        told = ", ".join(f"{key} {_time(each)}" for key, each in rules.items() if each is not None)
        return "; ".join(each for each in (f"{_time(found.interval_s)}, stall {_time(found.stall_s)}", told) if each)
    lost = ", ".join(f"{key} {percent(each)}" for key, each in found.losses.items() if each)
    return "; ".join([percent(found.goodput), lost, *follows_from(scenario, found, sources=True)])
