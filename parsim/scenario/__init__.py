"""The way in: a YAML file, or a mapping, becomes a frozen Scenario, or all of its faults at once with file, line and column.

tree.py reads YAML, fields.py and the rows say what may stand where, build.py checks the parts against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from parsim.arguments import check_arguments
from parsim.errors import Fault, ScenarioError
from parsim.scenario.disturbance import Disturbance, Jitter, Stragglers
from parsim.scenario.types import DataSpec, Measured, PlanSpace, Scenario, Training

__all__ = [
    "DataSpec",
    "Disturbance",
    "Fault",
    "Jitter",
    "Measured",
    "PlanSpace",
    "Scenario",
    "Stragglers",
    "Training",
    "check",
    "from_mapping",
    "load",
    "schema",
]
_NONE: Final[Mapping[str, Any]] = {}


@check_arguments
def load(path: str | Path, *, changes: Mapping[str, Any] = _NONE) -> Scenario:
    """The scenario that stands in a file.

    Args:
        changes: values in place of the file's, by dotted path, as `--set` takes them: {"batch.global_batch": 512}; "2x" is twice a figure.

    Raises:
        ScenarioError: the file cannot be read or is wrong, or a change is; the error holds all faults.

    >>> [*load("scenarios/table5-22b.yaml", changes={"batch.global_batch": 8}).plans]
    ['full', 'seqsel']
    """
    from parsim.scenario.source import Source

    return Source(Path(path), changes=changes).load()


@check_arguments
def check(path: str | Path, *, changes: Mapping[str, Any] = _NONE) -> list[Fault]:
    """All faults of a scenario file, with `changes`, in the order of its lines; an empty list for one that `load` takes.

    >>> [str(fault) for fault in check("scenarios/table5-22b.yaml", changes={"batch.global_batch": 0})]
    ["changes['batch.global_batch']: must be above 0, not 0"]
    """
    from parsim.scenario.source import Source

    return Source(Path(path), changes=changes).faults()


@check_arguments
def from_mapping(mapping: Mapping[Any, Any], *, name: str = "scenario", changes: Mapping[str, Any] = _NONE) -> Scenario:
    """The scenario that a mapping describes, with the keys and values of a file, and with `changes`; nothing of it is kept.

    Raises:
        ScenarioError: something is wrong; the error holds all faults, each with its dotted path.

    >>> tiny = {"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 16}}
    >>> from_mapping({**tiny, "plans": {"a": {"tensor_parallel": 2}}}).plan("a").data_parallel
    4
    """
    from parsim.scenario import build, tree
    from parsim.scenario.changes import changes_of

    scenario, faults = build.build(tree.of(mapping, name), name, changes_of(changes))
    if scenario is None:
        raise ScenarioError.of(faults)
    return scenario


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 7) of scenario files, for editors."""
    from parsim.scenario import document

    return document.json_schema()
