"""`parsim plan`: the ranking or the front on stdout, its files, and what would fit where nothing does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from parsim import catalog, units
from parsim.errors import ParsimError, PlanError
from parsim.estimator.cells import short
from parsim.estimator.estimate import estimate
from parsim.estimator.result import Estimate
from parsim.goodput.columns import planned_step_s
from parsim.goodput.long_run import as_planned
from parsim.parallel.dimensions import axis_of
from parsim.parallel.plan import Plan
from parsim.parallel.precision import RECIPES
from parsim.plain import csv_text
from parsim.planner import Ranking, Remedies, Remedy, pareto, plan, remedies, smallest_cluster
from parsim.planner.accord import AUTO, values_of
from parsim.planner.bounded import Bounded
from parsim.planner.constraints import HEADROOM, sieve_of
from parsim.planner.contention import simulate_best
from parsim.planner.front import landscape, on_nodes
from parsim.planner.space import space_named
from parsim.report import results as made
from parsim.report.console import Output, log, log_files, patience, say, watch
from parsim.report.files import folder, prepare, write
from parsim.report.summary import show_front, show_ranking
from parsim.report.whole import line
from parsim.scenario import Scenario
from parsim.scenario.source import Source
from parsim.units import percent

_LIMITS: Final = "step_time=20s, within=30days, budget=1MUSD or devices=512"
_MOST_TOLD: Final = 4  # changes in a message
_WORDS: Final[Mapping[str, str]] = {"virtual_pipeline": "vpp", "micro_batch": "mbs", "zero_stage": "ZeRO "}


class Question(Struct, frozen=True):
    """Which plans are asked about, and which files."""

    source: Source
    space: str | None = None
    runnable: bool = False
    out: Path | None = None
    formats: tuple[str, ...] = ()  # of the figures
    objective: str = "step_time"
    limits: Mapping[str, object] = field(default_factory=dict)

    def directory(self, scenario: Scenario) -> Path | None:
        """Where files go, prepared; None where none are asked for."""
        return prepare(self.out or folder(scenario.name)) if self.out or self.formats else None

    @contextmanager
    def options(self) -> Iterator[dict[str, Any]]:
        """Arguments of the planner, which tells how far it is."""
        with watch(f"pricing every plan of {self.source}", "plans priced") as told:
            yield {"space": self.space, "runnable": self.runnable, "progress": told}


def limits_of(stated: Sequence[str], headroom: str) -> dict[str, object]:
    """Limits by name, of texts NAME=VALUE and the headroom; each may be stated once.

    Raises:
        ParsimError: one is no such text, or is stated twice.
    """
    limits: dict[str, object] = {} if headroom == "0" else {HEADROOM: headroom}
    for each in stated:
        name, equals, value = (part.strip() for part in each.partition("="))
        if not equals:
            raise ParsimError(f"--limit {name}: must be NAME=VALUE", remedy=f"E.g. {_LIMITS}.")
        if name in limits:
            raise ParsimError(f"--limit {name} is given twice", remedy="Give the stricter of the two.")
        limits[name] = value
    return {HEADROOM: headroom, **limits}


def rank_scenario(asked: Question, output: Output, top: int, *, contention: bool = False) -> int:
    """The exit status: 0, or 1 where no plan fits.

    Raises:
        ParsimError: the scenario or the space is wrong, or no plan is legal.
        OSError: a file cannot be written.
    """
    scenario = asked.source.load()
    directory = asked.directory(scenario)
    with asked.options() as options:
        later = False if contention else None  # the best are simulated below, where it is told how far that is
        ranking = plan(scenario, top=top, objective=asked.objective, constraints=asked.limits, contention=later, **options)
    if contention:
        with patience(f"simulating the best {len(ranking.rows)} with contention") as tell:
            ranking = simulate_best(scenario, ranking, asked.limits, tell)
    with patience("looking for changes that fit"):
        mended = remedies(scenario, ranking.nearest.plan) if ranking.nearest else None
    document = made.ranking_document(scenario, ranking) | ({"nearest": mended.to_dict()} if mended else {})
    rows = made.ranking_table(document)
    output.show(document, rows, lambda: show_ranking(scenario, ranking))
    if (space := space_named(scenario, asked.space)) and tuple(space.axes.get("precision", ())) == (AUTO,) and (why := _all_wide(scenario)):
        log(why)
    if directory:
        from parsim.report.saved import save_plan

        best = [save_plan(scenario, ranking.best.plan, directory / "plan.json")] if ranking.rows else []  # as it is estimated
        log_files(directory, [write(directory / "ranking.csv", csv_text(rows)), *best, *_draw(scenario, asked, directory)])
    if mended:
        log("no plan fits its device and host; the nearest:\n" + "\n".join(remedy_lines(scenario, mended, short(mended.plan.plan))))
    if beyond := ranking.beyond:
        names = ", ".join(_limits_broken(scenario, asked, ranking, beyond))
        log(f"no plan is within {names}; the best without: {short(beyond.plan)}, {line(as_planned(scenario), beyond)}")
    return 0 if ranking.rows else 1


def _all_wide(scenario: Scenario) -> str:
    """Why precision: auto tries nothing of 8 or 4 bits; "" where it does."""
    if any(RECIPES[str(name)].narrows for name in values_of("precision", scenario)):
        return ""
    peaks, devices = scenario.cluster.peak_flops_per_s, [each.node.accelerator.name for each in scenario.cluster.kinds]
    there = [name for name, recipe in RECIPES.items() if recipe.narrows and not recipe.without_peak(peaks)]
    if not there:
        return f"precision = auto finds nothing of 8 or 4 bits: {' or '.join(devices)} has no such peak"
    others = [name for name in catalog.names("stacks") if {*there}.intersection(catalog.row("stacks", name).get("precisions", ()))]
    known = f"trains in {', '.join(scenario.stack.precisions)}" if scenario.stack.precisions else "states none"
    said = f"precision = auto finds nothing of 8 or 4 bits: stack {scenario.stack.name} {known}"
    return f"{said}\n  Of the catalog's stacks these have it here: {', '.join(others) or 'none'}."


def _limits_broken(scenario: Scenario, asked: Question, ranking: Ranking, beyond: Estimate) -> list[str]:
    """The limits that even the fastest plan breaks, and so all do; where there is none, those that leave none together."""
    sieve = sieve_of(asked.limits, scenario)
    steps = sieve.most_ps if ranking.objective != "energy" else {}
    in_run = partial(planned_step_s, scenario, beyond)
    return [name for name in steps if sieve.is_over(name, beyond.step_s, in_run)] or [cut.limit for cut in ranking.cuts if cut.count]


def show_pareto(asked: Question, output: Output, num_nodes: Sequence[int]) -> int:
    """The exit status: 0, or 1 where no plan fits; errors as in `rank_scenario`."""
    scenario = asked.source.load()
    directory = asked.directory(scenario)
    with asked.options() as options:
        front = pareto(scenario, num_nodes=num_nodes, **options)
    output.show(made.head(scenario) | front.to_dict(), front.records(), lambda: show_front(scenario, front, num_nodes))
    if directory:
        log_files(directory, [write(directory / "front.csv", front.to_csv()), *_draw(scenario, asked, directory, num_nodes)])
    if not front.rows:
        log(f"no plan fits; what would, says: parsim plan {scenario.arguments}")
    return 0 if front.rows else 1


def _draw(scenario: Scenario, asked: Question, directory: Path, num_nodes: Sequence[int] = ()) -> list[Path]:
    """The files of the figures, of each cluster its own; nothing that draws is imported where none is asked for."""
    if not asked.formats:
        return []
    from parsim.report.landscape import save

    written = []
    for count in dict.fromkeys(num_nodes) or [scenario.cluster.num_nodes]:
        sized = on_nodes(scenario, count)
        with patience("pricing the best plans of each degree for the figures") as tell, suppress(PlanError):
            drawn = landscape(Bounded.of(sized, asked.space, runnable=asked.runnable), tell)
            written += save(sized, drawn, directory, asked.formats, f"-{count}-nodes" if num_nodes else "")
    return written


def explain_fit(scenario: Scenario, name: str) -> None:
    """Whether a plan fits, and what would where it does not."""
    found = remedies(scenario, name)
    if found.plan.fits:
        held = units.format(found.plan.peak_bytes, "GiB"), units.format(found.plan.capacity_bytes, "GiB")
        say(f"{name}: fits, with {held[0]} of {held[1]} on the most loaded stage; a step takes {_seconds(found.plan.step_s)}")
        if found.plan.fit_probability is not None:
            said = f"probability of {percent(found.plan.fit_probability)}: {found.plan.fit}"
            say(f"By how far off comparable runs were, it does with a {said}")
        say(f"Ask about a task or a figure: parsim explain {scenario.arguments} {name} forward, or {name} peak_bytes")
    else:
        for line in remedy_lines(scenario, found, name):
            say(line)


def remedy_lines(scenario: Scenario, found: Remedies, name: str, *, elsewhere: bool = True) -> list[str]:
    """Why a plan does not fit, and what would: a change, or, looked for `elsewhere`, more nodes; what is not enough alone."""
    whole = found.plan
    lines = [f"{name}: {whole.shortage}; a step would take {_seconds(whole.step_s)}"]
    for each in found.changes[:_MOST_TOLD]:
        longer = percent(each.step_s / whole.step_s - 1, signed=True)
        lines.append(f"fits with {_words(whole.plan, each)}: {_gib(each, whole)}, {_seconds(each.step_s)} ({longer})")
    if found.not_enough:
        lacking = [f"{_words(whole.plan, each)} ({_gib(each, whole)})" for each in found.not_enough[:_MOST_TOLD]]
        lines.append(f"not enough alone: {', '.join(lacking)}")
    if found.changes:
        return lines
    more = _elsewhere(scenario, whole) if elsewhere else [f"what would fit, and how many nodes, says: parsim plan {scenario.arguments}"]
    return [*lines, "no change of one or two axes is enough", *_narrower(scenario, whole), *more]


def _narrower(scenario: Scenario, whole: Estimate) -> Iterator[str]:
    """What the plan holds without float32 weights, which is another training, where the accelerator has a rate for it."""
    narrow = replace(whole.plan, precision="bf16_pure")
    if whole.precision != narrow.precision and not scenario.faults(narrow):
        held = estimate(scenario, narrow)
        yield f"with dtype = bf16_pure, another training, it {'fits' if held.fits else 'holds'}: {units.format(held.peak_bytes, 'GiB')}"


def _elsewhere(scenario: Scenario, whole: Estimate) -> list[str]:
    """Where no change of one or two axes is enough."""
    with patience("looking for the fewest nodes on which any plan fits"):
        fitting = smallest_cluster(scenario)
    if fitting is None:
        fits = "of this cluster fits" if scenario.cluster.fabric else "of one node fits, and the cluster has no fabric for more"
        return [f"no plan {fits}: take more than {whole.plan.num_devices} device{'s' if whole.plan.num_devices > 1 else ''}"]
    count = fitting.plan.num_devices // scenario.cluster.node.devices_per_node
    nodes = "this cluster" if count == scenario.cluster.num_nodes else f"{count} nodes ({fitting.plan.num_devices} devices)"
    sites = f" in {scenario.cluster.num_sites} sites" if scenario.cluster.num_sites > 1 else ""
    held = units.format(fitting.peak_bytes, "GiB")
    return [f"on {nodes}{sites} fits {short(fitting.plan)}: {held}, {_seconds(fitting.step_s)}"]


def _words(plan: Plan, change: Remedy) -> str:
    """The axes of a change with their values, and the replicas that follow, in a few letters."""
    axes = [*change.axes, *(["data_parallel"] if change.plan.data_parallel != plan.data_parallel else [])]
    return " ".join(_word(axis, getattr(change.plan, axis)) for axis in axes)


def _word(axis: str, value: object) -> str:
    if isinstance(value, bool):
        return axis if value else f"no {axis}"
    if axis in _WORDS:
        return f"{_WORDS[axis]}{value}"
    return f"{axis_of(axis)}{value}" if isinstance(value, int) else f"{axis} {value}"


def _gib(change: Remedy, whole: Estimate) -> str:
    """What the fuller of its memories holds."""
    on_host = whole.host_capacity_bytes and change.host_peak_bytes / whole.host_capacity_bytes > change.peak_bytes / whole.capacity_bytes
    return f"{units.format(change.host_peak_bytes if on_host else change.peak_bytes, 'GiB')}{' on a host' if on_host else ''}"


def _seconds(seconds: float) -> str:
    return units.format(seconds, "s")
