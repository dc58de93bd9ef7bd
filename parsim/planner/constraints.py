"""Limits on plans, which act before they are ranked: each but the memory's headroom is a most step, since the devices are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import Struct, field

from parsim import units
from parsim.cluster.scalars import Ints
from parsim.errors import PlanError, UnitError, did_you_mean
from parsim.estimator.whole import S_PER_HOUR, num_steps, usd_per_device_hour
from parsim.goodput.columns import check_run
from parsim.schedules.columnar import Bools
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# The share of a memory that is to stay free.  None by default: the catalog's capacities are what a program can allocate, and a stack
# states what its allocator and libraries hold, so that "fits" means what it means in `parsim run`.
HEADROOM: Final = "memory_headroom"


class Cut(Struct, frozen=True):
    """How many plans a limit keeps out; not `whole`: at least, since others that it may keep out were never priced."""

    limit: str
    count: int
    whole: bool


class Sieve(Struct):
    """The limits of one search, and whom they kept out so far.  A plan counts at the first limit that it breaks."""

    headroom: float
    most_ps: Mapping[str, int]  # by limit: the longest step within it
    of_run: frozenset[str] = frozenset()  # limits of these on a step that counts in a run, with all that the scenario states of it
    counts: dict[str, int] = field(default_factory=dict)

    def roomy(self, fits: Bools, fill: np.ndarray) -> Bools:
        """Which of the plans that fit leave so much free."""
        kept: Bools = fits & (fill <= 1 - self.headroom)
        if self.headroom:
            limit = f"{HEADROOM} {self.headroom:.3g}"
            self.counts[limit] = self.counts.get(limit, 0) + int(np.sum(fits & ~kept))
        return kept

    def quick(self, kept: Bools, steps: Ints, in_run: Ints) -> Bools:
        """Which of these plans no limit keeps out, by their steps or bounds below them, and by the same `in_run`."""
        for limit, most in self.most_ps.items():
            late = kept & ((in_run if limit in self.of_run else steps) > most)
            self.counts[limit] = self.counts.get(limit, 0) + int(late.sum())
            kept = kept & ~late
        return kept

    def is_over(self, limit: str, step_s: float, in_run: Callable[[], float]) -> bool:
        """Whether a step that is priced exactly breaks a limit."""
        return round((in_run() if limit in self.of_run else step_s) * PS_PER_S) > self.most_ps.get(limit, np.inf)

    def cuts(self, *, whole: bool) -> tuple[Cut, ...]:
        """What each limit kept out; `whole`: every plan was priced that bounds did not keep out."""
        return tuple(Cut(limit, count, whole or limit not in self.most_ps) for limit, count in self.counts.items())


def _step_ps(value: object, scenario: Scenario) -> float:
    return figure(value, "s") * PS_PER_S


def _within_ps(value: object, scenario: Scenario) -> float:
    return figure(value, "s") / num_steps(scenario) * PS_PER_S


def _budget_ps(value: object, scenario: Scenario) -> float:
    hours = figure(value, "USD") / usd_per_device_hour(scenario)
    spares = scenario.failures.spare_nodes if scenario.failures and scenario.checkpoint else 0
    devices = scenario.cluster.num_devices + spares * scenario.cluster.node.devices_per_node
    return hours * S_PER_HOUR / devices / num_steps(scenario) * PS_PER_S


def _devices_ps(value: object, scenario: Scenario) -> float:
    return np.inf if scenario.cluster.num_devices <= figure(value, "") else -1


_LIMITS: Final[Mapping[str, Callable[[object, Scenario], float]]] = {
    **{"step_time": _step_ps, "within": _within_ps, "budget": _budget_ps, "devices": _devices_ps}
}

_OF_RUN: Final = ("within", "budget")


def sieve_of(constraints: Mapping[str, object], scenario: Scenario) -> Sieve:
    """The limits as a search takes them, e.g. {"memory_headroom": 0.1, "step_time": "< 20 s", "within": "30 days", "budget": "1 MUSD"}.

    Raises:
        PlanError: an unknown limit, a value that is none, or a figure that a limit needs and nobody states.
    """
    most, of_run = {}, set[str]()
    for name, value in constraints.items():
        if name not in (HEADROOM, *_LIMITS):
            known = (HEADROOM, *_LIMITS)
            raise PlanError(f"unknown limit '{name}'{did_you_mean(name, known)}", remedy=f"Known: {', '.join(known)}.")
        if name != HEADROOM:
            try:
                most[limit := f"{name} {_bare(value)}"] = int(min(_LIMITS[name](value, scenario), 2**63 - 1))
                if name in _OF_RUN and (scenario.checkpoint or scenario.input):
                    check_run(scenario)
                    of_run.add(limit)
            except PlanError as error:
                raise PlanError(error.what, f"limit {name}", error.remedy) from None
    return Sieve(_share(constraints.get(HEADROOM, 0)), most, frozenset(of_run))


def _bare(value: object) -> str:
    """A limit without the sign that says it is one."""
    return str(value).strip().removeprefix("<").removeprefix("=").strip()


_WHAT: Final[Mapping[str, tuple[str, str]]] = {
    **{
        "s": ("time", "20 s' or '30 days"),
        "USD": ("money", "1 MUSD"),
        "token": ("number of tokens", "2T"),
        "": ("number of devices", "512"),
    }
}


def figure(value: object, unit: str) -> float:
    """A limit above 0, as a number in base units or as text with its unit.

    Raises:
        PlanError: it is none.

    >>> figure("< 30 days", "s"), figure("1 M USD", "USD"), figure(20, "s")
    (2592000.0, 1000000.0, 20.0)
    """
    what, example = _WHAT[unit]
    try:
        found = float(_bare(value)) if isinstance(value, int | float) or not unit else float(units.parse(_bare(value), unit))
    except UnitError as error:
        raise PlanError(f"'{value}' is no {what}: {error.what.partition(';')[0]}", remedy=f"Write e.g. '{example}'.") from None
    except ValueError:
        found = 0.0
    if not 0 < found < np.inf:
        raise PlanError(f"'{value}' is no {what} above 0", remedy=f"Write e.g. '{example}'.")
    return found


def _share(value: object) -> float:
    """A share as a number or in percent, at least 0 and below 1."""
    text = str(value).strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1
    if not 0 <= found < 1:
        raise PlanError(f"{HEADROOM} = {value} is no share of a memory", remedy="Write e.g. 0.1 or 10%.")
    return found
