"""From a plan to what a launcher reads: written from the target's table, then read back by the same, and equal, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parsim.arguments import check_arguments
from parsim.errors import ParsimError, PlanError, did_you_mean
from parsim.parallel.plan import KEYS, Plan
from parsim.scenario import Scenario
from parsim.targets.entries import fields_of
from parsim.targets.importing import job_of
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target


def find(asked: str) -> tuple[Target, str]:
    """The target and the version of "NAME" or "NAME@VERSION", the newest where none is said.

    Raises:
        ParsimError: there is no such target, or it has no such version.
    """
    TARGETS.discover("parsim.targets.launchers")
    name, _, version = asked.partition("@")
    target = TARGETS.get(name)
    if version and version not in target.versions:
        known = ", ".join(target.versions)
        raise ParsimError(f"{name} of version '{version}' is not known{did_you_mean(version, target.versions)}", remedy=f"Known: {known}.")
    return target, version or target.versions[0]


@check_arguments
def export_plan(scenario: Scenario, plan: str | Plan, to: str) -> Launch:
    """The files and the command with which a launcher runs a plan of a scenario.

    Raises:
        ParsimError: there is no such plan or target.
        NotExpressible: the target has no key for what the plan says.
        PlanError: the plan is not legal, or the target would not run it.
    """
    target, version = find(to)
    setup = Setup(plan if isinstance(plan, str) else "plan", scenario, scenario.legal_plan(plan))
    return export_setup(target, version, setup)


def export_setup(target: Target, version: str, setup: Setup) -> Launch:
    """The same of a setup that is known to be legal."""
    keys = keys_of(target, version, setup)
    return target.write(keys, setup, version)


def keys_of(target: Target, version: str, setup: Setup) -> Mapping[str, KeyValue]:
    """The launcher's keys for a setup, which its own table reads back as the same plan.

    Raises:
        PlanError: a field has no key, as NotExpressible, or the target would not run the plan.
    """
    entries = target.entries(version)
    for fault in (*_gaps(target, version, setup), *target.refuses(setup, version)):
        raise fault
    keys: dict[str, KeyValue] = {}
    for entry in entries:
        keys |= entry.write(setup)
    read = job_of(target, version, keys)
    for field, value in _fields(setup.plan):
        if read.keys.get(f"plan.{field}", KEYS[field].default) != value:
            raise NotExpressible(field, target.name, version, f"no key of it says {value!r}")
    return keys


def _gaps(target: Target, version: str, setup: Setup) -> Iterator[PlanError]:
    known = {field.removeprefix("plan.") for field in fields_of(target.entries(version)) if field.startswith("plan.")}
    for field, value in _fields(setup.plan):
        if field not in known and value != KEYS[field].default:
            yield NotExpressible(field, target.name, version, f"it has no key for {field} = {value!r}")


def _fields(plan: Plan) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(plan, name)) for name in KEYS)
