"""What the world is made of, as rows of data: data/KIND.yaml holds the rows of a kind, each figure with its unit and its source.

Rows are handed out raw; parsim.scenario.rows checks them and turns them into the dataclasses, together with inline definitions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from parsim.errors import ParsimError, did_you_mean

__all__ = ["kinds", "names", "row"]

_ROW: Final = re.compile(r"^([^\s#:]+):.*\n(?:[ #].*\n|\n)*", re.MULTILINE)  # a row starts where a line is not indented, and is no comment
_ANCHOR: Final = re.compile(r"&([\w-]+)")
_ALIAS: Final = re.compile(r"\*([\w-]+)")


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
    return tuple(_texts(kind))


def row(kind: str, name: str) -> dict[str, Any]:
    """The row `name` of `kind`, as its file has it: dimensioned values are text with a unit.  The caller may change it.

    Raises:
        ParsimError: there is no such kind or row; the message lists the known names and the nearest.

    >>> row("models", "gpt3-175b")["num_layers"]
    96
    """
    known = _texts(kind)
    if name not in known:
        raise ParsimError(f"unknown {kind.removesuffix('s')} '{name}'{did_you_mean(name, known)}", remedy=f"Known: {', '.join(known)}.")
    return dict(copy.deepcopy(_row(kind, name)))


@cache
def _row(kind: str, name: str) -> Mapping[str, Any]:
    """The row, read alone: its text, after that of the rows whose anchors it uses, is a file of few rows."""
    from ruamel.yaml import YAML

    texts = _texts(kind)
    order, needed = list(texts), {name}
    for each in reversed(order[: order.index(name) + 1]):  # an anchor stands before its aliases
        if each in needed:
            needed |= {_home(alias, texts, each) for alias in _ALIAS.findall(texts[each])}
    text = "".join(texts[each] for each in order if each in needed)
    found: Mapping[str, Any] = YAML(typ="safe", pure=True).load(text)[name]
    return found


def _home(anchor: str, texts: Mapping[str, str], user: str) -> str:
    """The last row up to `user` that sets the anchor; `user` itself where none does, as with an asterisk that is no alias."""
    before = list(texts)[: list(texts).index(user) + 1]
    return next((each for each in reversed(before) if anchor in _ANCHOR.findall(texts[each])), user)


@cache
def _texts(kind: str) -> Mapping[str, str]:
    """The text of each row by its name, in the order of the file."""
    if kind not in kinds():
        raise ParsimError(f"unknown kind of row '{kind}'{did_you_mean(kind, kinds())}", remedy=f"Known: {', '.join(kinds())}.")
    return {each[1]: each[0] for each in _ROW.finditer(_text(kind))}


def _text(kind: str) -> str:
    return (resources.files(__package__) / "data" / f"{kind}.yaml").read_text(encoding="utf-8")
