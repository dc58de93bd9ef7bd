"""Rows of a node, fabric, stack, storage or input in a YAML file, which a scenario names as `file:NAME`, a path from its own folder.

The file is one row, as `parsim calibrate` writes it, or holds rows of several parts of a cluster by their names, as with --from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from parsim.errors import ParsimError
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.named_files import name_in
from parsim.scenario.tree import Place, Tree, read

PARTS: Final = ("node", "fabric", "stack", "storage", "input")
_MOST_TOLD: Final = 10  # faults of a file, in the one line that says what is wrong with its name
_PLACES: Final[tuple[Place, ...]] = (("cluster", "node"), ("cluster", "fabric"), ("stack",), ("storage",), ("input",))


def with_row_files(value: Any, tree: Tree) -> Any:
    """The values of a scenario, with rows in place of the names of files; a fault of one becomes one of the tree."""
    for *above, part in _PLACES if isinstance(value, dict) else ():
        section = value.get(above[0]) if above else value
        name = name_in(section.get(part)) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name is None or not name.startswith(ROW_FILE):
            continue
        found = dict(section)
        try:
            found[part] = row_of(name, str(part), Path(tree.path).parent)
        except ParsimError as error:
            tree.faults.append(tree.fault((*above, part), error.what))
            del found[part]
        value = {**value, above[0]: found} if above else found
    return value


def row_of(name: str, part: str, folder: Path) -> dict[str, Any]:
    """The row of that part which a file holds.

    Raises:
        ParsimError: it cannot be read, or holds none.
    """
    path = name.removeprefix(ROW_FILE).strip()
    if not path:
        raise ParsimError(
            f"{ROW_FILE} names no file: name a YAML file of a {part}'s row as {ROW_FILE}NAME, a path from the folder of the scenario"
        )
    file = read(folder / path)
    if file.faults:
        more = [f"and {len(file.faults) - _MOST_TOLD:,} more"] * (len(file.faults) > _MOST_TOLD)
        raise ParsimError("; ".join([*map(str, file.faults[:_MOST_TOLD]), *more]))
    if not isinstance(file.value, dict):
        raise ParsimError(f"{file.path}: is no mapping; a {part}'s row is one")
    parts = [each for each in PARTS if each in file.value]
    row = file.value.get(part) if parts else file.value
    if not isinstance(row, dict):
        raise ParsimError(f"{file.path}: holds no {part}, but {', '.join(parts)}")
    return row
