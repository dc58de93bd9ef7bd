"""Frozen results as plain values: documents and back, CSV, data frames, tables of text and HTML.

Values are in SI base units, as their names say; nothing here knows what a result means.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from numbers import Integral
from types import NoneType, UnionType
from typing import Any, Final, Self, cast, get_args, get_origin

from msgspec import Struct, StructMeta
from msgspec.structs import asdict

from parsim.arguments import check_value, hints_of, misfits
from parsim.errors import ParsimError

_WORDS: Final = ("name", "source")  # fields that say what a thing is called, and who says so


class Plain(Struct, frozen=True):
    """What a struct of results has beside its fields; `records` says what its rows are."""

    def misfits(self) -> list[str]:
        """What of it is not of the type of its field, as of one that is made by hand."""
        return [*misfits(self)]

    def to_dict(self) -> dict[str, Any]:
        """Its fields as JSON has them: numbers, texts, lists and mappings."""
        return {name: to_plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The result that `to_dict` said.

        Raises:
            ParsimError: a field is missing, unknown, or of another type.
        """
        return cast(Self, _make(cls, document))

    def records(self) -> list[dict[str, object]]:
        """Its rows, each a value by column; one of all its fields, where a result does not say otherwise."""
        return [flat(self.to_dict())]

    def to_csv(self) -> str:
        """Its rows as CSV."""
        return csv_text(self.records())

    def to_dataframe(self) -> Any:
        """Its rows as a pandas.DataFrame.

        Raises:
            ParsimError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ParsimError("a data frame needs pandas", remedy="Install it with: pip install 'parsim-llm[pandas]'") from error
        return pandas.DataFrame(self.records())

    def cells(self) -> list[dict[str, str]]:
        """Its rows as the texts of a table: without what is the same in all of several; one row stands upright, a line a value."""
        return _cells(self.records())

    def table(self) -> str:
        """Its rows as text."""
        rows = _lines(self.cells())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows)

    def _repr_html_(self) -> str:
        """The same as a notebook shows it."""
        import html

        head, *rows = ([html.escape(cell) for cell in row] for row in _lines(self.cells()))
        lines = [f"<tr><th>{'</th><th>'.join(head)}</th></tr>", *(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows)]
        return f"<table>{''.join(lines)}</table>"


def to_plain(value: Any) -> Any:
    """A value of a result as JSON has it."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Struct):
        return {name: to_plain(each) for name, each in asdict(value).items()}
    if isinstance(value, Mapping):
        return {key: to_plain(each) for key, each in value.items()}
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    return [to_plain(each) for each in value] if isinstance(value, list | tuple) else value


def fingerprint(value: Any) -> str:
    """The same text for values of the same figures, whatever they are called."""
    return hashlib.sha256(json.dumps(figures(value), separators=(",", ":")).encode()).hexdigest()


