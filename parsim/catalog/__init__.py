"""What the world is made of, as rows of data: data/KIND.yaml holds the rows of a kind, each figure with its unit and its source.

Rows are handed out raw; parsim.scenario.rows checks them and turns them into the dataclasses, together with inline definitions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from parsim.errors import ParsimError, did_you_mean

__all__ = ["kinds", "names", "row"]


def kinds() -> tuple[str, ...]:
    """The kinds of rows, sorted: accelerators, links, models, nodes ..."""
    files = (resources.files(__package__) / "data").iterdir()
    return tuple(sorted(each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml")))


def names(kind: str) -> tuple[str, ...]:
    """The names of the rows of `kind`, in the order of the file.

    Raises:
        ParsimError: there is no such kind.

    >>> "gpt3-175b" in names("models")
    True
    """
    return tuple(_rows(kind))


def row(kind: str, name: str) -> dict[str, Any]:
    """The row `name` of `kind`, as its file has it: dimensioned values are text with a unit.  The caller may change it.

    Raises:
        ParsimError: there is no such kind or row; the message lists the known names and the nearest.

    >>> row("models", "gpt3-175b")["num_layers"]
    96
    """
    rows = _rows(kind)
    if name not in rows:
        raise ParsimError(f"unknown {kind.removesuffix('s')} '{name}'{did_you_mean(name, rows)}", remedy=f"Known: {', '.join(rows)}.")
    return dict(copy.deepcopy(rows[name]))


@cache
def _rows(kind: str) -> Mapping[str, Mapping[str, Any]]:
    if kind not in kinds():
        raise ParsimError(f"unknown kind of row '{kind}'{did_you_mean(kind, kinds())}", remedy=f"Known: {', '.join(kinds())}.")
    from ruamel.yaml import YAML

    text = (resources.files(__package__) / "data" / f"{kind}.yaml").read_text(encoding="utf-8")
    rows: dict[str, Mapping[str, Any]] = YAML(typ="safe", pure=True).load(text) or {}
    return rows
