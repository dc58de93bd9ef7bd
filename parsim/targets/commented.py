"""A scenario's document as YAML for people: a key a line, and beside or above it why it is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from parsim.scenario.tree import Place

_PLAIN: Final = re.compile(r"[A-Za-z][\w./@+-]*", re.ASCII)
_WORDS: Final = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # which YAML reads as other than text
_LONGEST: Final = 1000  # characters of a comment that quotes a file


def yaml_text(
    document: Mapping[str, Any], above: Iterable[str] = (), beside: Mapping[Place, str] | None = None, below: Iterable[str] = ()
) -> str:
    """The document with comments: lines above it, beside its keys by place, and below it.

    >>> print(yaml_text({"model": "tiny-gpt", "plans": {"a": {"micro_batch": 2}}}, ["Of a job."], {("model",): "assumed"}), end="")
    # Of a job.
    model: tiny-gpt  # assumed
    plans:
      a:
        micro_batch: 2
    """
    lines = [*map(_comment, above), *_lines(document, (), beside or {}), *map(_comment, below)]
    return "\n".join(lines) + "\n"


def _lines(value: Mapping[str, Any], place: Place, beside: Mapping[Place, str]) -> Iterator[str]:
    for key, each in value.items():
        here, inset = (*place, key), "  " * len(place)
        said = f"  {_comment(beside[here])}" if here in beside else ""
        if isinstance(each, Mapping) and each:
            yield f"{inset}{_scalar(key)}:{said}"
            yield from _lines(each, here, beside)
        else:
            yield f"{inset}{_scalar(key)}: {_scalar(each)}{said}"


def _comment(text: str) -> str:
    """A line of it, whatever stands in a file that it quotes."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    return f"# {shown[:_LONGEST]}{'...' * (len(shown) > _LONGEST)}".rstrip()


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, default=list)
