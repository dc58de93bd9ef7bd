"""Files of how many tokens each expert had: CSV with a row a layer and expert, or JSON with a list of lists; each layer has its own loads.

A CSV without layers, or a plain list, says the same of all layers.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.parallel.fault import comma_list
from parsim.scenario.named_files import PlacedRows, content_of, file_of
from parsim.scenario.tree import Tree, show

LAYER, EXPERT, TOKENS = COLUMNS = ("layer", "expert", "tokens")
_MOST_BYTES: Final = 40_000_000
_MOST_ROWS: Final = 1_000_000
Shares = list[float] | list[list[float]]


def loads_of_file(name: str, tree: Tree, layers: tuple[int, ...]) -> Shares:
    """The same of a file that a scenario names."""
    return load_shares(file_of(name, tree), layers)


def load_shares(path: Path, layers: tuple[int, ...]) -> Shares:
    """Tokens of each expert, by layer where a file tells layers apart.

    Args:
        path: of the file.
        layers: those that have experts, by number.

    Raises:
        ScenarioError: it cannot be read, is no such file, or has other layers.
    """
    if not layers:
        raise ScenarioError(f"{path.name} says how tokens choose experts, but the model has none; leave it out")
    return content_of(
        path, _MOST_BYTES, _MOST_ROWS, lambda value: _of_json(value, layers), lambda rows, names: _of_rows(rows, names, layers)
    )


def _of_json(value: Any, layers: tuple[int, ...]) -> Shares:
    is_by_layer = isinstance(value, list) and bool(value) and all(isinstance(each, list) for each in value)
    rows = value if is_by_layer else [value]
    if not all(isinstance(row, list) and row and len(row) == len(rows[0]) for row in rows):
        raise ScenarioError("a JSON file of loads is a list of layers, each a list of as many tokens by expert")
    if is_by_layer and len(rows) != len(layers):
        counts = f"it has {len(rows)} list{'s' * (len(rows) > 1)}, but {len(layers)} layers have experts ({comma_list(layers)})"
        raise ScenarioError(f"{counts}; give each of these one, or one list without another around it for all")
    if (count := sum(map(len, rows))) > _MOST_ROWS:
        raise ScenarioError(f"has {count:,} loads; give {_MOST_ROWS:,} at most")
    found = [
        [_tokens(tokens, f"list {number}, expert {expert}" if is_by_layer else f"expert {expert}") for expert, tokens in enumerate(row)]
        for number, row in enumerate(rows)
    ]
    return found if is_by_layer else found[0]


def _of_rows(rows: PlacedRows, names: list[str], layers: tuple[int, ...]) -> Shares:
    if lacking := [name for name in (EXPERT, TOKENS) if name not in names]:
        raise ScenarioError(f"a CSV file of loads has the columns {', '.join(COLUMNS)}, and here is no {lacking[0]}")
    found: dict[int, Counter[int]] = {layer: Counter() for layer in layers} if LAYER in names else {0: Counter()}
    for where, row in rows:
        layer = _number(row[LAYER], LAYER, where) if LAYER in names else 0
        if layer not in found:
            known = f"those of the model, numbered from 0, that have some are {comma_list(layers)}"
            raise ScenarioError(f"{where}: layer {layer} has no experts; {known}; leave the column out for loads of all layers")
        found[layer][_number(row[EXPERT], EXPERT, where)] += _tokens(row[TOKENS], where)  # type: ignore[assignment]
    if bare := tuple(layer for layer, own in found.items() if not own):
        raise ScenarioError(f"no row is of layer {comma_list(bare)}, which has experts" if LAYER in names else "no expert has a row")
    count = 1 + max(max(own) for own in found.values())
    every = [_in_order(own, count, f"layer {layer}: " if LAYER in names else "") for layer, own in found.items()]
    return every if LAYER in names else every[0]


def _in_order(found: Counter[int], count: int, where: str) -> list[float]:
    if (missing := next((expert for expert in range(count) if expert not in found), None)) is not None:
        raise ScenarioError(f"{where}expert {missing} has no row; give 0 tokens to an expert that had none")
    return [float(found[expert]) for expert in range(count)]


def _number(text: str | None, name: str, where: str) -> int:
    stripped = str(text).strip()
    if not (stripped.isascii() and stripped.isdecimal()) or len(stripped) > 9:
        raise ScenarioError(f"{where}: {name} must be a number from 0, not '{stripped}'")
    return int(stripped)


def _tokens(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ScenarioError(f"{where}: tokens must be a number from 0, not {show(value)}")
    return number
