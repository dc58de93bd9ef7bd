"""By what a result is found again: the figures that it follows from, not the names under which they were stated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from parsim.cost.cost_model import CostModel
from parsim.plain import fingerprint

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# Raised with any predicted number, so that results of another version are not found in a cache.  What holds the two together is
# tests/unit/sweeps/test_golden.py.
MODEL_VERSION: Final = 12
_SECTIONS: Final = ("disturbance", "failures", "checkpoint", "storage", "input")  # of a run


def keys_of(scenario: Scenario, plans: Iterable[str]) -> dict[str, str]:
    """The key of each of some plans; of a name that is none, that of the best plan of the space, or of all plans, so called.

    What the scenario, its rows and its plans are called changes no key; what reaches an estimate changes it.
    """
    constants = fingerprint([MODEL_VERSION, *_constants(scenario), *of_run(scenario)])
    return {name: fingerprint([constants, _question(scenario, name)]) for name in plans}


def digest(scenario: Scenario) -> str:
    """The same text for scenarios in which a plan has the same prices, whatever their plans, rows and themselves are called."""
    return fingerprint(_constants(scenario))[:16]


def of_run(scenario: Scenario) -> list[Any]:
    """What the figures of a run follow from, beside the plan and its prices; nothing where the scenario has no section of it."""
    sections = [getattr(scenario, name) for name in _SECTIONS]
    stated = any(each is not None for each in sections)
    return [*sections, scenario.total_tokens, scenario.training, scenario.seed] if stated else []


def _constants(scenario: Scenario) -> list[Any]:
    """What prices follow from, beside the plan; two figures are found by the name of an accelerator."""
    model = CostModel(scenario.cluster, scenario.stack, scenario.batch)
    by_name = (figure for each in model.on_each for figure in (each.sustained, each.replayed))
    return [scenario.model, model, *by_name, scenario.itemsize_bytes]


def _question(scenario: Scenario, name: str) -> Any:
    if name in scenario.plans:
        return scenario.plans[name]
    space = scenario.spaces.get(name)
    return "best", space.axes if space else None, tuple(scenario.plans.values())  # plans that a scenario names take part, in their order
