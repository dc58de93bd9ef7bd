"""How many devices: the nodes that a whole training needs to end in time, or that a budget pays for, each number with its best plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from parsim import units
from parsim.arguments import check_arguments
from parsim.errors import PlanError
from parsim.estimator.cells import columns, short, span
from parsim.estimator.result import Estimate
from parsim.estimator.whole import WholeTraining, least_devices, num_steps, usd_per_device_hour
from parsim.goodput.long_run import as_planned, in_a_run, whole_of_run
from parsim.parallel.fault import divisors
from parsim.parallel.plan import Plan
from parsim.plain import Plain, flat
from parsim.planner.accord import AUTO, values_of
from parsim.planner.constraints import figure, sieve_of
from parsim.planner.front import on_nodes
from parsim.planner.objectives import check_objective
from parsim.planner.search import plan
from parsim.planner.space import OTHERS_FAIL, AnySpace, space_named
from parsim.units import percent

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_NEAR: Final = 4  # two octaves
_BY: Final = "time_to_tokens"  # a number of devices is best by it: with all that the planner counts of a run


class Sized(Struct, frozen=True):
    """A number of devices with its fastest plan that fits; None where none does."""

    num_devices: int
    num_nodes: int
    best: Estimate | None
    training: WholeTraining | None
    why: str = ""  # there is none: a few words, and behind a colon what stands in the way

    @property
    def time_s(self) -> float:
        """Of the whole training; infinite where no plan fits."""
        return self.training.time_s if self.training else inf

    @property
    def cost_usd(self) -> float:
        """The same in money; infinite too where nobody states a price."""
        return inf if self.training is None or self.training.cost_usd is None else self.training.cost_usd


class Sizing(Plain, frozen=True):
    """The numbers of devices that were looked at, in order, and the one that is the answer; None where none is."""

    rows: tuple[Sized, ...]
    answer: Sized | None

    def records(self) -> list[dict[str, object]]:
        """A row a number of devices: the whole training, and the plan."""
        return [self._record(each) for each in self.rows]

    def _record(self, row: Sized) -> dict[str, object]:
        place = {"num_devices": row.num_devices, "num_nodes": row.num_nodes, "answer": row == self.answer}
        step = {"step_s": row.best.step_s if row.best else None, "scaling": self.efficiency(row), **(row.best.ends() if row.best else {})}
        why = {"why_none": row.why} if any(each.why for each in self.rows) else {}
        training, chosen = asdict(row.training) if row.training else {}, flat(row.best.plan.to_dict()) if row.best else {}
        return {**place, **step, **why, **training, **chosen}

    def cells(self) -> list[dict[str, str]]:
        """The same as `parsim size` shows it."""
        return [self._cells(each) for each in self.rows]

    def _cells(self, row: Sized) -> dict[str, str]:
        figures, scaling = {"devices": f"{row.num_devices:,}"}, self.efficiency(row)
        if row.best and scaling is not None:
            step = units.format(row.best.step_s, "s", digits=4)
            interval = {"80 %": span(row.best.step_interval_s, "s")} if row.best.step_interval_s else {}
            figures |= {"step": step, **interval, **columns(row.training), "scaling": percent(scaling)}
        return {**figures, "plan": short(row.best.plan) if row.best else row.why.partition(":")[0], "": "<" if row == self.answer else ""}

    def efficiency(self, row: Sized) -> float | None:
        """Tokens a second and device over those of the number that uses its devices best; None where no plan fits."""
        most = max((each.best.tokens_per_s_per_device for each in self.rows if each.best), default=inf)
        return row.best.tokens_per_s_per_device / most if row.best else None


@check_arguments
def size(
    scenario: Scenario,
    tokens: object = None,
    *,
    within: object = None,
    budget: object = None,
    most_devices: int | None = None,
    space: AnySpace = None,
    runnable: bool = False,
    constraints: Mapping[str, object] | None = None,
) -> Sizing:
    """The fewest devices whose best plan goes through the `tokens` `within` a time; of a `budget` alone, the most that it pays for.

    Args:
        scenario: its cluster's number of nodes does not count.
        tokens: a number, or text such as "1T"; the scenario's total_tokens where left out.
        within: seconds, or text such as "30 days".
        budget: USD, or text such as "1 MUSD".
        most_devices: no more are looked at.
        space: as of `plan`, like `runnable` and `constraints`.

    Raises:
        PlanError: neither time nor budget is given, nobody states the tokens or, for a budget, a price; or no number has a legal plan.

    >>> import parsim
    >>> found = size(parsim.load("scenarios/plan-gpt3-13b.yaml"), "10B", within="2 weeks", most_devices=64)
    >>> found.answer.training.time_s <= 14 * 86_400
    True
    """
    if scenario.cluster.groups:
        remedy = "Ask of one kind: --set cluster.nodes=null --set cluster.node=NAME."
        raise PlanError("how many nodes is not built for nodes of several kinds", scenario.path, remedy)
    if within is None and budget is None:
        raise PlanError("how many devices: for what?", remedy="Give a time (--within '30 days'), a budget (--budget 1MUSD), or both.")
    seconds, usd = (inf if each is None else figure(each, unit) for each, unit in ((within, "s"), (budget, "USD")))
    if tokens is not None:
        scenario = replace(scenario, total_tokens=ceil(figure(tokens, "token")))
    if scenario.total_tokens is None:
        raise PlanError("how many tokens?", scenario.path, "Give them (--tokens 1T), or training.total_tokens.")
    num_steps(scenario), sieve_of(constraints or {}, scenario)  # what these refuse, they refuse for any number
    check_objective(_BY, scenario)
    if budget is not None:
        usd_per_device_hour(scenario)
    search = _Search(scenario, {"space": space, "runnable": runnable, "constraints": constraints})
    numbers = numbers_of_nodes(scenario, most_devices)
    if within is None:
        search.last(numbers, lambda each: each.cost_usd <= usd)
    else:
        least = least_devices(_at_highest_peak(scenario, space), seconds) / scenario.cluster.node.devices_per_node
        enough = [each for each in numbers if each >= least and num_steps(scenario) * _fed_s(on_nodes(scenario, each)) <= seconds]
        search.first(enough or numbers[-1:], lambda each: each.time_s <= seconds)
    if len(search.refused) == len(search.sized):
        raise next(reversed(search.refused.values()))
    rows = tuple(search.sized[each] for each in sorted(search.sized))
    good = [each for each in rows if each.time_s <= seconds and (budget is None or each.cost_usd <= usd)]
    return Sizing(rows, good[0 if within is not None else -1] if good else None)


def _at_highest_peak(scenario: Scenario, space: AnySpace) -> Scenario:
    """The scenario in the fastest of the precisions that plans may have."""
    chosen = space_named(scenario, space)
    stated = chosen.axes.get("precision", ()) if chosen else ()
    asked = values_of("precision", scenario) if stated == (AUTO,) else stated
    plans = [Plan(), *(Plan(precision=str(each)) for each in asked), *scenario.plans.values()]
    peaks = scenario.cluster.node.accelerator.peak_flops_per_s
    return max(map(scenario.trained_by, plans), key=lambda each: peaks.get(each.batch.measured_against(each.model), 0.0))


def _fed_s(scenario: Scenario) -> float:
    """Seconds of a step below which nobody feeds any plan; 0 where nobody says what is read."""
    if scenario.input is None:
        return 0.0
    from parsim.feed.supply import least_wait_s

    return least_wait_s(scenario)


def numbers_of_nodes(scenario: Scenario, most_devices: int | None = None) -> Sequence[int]:
    """Numbers of nodes, ascending, whose devices are a divisor of the global batch, whose replicas share it evenly, x 2^i or 3 x 2^i.

    One where nothing joins several; as many in each site.
    """
    each, batch, sites = scenario.cluster.node.devices_per_node, scenario.batch, scenario.cluster.num_sites
    most = batch.global_batch * scenario.model.num_layers * each if most_devices is None else most_devices
    wholes = [few * replicas for few in (1, 3) for replicas in divisors(batch.global_batch)]
    doubled = {whole << i for whole in wholes for i in range((most // whole).bit_length())}
    least = each * sites
    found = sorted(devices // each for devices in {least} | doubled if devices <= most and not devices % least)
    if not found:
        has = f"{sites} sites of a node each have" if sites > 1 else "a node has"
        raise PlanError(f"{has} {least} devices, and at most {most} are allowed", remedy="Allow more devices.")
    return found if scenario.cluster.fabric else [1]


class _Search(Struct):
    """Numbers of nodes, each looked at once."""

    scenario: Scenario
    options: Mapping[str, Any]
    sized: dict[int, Sized] = field(default_factory=dict)
    refused: dict[int, PlanError] = field(default_factory=dict)  # numbers on which no plan is legal

    def at(self, num_nodes: int) -> Sized:
        """One number, with its fastest plan."""
        if num_nodes not in self.sized:
            self.sized[num_nodes] = self._at(num_nodes)
        return self.sized[num_nodes]

    def _at(self, num_nodes: int) -> Sized:
        scenario = on_nodes(self.scenario, num_nodes)
        try:
            ranking = plan(scenario, top=1, contention=False, alike=False, objective=_BY, **self.options)
        except PlanError as error:  # no plan is legal on so many
            self.refused[num_nodes] = error
            why = f"no plan is legal: {str(error.remedy).removeprefix(OTHERS_FAIL)}"
            return Sized(scenario.cluster.num_devices, num_nodes, None, None, why)
        if ranking.rows:
            best, planned = ranking.rows[0], as_planned(scenario)
            return Sized(scenario.cluster.num_devices, num_nodes, best, whole_of_run(planned, in_a_run(planned, best)))
        cuts = ", ".join(cut.limit for cut in ranking.cuts if cut.count)
        why = f"no plan fits the memory: {ranking.nearest.shortage}" if ranking.nearest else f"no plan is within the limits: {cuts}"
        return Sized(scenario.cluster.num_devices, num_nodes, None, None, why)

    def first(self, numbers: Sequence[int], good: Callable[[Sized], bool]) -> None:
        """Look for the first that is good: octaves up to one that is, or to the last, and then every number below, in order."""
        most = 0
        for most in self._octaves(numbers):
            if good(self.at(most)):
                break
        next((number for number in numbers if number < 2 * most and good(self.at(number))), None)

    def last(self, numbers: Sequence[int], good: Callable[[Sized], bool]) -> None:
        """Look for the last that is good: octaves, and then every number above the last of them that is, as far as the next two."""
        octaves = [*self._octaves(numbers)]
        found = max((number for number in octaves if good(self.at(number))), default=0)
        most = _NEAR * found or octaves[-1]
        next((number for number in reversed(numbers) if found < number <= most and good(self.at(number))), None)

    def _octaves(self, numbers: Sequence[int]) -> Iterator[int]:
        """Numbers, each the next of at least twice the last that has a legal plan, until two of them are no faster than those before."""
        fastest, least, vain = inf, 0, 0
        for number in numbers:
            if number >= least:
                yield number
                time_s = self.at(number).time_s
                least = number if number in self.refused else 2 * number
                vain = vain + 1 if fastest <= time_s < inf else 0
                if vain == _NEAR // 2:
                    return
                fastest = min(fastest, time_s)
