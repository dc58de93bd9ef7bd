"""The way in: a YAML file, or a mapping, becomes a frozen Scenario, or all of its faults at once with file, line and column.

tree.py reads YAML, fields.py and the rows say what may stand where, build.py checks the parts against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parsim.errors import Fault, ScenarioError
from parsim.scenario.types import DataSpec, Measured, PlanSpace, Scenario, Training

__all__ = ["DataSpec", "Fault", "Measured", "PlanSpace", "Scenario", "Training", "check", "from_mapping", "load", "schema"]


def load(path: str | Path) -> Scenario:
    """The scenario that stands in a file.

    Raises:
        ScenarioError: the file cannot be read or is wrong; the error holds all faults.
    """
    scenario, faults = _read(path)
    if scenario is None:
        raise ScenarioError.of(faults)
    return scenario


def check(path: str | Path) -> list[Fault]:
    """All faults of a scenario file in the order of its lines; an empty list for one that `load` takes."""
    return _read(path)[1]


def from_mapping(mapping: Mapping[str, Any], *, name: str = "scenario") -> Scenario:
    """The scenario that a mapping describes, with the keys and values of a file; nothing of it is kept.

    Raises:
        ScenarioError: something is wrong; the error holds all faults, each with its dotted path.

    >>> tiny = {"model": "tiny-gpt", "cluster": {"node": "dgx-a100-80gb"}, "batch": {"global_batch": 8, "sequence_length": 16}}
    >>> from_mapping({**tiny, "plans": {"a": {"tensor_parallel": 2}}}).plan("a").data_parallel
    4
    """
    from parsim.scenario import build, tree

    scenario, faults = build.build(tree.of(mapping, name), name)
    if scenario is None:
        raise ScenarioError.of(faults)
    return scenario


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 7) of scenario files, for editors."""
    from parsim.scenario import document

    return document.json_schema()


def _read(path: str | Path) -> tuple[Scenario | None, list[Fault]]:
    from parsim.scenario import build, tree  # pydantic is imported where a scenario is read

    return build.build(tree.read(path), Path(path).stem)
