"""Launchers' files that are one mapping, JSON or YAML: as dotted keys, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from parsim.errors import ParsimError, ScenarioError
from parsim.scenario.tree import of, parse
from parsim.targets.entries import Keys
from parsim.targets.target import KeyValue

_MOST_YAML: Final = 200_000  # some seconds to read
AUTO: Final = "auto"


def mapping_of(text: str, name: str) -> dict[str, Any] | None:
    """The mapping that a file is, JSON or YAML; None where it is neither, unless its name says that it should be.

    Raises:
        ParsimError: it is JSON or YAML by its name, and cannot be read as such, or a key stands in it twice.
    """
    return _mapping(text, name)


@lru_cache(maxsize=1)  # each target asks of the same file
def _mapping(text: str, name: str) -> dict[str, Any] | None:
    ends = name.lower().rsplit(".", 1)[-1]
    if text.lstrip()[:1] == "{" and (found := _json(text, name)) is not None:
        return found
    if ends in ("json", "yaml", "yml") or text.lstrip()[:1] == "{" or _looks_like_yaml(text):
        if len(text) > _MOST_YAML:
            raise ParsimError(f"is YAML, or JSON that cannot be read, of more than {_MOST_YAML} characters, which no job's file is", name)
        tree = parse(text, name)
        if tree.faults and ends in ("json", "yaml", "yml"):
            raise ScenarioError.of(tree.faults)
        return tree.value if isinstance(tree.value, dict) and not tree.faults else None
    return None


def _json(text: str, name: str) -> dict[str, Any] | None:
    """The mapping of a JSON text, whose indents may be tabs, as YAML's may not; None where it is no JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ParsimError(f"the key '{key[:80]}' stands twice in one mapping", name, "Leave one of them.")
            found[key] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    tree = of(value, name)  # bounded as YAML is
    if tree.faults:
        raise ScenarioError.of(tree.faults)
    return tree.value if isinstance(tree.value, dict) else None


def _looks_like_yaml(text: str) -> bool:
    """Whether its first line that is no comment is `KEY:`, perhaps with a value."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "---"))), "")
    key, colon, rest = first.partition(":")
    return bool(colon) and key.strip().replace("_", "").isalnum() and rest[:1] in ("", " ")


def flatten(mapping: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, KeyValue]]:
    """Its values by dotted key.

    >>> dict(flatten({"bf16": {"enabled": True}, "a": [1], "b": {}}))
    {'bf16.enabled': True, 'a': [1], 'b': {}}
    """
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def nest(keys: Mapping[str, KeyValue]) -> dict[str, Any]:
    """The mapping with these values at dotted keys.

    >>> nest({"bf16.enabled": True, "a": 1})
    {'bf16': {'enabled': True}, 'a': 1}
    """
    found: dict[str, Any] = {}
    for dotted, value in keys.items():
        *above, last = dotted.split(".")
        inner = found
        for key in above:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return found


def take_known(keys: Keys, key: str, default: KeyValue = None) -> KeyValue:
    """The value of a key; the default where something fills it in only when the job starts, which is told."""
    value = keys.take(key, default)
    if key in keys and (value == AUTO or (isinstance(value, str) and "$" in value)):
        keys.leave(key, "the program fills it in when it starts" if value == AUTO else "a variable of the shell, which is not run here")
        return default
    return value


def is_count(*values: KeyValue) -> bool:
    """Whether all are whole numbers from 1."""
    return all(type(each) is int and each > 0 for each in values)
