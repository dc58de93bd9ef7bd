"""Changes of a scenario before it is checked: a dotted path to a key, and its new value.

A path leads into rows, too: where it passes the name of a catalog's row, an inline row stands then that starts from it.  Of a list it
passes an element by its number, from 0.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

from msgspec import Struct

from parsim import catalog, units
from parsim.errors import Fault, ScenarioError, did_you_mean
from parsim.scenario.defaults import node_called, stack_on
from parsim.scenario.document import DEFAULT_STACK
from parsim.scenario.fields import merge
from parsim.scenario.rows import SCHEMAS
from parsim.scenario.tree import Place, Tree, parse, path_of, show
from parsim.scenario.tree import of as copy_of

# By place, where a number of a list is left out.
_KINDS: Final[Mapping[Place, str]] = {
    ("model",): "models",
    ("stack",): "stacks",
    ("failures", "rates"): "failures",
    ("storage",): "storage",
    ("input",): "inputs",
    ("cluster", "node"): "nodes",
    ("cluster", "fabric"): "fabrics",
    ("cluster", "nodes", "node"): "nodes",
    ("cluster", "nodes", "fabric"): "fabrics",
}
# What some paths are called for short.
SHORT: Final[Mapping[str, str]] = {
    **{name: f"cluster.{name}" for name in ("node", "num_devices", "num_nodes", "fabric")},
    **{name: f"batch.{name}" for name in ("global_batch", "sequence_length", "dtype")},
    "accelerator": "cluster.node.accelerator",
}
_OF_A_NODE: Final = re.compile(r"cluster\.(nodes\.\d+\.)?node")
_FACTOR: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})\s*x\s*")


class Change(Struct, frozen=True):
    """A value for the key at a dotted path; `said`: where it stands, for messages.

    `note`: what reports say of it, "" where they show it anyway; `fault`: why it cannot be read.
    """

    path: str
    value: Any
    said: str
    note: str = ""
    fault: Fault | None = None

    @classmethod
    def of(cls, text: str, option: str = "--set") -> Change:
        """What PATH=VALUE says, the value in YAML; a path may be one of SHORT."""
        path, equals, value = text.partition("=")
        path, said = path.strip(), f"{option} {path.strip()}"
        if not equals or not path:
            return cls("", None, said, fault=Fault(said, 0, 0, "", "must be PATH=VALUE, e.g. batch.global_batch=512"))
        read = parse(value, said)
        meant = row_named(SHORT.get(path, path), read.value)
        return cls(SHORT.get(path, path), meant, said, f"{path} = {value.strip()}", next(iter(read.faults), None))

    @property
    def is_in_a_row(self) -> bool:
        """Whether it is a figure of a row, which is named, or read from a file of its own, before."""
        keys = tuple(key for key in self.path.split(".") if not key.isdecimal())
        return any(len(keys) > len(place) and keys[: len(place)] == place for place in _KINDS)


def row_named(path: str, value: Any) -> Any:
    """The value; of the node the name of its row, where people call it otherwise."""
    return node_called(value) if _OF_A_NODE.fullmatch(path) and isinstance(value, str) else value


def changes_of(mapping: Mapping[str, Any]) -> tuple[Change, ...]:
    """The changes that a mapping from path to value asks for."""
    found = []
    for path, value in mapping.items():
        said, note = f"changes['{path}']", f"{path} = {value if isinstance(value, str) else show(value)}"
        read = copy_of(value, said)
        found.append(Change(str(path), read.value, said, note, next(iter(read.faults), None)))
    return tuple(found)


def values_of(sets: Iterable[str]) -> dict[str, Any]:
    """Values by path, of texts PATH=VALUE.

    Raises:
        ScenarioError: one cannot be read.
    """
    read = [Change.of(each) for each in sets]
    if wrong := [each.fault for each in read if each.fault]:
        raise ScenarioError.of(wrong)
    return {each.path: each.value for each in read}


def change(tree: Tree, changes: Iterable[Change]) -> None:
    """Set what the changes say, in their order, in the values of a tree; what cannot be set is one of its faults."""
    for each in changes:
        if each.fault:
            tree.faults.append(each.fault)
        elif isinstance(tree.value, dict):
            _set(tree, each)


def _set(tree: Tree, asked: Change) -> None:
    here, kind, rest = tree.value, "", asked.path
    place: Place = ()
    while True:
        known = _by_number(here) if isinstance(here, list) else _row(kind, here)
        key, rest = _first(known, rest)
        if fault := _no_element(place, key, here):
            tree.faults.append(Fault(asked.said, 0, 0, "", fault))
            return
        place = (*place, key)
        kind = _KINDS.get(_without_numbers(place)) or (SCHEMAS.get(kind).refs.get(str(key), "") if kind else "")
        if not rest:
            break
        inner = known.get(key, _usual_stack(tree.value) if place == ("stack",) else None)
        if fault := _no_way(place, inner, known, is_row=bool(kind)):
            tree.faults.append(Fault(asked.said, 0, 0, "", fault))
            return
        if inner is None:
            tree.changed[place] = asked.said
        here[key] = {"base": inner} if isinstance(inner, str) else copy.deepcopy({} if inner is None else inner)
        here = here[key]
    here[key] = _times(asked.value, known.get(key))
    tree.changed[place] = asked.said


def _usual_stack(value: Any) -> str:
    """The stack of a scenario that states none, by its node where that is a name."""
    cluster = value.get("cluster") if isinstance(value, dict) else None
    node = cluster.get("node") if isinstance(cluster, dict) else None
    return (stack_on("", node) if isinstance(node, str) else "") or DEFAULT_STACK


def _no_way(place: Place, inner: Any, known: Mapping[Any, Any], *, is_row: bool) -> str:
    """Why no path leads on through `inner`, which stands at `place` among what is `known` there; "" where one does."""
    if place[0] in ("plans", "measured") and len(place) == 2 and inner is None and known:
        return f"no plan '{place[1]}'{did_you_mean(str(place[1]), map(str, known))}; plans here: {', '.join(map(str, known))}"
    if place == ("cluster", "node") and inner is None and isinstance(known.get("nodes"), list):
        return "the cluster has nodes of several kinds, of which one is cluster.nodes.0.node; lead through it"
    if inner is None and is_row:
        return f"{path_of(place)} is not stated; set it to the name of a row first"
    if inner is None or isinstance(inner, dict | list) or (isinstance(inner, str) and is_row):
        return ""
    return f"{path_of(place)} is {show(inner)}, which has no keys; set it whole"


def _by_number(elements: list[Any]) -> dict[Any, Any]:
    """The elements of a list by their numbers."""
    return dict(enumerate(elements))


def _without_numbers(place: Place) -> Place:
    return tuple(key for key in place if not isinstance(key, int))


def _no_element(place: Place, key: object, here: Any) -> str:
    """Why a list at `place` has no such element; "" where it has, or is none."""
    if not isinstance(here, list) or key in range(len(here)):
        return ""
    held = f"has {len(here)} element{'s' * (len(here) > 1)}, numbered from 0" if here else "is an empty list"
    return f"{path_of(place)} {held}, and '{key}' is none of these; set it whole to add or drop some"


def _row(kind: str, stated: dict[Any, Any]) -> dict[Any, Any]:
    """The keys at a place, with those of the catalog's row that it starts from."""
    base = stated.get("base")
    return merge(catalog.row(kind, base), stated) if kind and isinstance(base, str) and catalog.find(kind, base) else stated


