"""A plan as a file: with the hash of its scenario, so that whoever loads it is told what has changed since, and priced anew."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from parsim import __version__, units
from parsim.arguments import check_arguments
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate, estimate_legal
from parsim.estimator.result import Estimate
from parsim.parallel.plan import Plan
from parsim.plain import Plain
from parsim.report.files import json_text, write
from parsim.scenario import Scenario
from parsim.scenario.read_files import read_json
from parsim.scenario.source import Source
from parsim.sweeps.key import digest

_SCHEMA: Final = 1
_KEYS: Final = {"scenario": str | None, "changes": dict, "scenario_hash": str, "plan": dict, "step_s": float}
_REMEDY: Final = "Give a file that `parsim plan -o DIR` wrote."


class SavedPlan(Plain, frozen=True):
    """A plan that was saved, as it is priced now."""

    scenario: Scenario
    estimate: Estimate
    saved_step_s: float
    changed: bool  # whether its scenario is another than when it was saved

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.estimate.plan

    @property
    def note(self) -> str:
        """What has changed since it was saved; "" where nothing has."""
        before, now = (units.format(each, "s", digits=4) for each in (self.saved_step_s, self.estimate.step_s))
        what = f"{self.scenario.path} has changed since the plan was saved" if self.changed else "parsim prices it anew"
        return f"{what}: a step took {before}, and takes {now}" if self.changed or before != now else ""

    def records(self) -> list[dict[str, object]]:
        """A row: the plan as it is priced now, and what it took."""
        return [{"scenario": self.scenario.path, **self.estimate.records()[0], "saved_step_s": self.saved_step_s, "changed": self.changed}]


@check_arguments
def save_plan(scenario: Scenario, plan: Plan | Estimate, path: str | Path) -> Path:
    """The file, where the plan now stands; an estimate of the plan need not be made again.

    Raises:
        ParsimError: it cannot be written.
    """
    found = plan if isinstance(plan, Estimate) else estimate(scenario, plan)
    document = {
        "schema": _SCHEMA,
        "parsim_version": __version__,
        "scenario": os.path.relpath(scenario.path, Path(path).parent) if scenario.has_file else None,
        "changes": dict(scenario.changes),
        "scenario_hash": digest(scenario),
        "plan": found.plan.to_dict(),
        "step_s": found.step_s,
    }
    try:
        return write(Path(path), json_text(document))
    except OSError as error:
        raise ParsimError(f"{error.strerror}", str(path), "Name a file in a directory that can be written to.") from None


@check_arguments
def load_plan(path: str | Path, *, scenario: Scenario | None = None) -> SavedPlan:
    """The plan that stands in a file, priced anew for its scenario as that stands now with what was set beside it, or for another.

    Raises:
        ParsimError: the file is none that `save_plan` wrote.
        ScenarioError: the scenario's file cannot be read or is wrong.
        PlanError: the plan is not legal there; the error says all that is wrong.
    """
    document = _read(Path(path))
    file = document["scenario"] and Path(path).parent / document["scenario"]
    found = scenario or Source(file, changes=document["changes"]).load()
    plan = found.legal_plan(Plan.from_dict(document["plan"]), str(path))
    return SavedPlan(found, estimate_legal(found, plan), document["step_s"], document["scenario_hash"] != digest(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path)
    except OSError as error:
        raise ParsimError(f"{error.strerror}", str(path), _REMEDY) from error
    except ValueError as error:
        raise ParsimError(f"is no JSON: {error}", str(path), _REMEDY) from error
    stated: dict[str, Any] = document if isinstance(document, dict) else {}
    if lacking := [key for key, kind in _KEYS.items() if not isinstance(stated.get(key, ...), kind)]:
        raise ParsimError(f"is no saved plan: {', '.join(lacking)} missing or wrong", str(path), _REMEDY)
    if stated.get("schema", _SCHEMA) != _SCHEMA:
        raise ParsimError(
            f"has schema {stated['schema']}, and this parsim reads {_SCHEMA}", str(path), "Load it with the parsim that saved it."
        )
    return stated
