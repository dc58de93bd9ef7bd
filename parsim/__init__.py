"""The public API.  Each name is imported when it is first used, so that `import parsim` costs nothing.

No package bears the name of a function: the checks and the comparison with measurements are `parsim.verify.verify` and
`parsim.validate.validate`.
"""

from __future__ import annotations

TYPE_CHECKING = False  # nothing is imported here, typing neither: the command line listens to Ctrl-C only when this file is through
if TYPE_CHECKING:  # the list of public names: type checkers follow it, and _homes reads it
    from parsim.disturbance import Disturbed as Disturbed
    from parsim.disturbance import disturb as disturb
    from parsim.errors import NoFeasiblePlan as NoFeasiblePlan
    from parsim.errors import ParsimError as ParsimError
    from parsim.estimator.comparison import compare as compare
    from parsim.estimator.estimate import estimate as estimate
    from parsim.estimator.estimate import estimates as estimates
    from parsim.estimator.result import Estimate as Estimate
    from parsim.estimator.result import Estimates as Estimates
    from parsim.estimator.result import Shortage as Shortage
    from parsim.executor.run import execute as execute
    from parsim.executor.run import execute_served as execute_served
    from parsim.model.parameters import num_parameters as num_parameters
    from parsim.parallel.plan import Batch as Batch
    from parsim.parallel.plan import Plan as Plan
    from parsim.planner import Front as Front
    from parsim.planner import Ranking as Ranking
    from parsim.planner import Remedies as Remedies
    from parsim.planner import pareto as pareto
    from parsim.planner import plan as plan
    from parsim.planner import remedies as remedies
    from parsim.planner import size as size
    from parsim.planner import smallest_cluster as smallest_cluster
    from parsim.planner.advice import Reference as Reference
    from parsim.planner.advice import advise as advise
    from parsim.planner.whatif import whatif as whatif
    from parsim.report.saved import SavedPlan as SavedPlan
    from parsim.report.saved import load_plan as load_plan
    from parsim.report.saved import save_plan as save_plan
    from parsim.scenario import Scenario as Scenario
    from parsim.scenario import check as check
    from parsim.scenario import from_mapping as from_mapping
    from parsim.scenario import load as load
    from parsim.simulator import simulate as simulate
    from parsim.simulator.chrome import trace as trace
    from parsim.sweeps import sweep as sweep
    from parsim.targets import export_plan as export_plan
    from parsim.targets.jobs import ImportedJob as ImportedJob
    from parsim.targets.jobs import import_job as import_job

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    """Public name -> the module that has it, as the imports above say."""
    import pkgutil
    import re

    text = (pkgutil.get_data(__name__, "__init__.py") or b"").decode()
    return {name: home for home, name in re.findall(r"from (\S+) import (\w+) as", text)}


def __getattr__(name: str) -> object:
    import importlib

    homes = _homes() if name == "__all__" or not name.startswith("_") else {}
    if name == "__all__":
        return sorted(homes)
    if name not in homes:
        raise AttributeError(f"module 'parsim' has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), "__all__", *_homes()})
