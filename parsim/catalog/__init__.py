"""What the world is made of, as rows of data: data/KIND.yaml holds the rows of a kind, each figure with its unit and its source.

Rows are handed out raw; parsim.scenario.rows checks them and turns them into the structs, together with inline definitions.

A stack may have releases, rows named NAME-RELEASE such as megatron-bridge-26.08; NAME alone is another name of the newest.

Two keys of a file are of the catalog itself.  `NAME: {same_as: ROW, source: ...}` is an alias: another name of ROW.
`like: ROW` in a row stands for every key of ROW that the row does not state, and `like` of its sources says why ROW is the
nearest: such a figure is assumed, and its source says so.  An accelerator is like the measured one of its own architecture, or
of the generation before it, nearest in kind of memory; a node is like the one with the same wires.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from parsim.catalog.spelling import hint_of, runs_of
from parsim.errors import ParsimError, did_you_mean

__all__ = ["aliases", "every_name", "find", "hint", "kinds", "names", "newest", "release", "releases", "row", "rows_with"]

_ROW: Final = re.compile(r"^([^\s#:]+):.*\n(?:[ #].*\n|\n)*", re.MULTILINE)  # a row starts where a line is not indented, and is no comment
_ANCHOR: Final = re.compile(r"&([\w-]+)")
_ALIAS: Final = re.compile(r"\*([\w-]+)")
_OTHER_NAME: Final = re.compile(r"^\S+ \{same_as: ([^\s,]+)")
_RELEASE: Final = re.compile(r"(.+)-(\d+(?:\.\d+)*)")
_WITH_RELEASES: Final = ("stacks",)  # in names of other kinds a number is a size or a generation


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
    return tuple(name for name, text in _texts(kind).items() if not _OTHER_NAME.match(text))


def every_name(kind: str) -> tuple[str, ...]:
    """The names of the rows of `kind` and all their other names.

    >>> {"hgx-h100-80gb", "a3-megagpu-8g"} <= {*every_name("nodes")}, "zero-bubble" in every_name("stacks")
    (True, True)
    """
    return (*_texts(kind), *newest(kind))


def aliases(kind: str) -> Mapping[str, Mapping[str, str]]:
    """The other names of rows of `kind`: each with the row that it is the `same_as`, and the `source` that says so.

    >>> aliases("nodes")["a3-megagpu-8g"]["same_as"]
    'hgx-h100-80gb'
    """
    last = {name: {"same_as": row, "source": f"the newest release of {name}"} for name, row in newest(kind).items()}
    return {**last, **_load("".join(text for text in _texts(kind).values() if _OTHER_NAME.match(text)))}


def releases(kind: str, name: str) -> tuple[str, ...]:
    """The releases that rows of `kind` are of `name`, from the newest.

    >>> releases("stacks", "megatron-deepspeed")
    ('2022', '2021')
    """
    found = (each[2] for each in map(_RELEASE.fullmatch, names(kind)) if each and _plain(each[1]) == _plain(name))
    return tuple(sorted(found, key=_numbers, reverse=True)) if kind in _WITH_RELEASES else ()


def newest(kind: str) -> Mapping[str, str]:
    """What rows of `kind` are releases of, unless something else is called so, too: each with the newest.

    >>> newest("stacks")["zero-bubble"]
    'zero-bubble-2023'
    """
    stems = dict.fromkeys(each[1] for each in map(_RELEASE.fullmatch, names(kind)) if each) if kind in _WITH_RELEASES else ()
    return {stem: release(kind, stem, "") for stem in stems if stem not in _texts(kind)}


def release(kind: str, name: str, asked: str) -> str:
    """The row that is release `asked` of `name`, or the one nearest before it; the oldest where none is, the newest where `asked` is "".

    Raises:
        ParsimError: `asked` is no release.

    >>> release("stacks", "megatron-deepspeed", "2021.5"), release("stacks", "megatron-deepspeed", "")
    ('megatron-deepspeed-2021', 'megatron-deepspeed-2022')
    """
    if not (known := releases(kind, name)):
        return name
    if not re.fullmatch(r"(\d+(\.\d+)*)?", asked):
        raise ParsimError(f"'{asked}' is no release of {name}", remedy=f"Known: {', '.join(known)}.")
    return f"{name}-{next((each for each in known if not asked or _numbers(each) <= _numbers(asked)), known[-1])}"


def find(kind: str, name: str) -> str:
    """The row of `kind` that `name` names, itself or as an alias, in any case and with "-", "_", "." or a blank; "" where none.

    >>> find("nodes", "P4d.24xlarge"), find("accelerators", "h200-sxm5-141gb"), find("accelerators", "h300")
    ('p4d-24xlarge', 'h200', '')
    """
    return name if name in names(kind) else _spellings(kind).get(_plain(name), "")


def rows_meant(kind: str, name: str) -> list[str]:
    """The row that `name` names, or all that people may mean by it: those whose name begins with its first word and holds them all.

    >>> rows_meant("accelerators", "H200-SXM5-141GB"), rows_meant("accelerators", "A100-40GB")
    (['h200'], ['a100-sxm4-40gb', 'a100-pcie-40gb'])
    """
    if exact := find(kind, name):
        return [exact]
    words = runs_of(name)
    own = {each: runs_of(each) for each in names(kind)} if words else {}
    return [each for each, of in own.items() if words[0] == of[0] and set(words) <= set(of)]


def rows_with(kind: str, key: str, values: Collection[Any]) -> list[str]:
    """The rows of which a figure is one of these values.

    >>> "dgx-a100-80gb" in rows_with("nodes", "accelerator", ["a100-sxm4-80gb"])
    True
    """
    return [each for each in names(kind) if _row(kind, each).get(key) in values]


def row(kind: str, name: str) -> dict[str, Any]:
    """The row `name` of `kind`, as its file has it: dimensioned values are text with a unit.  The caller may change it.

    Raises:
        ParsimError: there is no such kind or row; the message lists the known names and the nearest.

    >>> row("models", "gpt3-175b")["num_layers"]
    96
    """
    found = find(kind, name)
    if not found:
        raise ParsimError(f"unknown {kind.removesuffix('s')} '{name}'{hint(kind, name)}", remedy=f"Known: {', '.join(names(kind))}.")
    return dict(copy.deepcopy(_row(kind, found)))


def hint(kind: str, name: str) -> str:
    """What follows a message on the unknown `name`: the rows that it misspells or begins, never another thing.

    >>> hint("models", "gpt3-175"), hint("accelerators", "tpu-v5")
    (" (did you mean 'gpt3-175b'?)", '')
    """
    found = _RELEASE.fullmatch(name)
    known = releases(kind, found[1]) if found else ()
    return f" (releases of {found[1]}: {', '.join(known)})" if found and known else hint_of(name, (*names(kind), *aliases(kind)))


@cache
def _row(kind: str, name: str) -> Mapping[str, Any]:
    """The row, read alone: its text, after that of the rows whose anchors it uses, is a file of few rows."""
    texts = _texts(kind)
    order, needed = list(texts), {name}
    for each in reversed(order[: order.index(name) + 1]):  # an anchor stands before its aliases
        if each in needed:
            needed |= {_home(alias, texts, each) for alias in _ALIAS.findall(texts[each])}
    stated = _load("".join(texts[each] for each in order if each in needed))[name]
    return _row_like(stated, kind) if "like" in stated else stated


@cache
def _load(text: str) -> Mapping[str, Any]:
    return _reader().load(text) or {}


@cache
def _reader() -> Any:
    """A reader of YAML for all rows, in C where there is one: it looks for plug-ins when it is made."""
    from ruamel.yaml import YAML

    return YAML(typ="safe")


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


@cache
def _spellings(kind: str) -> Mapping[str, str]:
    stated = ((name, _OTHER_NAME.match(text)) for name, text in _texts(kind).items())
    last = {_plain(name): row for name, row in newest(kind).items()}
    return {**last, **{_plain(name): alias[1] if alias else name for name, alias in stated}}


def _plain(name: str) -> str:
    return re.sub(r"[ ._]", "-", name.lower())


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(each) for each in release.split("."))


def _row_like(stated: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The row with all that it takes from the row that it is like; each such source says so."""
    own, sources = dict(stated), dict(stated["source"])
    like, why = own.pop("like"), sources.pop("like")
    relative = _row(kind, like)
    assumed = {
        key: re.sub(r"^(assumed: )?(as of \S+?: )?", f"assumed: as of {like}, {why}: ", str(source), count=1)
        for key, source in relative["source"].items()
        if key not in own
    }
    return {**relative, **own, "source": {**assumed, **sources}}
