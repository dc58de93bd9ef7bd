"""CSV and JSON files that a scenario names in place of a value: `file:NAME`, a path from its own folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from parsim.errors import ScenarioError
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.read_files import read_bytes
from parsim.scenario.tree import Tree

_HOW: Final = f"name a CSV or JSON file as {ROW_FILE}NAME, a path from the folder of the scenario"
T = TypeVar("T")
_NO_FILE: Final = "is no CSV or JSON file in UTF-8"
PlacedRows = Iterator[tuple[str, dict[str, str]]]  # where each stands, and its cells by the names of their columns


def name_in(value: object) -> str | None:
    """The text that names a file, also where YAML took it for a mapping, as it does where nothing or a space is behind the colon.

    >>> name_in("file:a.csv"), name_in({"file": None}), name_in({"file": "a.csv"}), name_in([1, 2])
    ('file:a.csv', 'file:', 'file: a.csv', None)
    """
    key = ROW_FILE.removesuffix(":")
    if isinstance(value, dict) and [*value] == [key] and isinstance(value[key], str | None):
        return f"{ROW_FILE} {value[key] or ''}".strip()
    return value if isinstance(value, str) else None


def file_of(name: str, tree: Tree) -> Path:
    """The file that a text in a scenario names.

    Raises:
        ScenarioError: it names none.
    """
    path = name.removeprefix(ROW_FILE).strip()
    if not path:
        raise ScenarioError(f"{ROW_FILE} names no file: {_HOW}")
    if not name.startswith(ROW_FILE):
        raise ScenarioError(f"'{name}' names no file: {_HOW}")
    return Path(tree.path).parent / path


def content_of(
    path: Path, most_bytes: int, most_rows: int, of_json: Callable[[Any], T], of_rows: Callable[[PlacedRows, list[str]], T]
) -> T:
    """What such a file says.

    Args:
        path: of the file.
        most_bytes: that are read.
        most_rows: of a CSV file; none behind them is read.
        of_json: what the value in a JSON file says.
        of_rows: what the rows of a CSV file say, beside the names of its columns.

    Raises:
        ScenarioError: it cannot be read, or is no such file.
    """
    text = _text_of(path, most_bytes)
    try:
        if path.suffix == ".json":
            return of_json(json.loads(text))
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return of_rows(_each(rows, most_rows), [*(rows.fieldnames or ())])
    except ScenarioError as error:
        raise ScenarioError(f"{path.name}: {error.what}") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise ScenarioError(f"{path.name}: {_NO_FILE}: {' '.join(str(error).split())[:120]}") from None


def _each(rows: csv.DictReader[str], most_rows: int) -> PlacedRows:
    for number, row in enumerate(rows):
        if number == most_rows:
            raise ScenarioError(f"has more than the {most_rows:,} rows that are read; give fewer")
        yield f"line {rows.line_num}", row


def _text_of(path: Path, most_bytes: int) -> str:
    """What stands in such a file.

    Raises:
        ScenarioError: it cannot be read, or is no text.
    """
    if path.is_dir():
        raise ScenarioError(f"{path.name or path} is a folder: {_HOW}")
    try:
        found = read_bytes(path, most_bytes)
        if len(found) > most_bytes:
            raise ScenarioError(f"{path.name}: is larger than the {most_bytes:,} bytes that are read; give fewer rows")
        text = found.decode("utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError(f"there is no file {path.name}: {_HOW}") from None
    except OSError as error:
        raise ScenarioError(f"cannot read {path.name}: {error.strerror}") from None
    except ValueError as error:
        raise ScenarioError(f"{path.name}: {_NO_FILE}: {error}") from None
    if not text.strip():
        raise ScenarioError(f"{path.name}: is empty; a CSV file begins with the names of its columns, a JSON file holds a list")
    return text
