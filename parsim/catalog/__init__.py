"""What the world is made of, as rows of data: data/KIND.yaml holds the rows of a kind, each figure with its unit and its source.

Rows are handed out raw; parsim.scenario.rows checks them and turns them into the dataclasses, together with inline definitions.

Two keys of a file are of the catalog itself.  `NAME: {same_as: ROW, source: ...}` is an alias: another name of ROW.
`like: ROW` in a row stands for every key of ROW that the row does not state, and `like` of its sources says why ROW is the
nearest: such a figure is assumed, and its source says so.  An accelerator is like the measured one of its own architecture, or
of the generation before it, nearest in kind of memory; a node is like the one with the same wires.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from parsim.catalog.spelling import hint_of
from parsim.errors import ParsimError, did_you_mean

__all__ = ["aliases", "find", "hint", "kinds", "names", "row"]


def kinds() -> tuple[str, ...]:
    """The kinds of rows, sorted: accelerators, links, models, nodes ..."""
    files = (resources.files(__package__) / "data").iterdir()
    return tuple(sorted(each.name.removesuffix(".yaml") for each in files if each.name.endswith(".yaml")))


def names(kind: str) -> tuple[str, ...]:
    """The names of the rows of `kind`, in the order of the file, without their aliases.

    Raises:
        ParsimError: there is no such kind.

    >>> "gpt3-175b" in names("models")
    True
    """
    return tuple(_rows(kind).rows)


def aliases(kind: str) -> Mapping[str, Mapping[str, str]]:
    """The other names of rows of `kind`: each with the row that it is the `same_as`, and the `source` that says so.

    >>> aliases("nodes")["a3-megagpu-8g"]["same_as"]
    'hgx-h100-80gb'
    """
    return _rows(kind).aliases


def find(kind: str, name: str) -> str:
    """The row of `kind` that `name` names, itself or as an alias, in any case and with "-", "_", "." or a blank; "" where none.

    >>> find("nodes", "P4d.24xlarge"), find("accelerators", "h200-sxm5-141gb"), find("accelerators", "h300")
    ('p4d-24xlarge', 'h200', '')
    """
    return name if name in _rows(kind).rows else _spellings(kind).get(_plain(name), "")


def row(kind: str, name: str) -> dict[str, Any]:
    """The row `name` of `kind`, as its file has it: dimensioned values are text with a unit.  The caller may change it.

    Raises:
        ParsimError: there is no such kind or row; the message lists the known names and the nearest.

    >>> row("models", "gpt3-175b")["num_layers"]
    96
    """
    rows = _rows(kind).rows
    found = find(kind, name)
    if not found:
        raise ParsimError(f"unknown {kind.removesuffix('s')} '{name}'{hint(kind, name)}", remedy=f"Known: {', '.join(rows)}.")
    return dict(copy.deepcopy(rows[found]))


def hint(kind: str, name: str) -> str:
    """What follows a message on the unknown `name`: the row that it misspells or those of its family, never another thing.

    >>> hint("models", "gpt3-175"), hint("accelerators", "tpu-v5")
    (" (did you mean 'gpt3-175b'?)", ' (of v5 there are tpu-v5e, tpu-v5p)')
    """
    return hint_of(name, (*names(kind), *aliases(kind)))


class _Rows(NamedTuple):
    rows: Mapping[str, Mapping[str, Any]]
    aliases: Mapping[str, Mapping[str, str]]


@cache
def _rows(kind: str) -> _Rows:
    if kind not in kinds():
        raise ParsimError(f"unknown kind of row '{kind}'{did_you_mean(kind, kinds())}", remedy=f"Known: {', '.join(kinds())}.")
    from ruamel.yaml import YAML

    text = (resources.files(__package__) / "data" / f"{kind}.yaml").read_text(encoding="utf-8")
    stated: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(text) or {}
    others = {name: each for name, each in stated.items() if "same_as" in each}
    rows: dict[str, Mapping[str, Any]] = {}
    for name, each in stated.items():
        if name not in others:
            rows[name] = _row_like(each, rows) if "like" in each else each
    return _Rows(rows, others)


@cache
def _spellings(kind: str) -> Mapping[str, str]:
    rows, others = _rows(kind)
    return {**{_plain(alias): each["same_as"] for alias, each in others.items()}, **{_plain(name): name for name in rows}}


def _plain(name: str) -> str:
    return re.sub(r"[ ._]", "-", name.lower())


def _row_like(stated: Mapping[str, Any], above: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row with all that it takes from the row that it is like, which stands above it; each such source says so."""
    own, sources = dict(stated), dict(stated["source"])
    like, why = own.pop("like"), sources.pop("like")
    relative = above[like]
    assumed = {
        key: re.sub(r"^(assumed: )?(as of \S+?: )?", f"assumed: as of {like}, {why}: ", str(source), count=1)
        for key, source in relative["source"].items()
        if key not in own
    }
    return {**relative, **own, "source": {**assumed, **sources}}
