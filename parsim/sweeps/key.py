"""By what a result is found again: the figures that it follows from, not the names under which they were stated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from parsim.cost.cost_model import CostModel

if TYPE_CHECKING:
    from parsim.scenario import Scenario

# Raised with any predicted number, so that results of another version are not found in a cache.  What holds the two together is
# tests/unit/sweeps/test_golden.py.
MODEL_VERSION: Final = 9
_WORDS: Final = ("name", "source")  # fields that say what a thing is called, and who says so


def keys_of(scenario: Scenario, plans: Iterable[str]) -> dict[str, str]:
    """The key of each of some plans; of a name that is none, that of the best plan of the space, or of all plans, so called.

    What the scenario, its rows and its plans are called changes no key; what reaches an estimate changes it.
    """
    constants = _digest([MODEL_VERSION, *_constants(scenario)])
    return {name: _digest([constants, _question(scenario, name)]) for name in plans}


def digest(scenario: Scenario) -> str:
    """The same text for scenarios in which a plan has the same prices, whatever their plans, rows and themselves are called."""
    return _digest(_constants(scenario))[:16]


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


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(figures(value), separators=(",", ":")).encode()).hexdigest()


def figures(value: Any) -> Any:
    """A value as JSON has it: of a struct its kind and all fields but words, a mapping in the order of its keys.

    >>> from parsim.cluster.link import Link
    >>> figures(Link("nvlink", 450e9, 2e-6, "vendor"))
    ['Link', ['bandwidth_bytes_per_s', 450000000000.0], ['latency_s', 2e-06], ['fitted_latency_s', None]]
    """
    if isinstance(value, Struct):
        named = ((name, figures(each)) for name, each in asdict(value).items() if name not in _WORDS)
        return [type(value).__name__, *map(list, named)]
    if isinstance(value, Mapping):
        return [[key, figures(each)] for key, each in sorted(value.items())]
    return [figures(each) for each in value] if isinstance(value, list | tuple) else value