def figures(value: Any) -> Any:
    """A value as JSON has it: of a struct its kind and all fields but words, a mapping in the order of its keys.

    >>> from parsim.cluster.link import Link
    >>> figures(Link("nvlink", 450e9, 2e-6, "vendor"))
    ['Link', ['bandwidth_bytes_per_s', 450000000000.0], ['latency_s', 2e-06], ['fitted_latency_s', None]]
    """
    if isinstance(value, Struct):
        named = ((name, figures(each)) for name, each in asdict(value).items() if name not in _WORDS)
        return [type(value).__name__, *map(list, named)]
    if isinstance(value, Mapping):
        return [[key, figures(each)] for key, each in sorted(value.items())]
    return [figures(each) for each in value] if isinstance(value, list | tuple) else value


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal that may have arrays in them, of which `==` says nothing as a whole."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Struct):
        return all(equal(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(each, other[key]) for key, each in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one.shape == other.shape and bool((one == other).all()) if hasattr(one, "tolist") else bool(one == other)


def from_plain(hint: Any, value: Any, name: str = "document") -> Any:
    """The value of that type which `to_plain` said.

    Raises:
        ParsimError: it is none; `name` says which.
    """
    kind, inner = get_origin(hint), get_args(hint)
    if kind is UnionType and NoneType in inner and len(inner) == 2:
        return None if value is None else from_plain(next(each for each in inner if each is not NoneType), value, name)
    if kind is tuple:
        check_value(name, value, Sequence)
        hints = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(hints) != len(value):
            raise ParsimError(f"{name} = {value} must have {len(hints)} values", remedy="Give what to_dict returned.")
        return tuple(map(from_plain, hints, value, repeat(name)))
    if hasattr(hint, "_fields"):  # a named tuple
        check_value(name, value, Sequence)
        if len(value) != len(hint._fields):
            raise ParsimError(f"{name} = {value} is none of {', '.join(hint._fields)}", remedy="Give what to_dict returned.")
        return hint(*map(from_plain, hints_of(hint).values(), value, repeat(name)))
    if hasattr(kind, "tolist"):  # an array
        (dtype,) = get_args(inner[1])
        check_value(name, value, Sequence[int] if issubclass(dtype, Integral) else Sequence[float])
        import numpy as np  # which is there, as whose array it is

        return np.array(value, dtype)
    if kind is Mapping:
        check_value(name, value, Mapping)
        return {key: from_plain(inner[1], each, f"{name}.{key}") for key, each in value.items()}
    if isinstance(hint, StructMeta):
        return hint.from_dict(value) if hasattr(hint, "from_dict") else _make(hint, value)
    check_value(name, value, hint)
    return value


def _make(kind: Any, document: Any) -> Any:
    """The struct with these fields."""
    check_value(f"document of {kind.__name__}", document, Mapping)
    names = kind.__struct_fields__
    if wrong := sorted({*names} ^ document.keys()):
        raise ParsimError(f"no document of {kind.__name__}: {', '.join(wrong)} missing or unknown", remedy="Give what to_dict returned.")
    hints = hints_of(kind)
    return kind(**{name: from_plain(hints[name], document[name], f"{kind.__name__}.{name}") for name in names})


def flat(document: Mapping[str, Any]) -> dict[str, object]:
    """A document as the cells of a row: lists with spaces between, a pair or an entry of a mapping as `name=value`.

    >>> flat({"data_parallel": 2, "layers_per_stage": [3, 1], "dimensions": {"ffn_parallel": 2}})
    {'data_parallel': 2, 'layers_per_stage': '3 1', 'dimensions': 'ffn_parallel=2'}
    """

    def text(value: object) -> str:
        return "=".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    lists = {key: [*value.items()] if isinstance(value, Mapping) else value for key, value in document.items()}
    return {key: " ".join(map(text, value)) if isinstance(value, list | tuple) else value for key, value in lists.items()}


def csv_text(rows: Iterable[Mapping[str, object]]) -> str:
    """The rows as CSV under every key in order of first appearance; what a row lacks, and None, is empty.

    >>> csv_text([{"plan": "a", "step_s": 1.5}, {"plan": "b", "fits": False}])
    'plan,step_s,fits\\na,1.5,\\nb,,false\\n'
    """
    listed = list(rows)
    names = list(dict.fromkeys(key for row in listed for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    cells = ([row.get(name) for name in names] for row in listed)
    writer.writerows([str(each).lower() if isinstance(each, bool) else each for each in row] for row in cells)
    return text.getvalue()


def _cells(rows: Sequence[Mapping[str, object]]) -> list[dict[str, str]]:
    texts = [{name: _text(value) for name, value in row.items()} for row in rows]
    if len(rows) == 1:
        return [{"": name, "value": text} for name, text in texts[0].items() if text]
    names = dict.fromkeys(name for row in texts for name in row)
    told = [name for name in names if len({row.get(name, "") for row in texts}) > 1]
    return [{name: row.get(name, "") for name in told} for row in texts]


def _lines(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Titles and rows of text, each of one line."""
    names = dict.fromkeys(name for row in rows for name in row)
    cells = [[*names], *([row.get(name, "") for name in names] for row in rows)]
    return [[cell.replace("_\n", "_").replace("\n", " ") for cell in row] for row in cells]


def _text(value: object) -> str:
    """Four figures of a number with a fraction, whole ones as they are."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
