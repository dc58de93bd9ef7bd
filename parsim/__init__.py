"""The public API.  Each name is imported when it is first used, so that `import parsim` costs nothing.

No package bears the name of a function: the checks and the comparison with measurements are `parsim.verify.verify` and
`parsim.validate.validate`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the list of public names: type checkers follow it, and _HOMES is what its text says
    from parsim.errors import ParsimError as ParsimError
    from parsim.estimator.estimate import estimate as estimate
    from parsim.estimator.estimate import estimates as estimates
    from parsim.estimator.result import Estimate as Estimate
    from parsim.estimator.result import Estimates as Estimates
    from parsim.executor.run import execute as execute
    from parsim.model.parameters import num_parameters as num_parameters
    from parsim.parallel.plan import Batch as Batch
    from parsim.parallel.plan import Plan as Plan
    from parsim.planner import plan as plan
    from parsim.scenario import Scenario as Scenario
    from parsim.scenario import check as check
    from parsim.scenario import from_mapping as from_mapping
    from parsim.scenario import load as load
    from parsim.simulator import simulate as simulate

__version__ = "0.1.0"
_TEXT = (pkgutil.get_data(__name__, "__init__.py") or b"").decode()
_HOMES = {name: home for home, name in re.findall(r"from (\S+) import (\w+) as", _TEXT)}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'parsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
