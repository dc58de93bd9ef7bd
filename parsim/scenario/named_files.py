"""CSV and JSON files that a scenario names in place of a value: `file:NAME`, a path from its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from parsim.errors import ScenarioError
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.tree import Tree, read_bytes

_HOW: Final = f"name a CSV or JSON file as {ROW_FILE}NAME, a path from the folder of the scenario"


def file_of(name: str, tree: Tree) -> Path:
    """The file that a text in a scenario names.

    Raises:
        ScenarioError: it names none.
    """
    path = name.removeprefix(ROW_FILE).strip()
    if not name.startswith(ROW_FILE) or not path:
        raise ScenarioError(f"'{name}' names no file: {_HOW}")
    return Path(tree.path).parent / path


def text_of(path: Path, most_bytes: int) -> str:
    """What stands in such a file.

    Raises:
        ScenarioError: it cannot be read, or is no text.
    """
    if path.is_dir():
        raise ScenarioError(f"{path.name or path} is a folder: {_HOW}")
    try:
        found = read_bytes(path, most_bytes)
        text = found.decode("utf-8-sig")
    except FileNotFoundError:
        raise ScenarioError(f"there is no file {path.name}: {_HOW}") from None
    except OSError as error:
        raise ScenarioError(f"cannot read {path.name}: {error.strerror}") from None
    except ValueError as error:
        raise ScenarioError(f"{path.name}: is no CSV or JSON file in UTF-8: {error}") from None
    if len(found) > most_bytes:
        raise ScenarioError(f"{path.name}: is larger than the {most_bytes:,} bytes that are read; give fewer rows")
    if not text.strip():
        raise ScenarioError(f"{path.name}: is empty; a CSV file begins with the names of its columns, a JSON file holds a list")
    return text