def _first(known: Mapping[Any, Any], path: str) -> tuple[Any, str]:
    """The first key of a path, and the rest: a key that is there may hold dots, or be a number."""
    words = path.split(".")
    for end in range(len(words), 0, -1):
        key = ".".join(words[:end])
        if key in known:
            return key, ".".join(words[end:])
    numbered = words[0].isdecimal() and len(words[0]) < 10 and any(isinstance(key, int) for key in known)
    return int(words[0]) if numbered else words[0], ".".join(words[1:])


def _times(value: Any, figure: Any) -> Any:
    """The value; where it is a factor such as "2x", the figure times it, or each figure of a mapping."""
    match = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    try:
        product = _product(figure, Fraction(match[1])) if match else None
    except OverflowError:
        return value
    return value if product is None else product


def _product(figure: Any, factor: Fraction) -> Any:
    if isinstance(figure, dict):
        products = {key: _product(each, factor) for key, each in figure.items()}
        return None if None in products.values() else products
    if isinstance(figure, str):
        return units.scale_text(figure, factor)
    if isinstance(figure, bool) or not isinstance(figure, int | float) or not math.isfinite(figure):
        return None
    product = Fraction(figure) * factor
    return int(product) if isinstance(figure, int) and product.denominator == 1 else float(product)
