"""A YAML file as plain values, with the line and column of every key.  What the values mean is left to document.py."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from parsim.errors import Fault
from parsim.scenario.read_files import read_bytes

Place = tuple[object, ...]  # the keys and indices that lead to a value
_MOST_BYTES: Final = 4_000_000
_MOST_VALUES: Final = 100_000  # an alias counts each time it is used, so that a small file cannot unfold to a huge one
_MOST_LEVELS: Final = 40
_TAG: Final = "tag:yaml.org,2002:"
_UNREADABLE: Final[Mapping[type, str]] = {
    FileNotFoundError: "no such file",
    IsADirectoryError: "is a directory, not a scenario file",
    PermissionError: "no permission to read the file",
}
_TOO_DEEP: Final = f"nested more than {_MOST_LEVELS} levels deep"
_TOO_MANY: Final = "unfolds to too many values"
_LONG: Final = 100_000  # characters, from which a parser in C is worth it where there is one
_HALF: Final = "holds half of a UTF-16 surrogate pair, which is no text"


class Tree(Struct):
    """The values of a file; `spots` has the (line, column) of each key, from 1; `faults` what is wrong with its YAML."""

    path: str
    value: Any = None
    spots: dict[Place, tuple[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    changed: dict[Place, str] = field(default_factory=dict)  # what was set beside the file, each with where it was

    def fault(self, place: Place, message: str) -> Fault:
        """The fault at `place`: where that is not in the file, at the nearest key above it."""
        inside = [each for each in self.changed if place[: len(each)] == each]
        if inside:
            nearest = max(inside, key=len)
            return Fault(self.changed[nearest], 0, 0, path_of(place[len(nearest) :]), message)
        above = next((place[:end] for end in range(len(place), 0, -1) if place[:end] in self.spots), ())
        return Fault(self.path, *self.spots.get(above, (0, 0)), path_of(place), message)

    def add(self, message: str, line: int = 0, column: int = 0, place: Place = ()) -> None:
        """Note a fault of the file."""
        self.faults.append(Fault(self.path, line, column, path_of(place), message))


def path_of(place: Place) -> str:
    """The place as text.

    >>> path_of(("plans", "tp8", "schedule", 0))
    'plans.tp8.schedule.0'
    """
    return ".".join(str(each)[:80] for each in place)


def read(path: str | Path) -> Tree:
    """The values of a YAML (or JSON) file; with faults, and perhaps without a value, where it cannot be read."""
    tree = Tree(str(path))
    text = _text(path, tree)
    if text is not None and not _fill(tree, text) and not tree.faults:
        tree.add("the file is empty; a scenario has at least model, cluster, batch and plans", 1, 1)
    return tree


def parse(text: str, name: str) -> Tree:
    """The value that a piece of YAML stands for; None of an empty one."""
    tree = Tree(name)
    _fill(tree, text)
    return tree


def _fill(tree: Tree, text: str) -> bool:
    """Read YAML into a tree; whether there is any."""
    root = _compose(text, tree)
    if root is not None:
        tree.spots[()] = (1, 1)
        reader = _Reader(tree)
        value = reader.value(root, ())
        tree.value = None if reader.full else value
    return root is not None


def of(mapping: object, name: str) -> Tree:
    """The values of a Python mapping, copied to dicts and lists; there are no lines to point at."""
    tree = Tree(name)
    tree.value = _copy(mapping, 0, iter(range(_MOST_VALUES)), tree)
    return tree


def _text(path: str | Path, tree: Tree) -> str | None:
    try:
        raw = read_bytes(path, _MOST_BYTES)
        if len(raw) <= _MOST_BYTES:
            return raw.decode("utf-8-sig")
        tree.add(f"is larger than {_MOST_BYTES} bytes, which no scenario is")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        tree.add(message, before.count(b"\n") + 1, error.start - before.rfind(b"\n"))
    except (OSError, ValueError) as error:
        tree.add(_UNREADABLE.get(type(error), f"cannot be read: {getattr(error, 'strerror', '') or error}"))
    return None


def _compose(text: str, tree: Tree) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        in_c = len(text) > _LONG
        if in_c and (said := _beyond(text)):  # what composes in C asks for no level
            tree.add(said, 1, 1)
            return None
        with warnings.catch_warnings(action="ignore"):  # an anchor that stands twice is legal: the last one before an alias counts
            return YAML(typ="safe", pure=not in_c).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())[:200]
        tree.add(f"not YAML: {reason}", *((mark.line + 1, mark.column + 1) if mark else (1, 1)))
    except RecursionError:
        tree.add(_TOO_DEEP, 1, 1)
    except Exception as error:  # whatever else its scanner trips over, e.g. control characters: the file is at fault, not the user's Python
        tree.add(f"not YAML: {' '.join(str(error).split())[:200]}", 1, 1)
    return None


def _beyond(text: str) -> str:
    """Which limit a long text passes, told of its events, one after another; "" where none."""
    from ruamel.yaml import YAML

    level = 0
    for number, event in enumerate(YAML(typ="safe").parse(text)):
        kind = type(event).__name__
        level += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if level > _MOST_LEVELS + 3:  # those of stream and document, and one
            return _TOO_DEEP
        if number > 2 * _MOST_VALUES + 10:  # a key and a value each
            return _TOO_MANY
    return ""


class _Reader:
    """Turns the nodes of one file into values and notes where they stand."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.left = tree, _MOST_VALUES
        self.full = False  # a limit was passed: what was read is not all
        self.merging: list[Any] = []

    def value(self, node: Any, place: Place) -> Any:
        """The node as a dict, list or scalar."""
        self.left -= 1
        if self.left < 0 or len(place) > _MOST_LEVELS:
            if not self.full:
                self.add(node, place[:4], _TOO_MANY if self.left < 0 else _TOO_DEEP)
            self.full = True
        if self.full:
            return None
        if node.id == "mapping":
            return self.mapping(node, place)
        if node.id == "sequence":
            items = []
            for index, item in enumerate(node.value):
                self.tree.spots[(*place, index)] = _spot(item)
                items.append(self.value(item, (*place, index)))
            return items
        return self.scalar(node, place)

    def mapping(self, node: Any, place: Place) -> dict[object, Any]:
        """The entries of a mapping: its own, then what `<<` merges in."""
        entries: dict[object, Any] = {}
        first: dict[object, int] = {}
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                continue
            if key_node.id != "scalar":
                self.add(key_node, place, "a key must be text, not a list or mapping")
                continue
            num_faults = len(self.tree.faults)
            key = self.scalar(key_node, place)
            if not _is_key(key):
                if len(self.tree.faults) == num_faults:
                    self.add(key_node, place, f"a key must be text, not {show(key)}")
                continue
            if key in first:
                self.add(key_node, (*place, key), f"duplicate key; it stands in line {first[key]} already")
                continue
            first[key] = key_node.start_mark.line + 1
            self.tree.spots[(*place, key)] = _spot(key_node)
            entries[key] = self.value(value_node, (*place, key))
        for key_node, value_node in node.value:
            if _is_merge(key_node):
                self.merge(value_node, place, entries, key_node)
        return entries

    def merge(self, node: Any, place: Place, entries: dict[object, Any], key_node: Any) -> None:
        """Add to `entries` what it lacks from the mapping, or list of mappings, after `<<`."""
        for source in node.value if node.id == "sequence" else [node]:
            self.left -= 1
            if source.id != "mapping" or source in self.merging or self.left < 0:
                self.add(key_node, place, "'<<' merges a mapping, or a list of mappings, that does not hold itself")
                return
            own = {key: spot for key, spot in self.tree.spots.items() if key[: len(place)] == place and len(key) > len(place)}
            self.merging.append(source)
            merged = self.mapping(source, place)
            self.merging.pop()
            self.tree.spots.update(own)
            for key, value in merged.items():
                entries.setdefault(key, value)

    def scalar(self, node: Any, place: Place) -> Any:
        """The text, number, truth value or None that a scalar stands for."""
        tag, text = str(node.tag).removeprefix(_TAG), str(node.value)
        try:
            text = _whole(text)
            match tag:
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    digits = text.replace("_", "")
                    return int(digits, 0) if digits.lstrip("+-")[:2].lower() in ("0o", "0x", "0b") else int(digits)
                case "float":
                    digits = text.replace("_", "").lower()
                    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
                case "str" | "timestamp" | "merge" | "value":
                    return text
            message = f"the tag '{tag[:40]}' means nothing in a scenario; leave it out"
        except UnicodeDecodeError:
            message = _HALF
        except (ValueError, KeyError):
            message = f"'{text[:40]}' is no {'number that can be read' if tag in ('int', 'float') else tag}"
        self.add(node, place, message)
        return None

    def add(self, node: Any, place: Place, message: str) -> None:
        self.tree.add(message, *_spot(node), place)


