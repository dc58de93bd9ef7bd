"""The public API.  Each name is imported when it is first used, so that `import parsim` costs nothing.

No package bears the name of a function: the checks and the comparison with measurements are `parsim.verify.verify` and
`parsim.validate.validate`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parsim.errors import ParsimError
    from parsim.estimator.estimate import estimate, estimates
    from parsim.estimator.result import Estimate, Estimates
    from parsim.executor.run import execute
    from parsim.parallel.plan import Batch, Plan
    from parsim.planner import plan
    from parsim.scenario import Scenario, check, from_mapping, load
    from parsim.simulator import simulate

__version__ = "0.1.0"
__all__ = [
    "Batch",
    "Estimate",
    "Estimates",
    "ParsimError",
    "Plan",
    "Scenario",
    "check",
    "estimate",
    "estimates",
    "execute",
    "from_mapping",
    "load",
    "num_parameters",
    "plan",
    "simulate",
]

_HOMES = {
    "Batch": "parsim.parallel.plan",
    "Estimate": "parsim.estimator.result",
    "Estimates": "parsim.estimator.result",
    "ParsimError": "parsim.errors",
    "Plan": "parsim.parallel.plan",
    "Scenario": "parsim.scenario",
    "check": "parsim.scenario",
    "estimate": "parsim.estimator.estimate",
    "estimates": "parsim.estimator.estimate",
    "execute": "parsim.executor.run",
    "from_mapping": "parsim.scenario",
    "load": "parsim.scenario",
    "num_parameters": "parsim.model.parameters",
    "plan": "parsim.planner",
    "simulate": "parsim.simulator",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'parsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