def _spot(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _is_merge(key: Any) -> bool:
    return bool(key.id == "scalar" and (key.tag == f"{_TAG}merge" or key.value == "<<"))


def _copy(value: object, level: int, budget: Iterator[int], tree: Tree) -> Any:
    if level > _MOST_LEVELS or next(budget, None) is None:
        return _refuse(tree, _TOO_DEEP if level > _MOST_LEVELS else "holds too many values")
    if isinstance(value, Mapping):
        odd = [key for key in value if not _is_key(key) or _is_torn(key)]
        if odd:
            _refuse(tree, _HALF if _is_torn(odd[0]) else f"a key must be text, not {show(odd[0])}")
        return {key: _copy(each, level + 1, budget, tree) for key, each in value.items() if key not in odd}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [_copy(each, level + 1, budget, tree) for each in value]
    return _refuse(tree, _HALF) if _is_torn(value) else value


def _refuse(tree: Tree, message: str) -> None:
    """Note what is wrong with a mapping; the first fault is enough."""
    if not tree.faults:
        tree.add(message)


def _whole(text: str) -> str:
    """The text, with the two halves of a character that JSON escapes as "\\ud83d\\ude00" put together.

    Raises:
        UnicodeDecodeError: a half stands alone, which no file or terminal can hold.
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _is_torn(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_key(key: object) -> bool:
    """Whether a key is text, or one of the small whole numbers that some tables are keyed by."""
    return isinstance(key, str) or (type(key) is int and 0 <= key < 2**31)


def show(value: object) -> str:
    """The value as a message quotes it: short, and in the words of YAML.

    >>> show(True), show(None), show("x"), show({}), show(math.inf)
    ('true', 'nothing', "'x'", 'a mapping', 'inf')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and abs(value) >= 10**18:
        return f"a number of {int(math.log10(abs(value))) + 1} digits"
    if isinstance(value, str | int | float):
        return repr(value) if len(str(value)) <= 60 else f"{str(value)[:57]!r}..."
    return f"a {type(value).__name__}"
