"""Files of how many tokens each expert had: a row a layer and expert (CSV), or a list of lists (JSON), layers added up."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

from parsim.errors import ScenarioError
from parsim.scenario.tree import read_bytes, show

COLUMNS: Final = ("layer", "expert", "tokens")
_MOST_BYTES: Final = 100_000_000


def load_shares(path: Path) -> list[float]:
    """Tokens of each expert over all layers of a file.

    Raises:
        ScenarioError: it cannot be read, or is no such file.
    """
    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig")
        return _of_json(json.loads(text)) if path.suffix == ".json" else _of_rows(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise ScenarioError(f"cannot read {path.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ScenarioError(f"{path.name}: is no CSV or JSON file in UTF-8: {' '.join(str(error).split())[:120]}") from None


def _of_json(value: Any) -> list[float]:
    layers = value if isinstance(value, list) and value and all(isinstance(each, list) for each in value) else [value]
    if not all(isinstance(layer, list) and layer and len(layer) == len(layers[0]) for layer in layers):
        raise ScenarioError("a JSON file of loads is a list of layers, each a list of as many tokens by expert")
    return [math.fsum(_tokens(layer[expert], f"expert {expert}") for layer in layers) for expert in range(len(layers[0]))]


def _of_rows(rows: csv.DictReader[str]) -> list[float]:
    if lacking := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise ScenarioError(f"a CSV file of loads has the columns {', '.join(COLUMNS)}, and here is no {lacking[0]}")
    found: Counter[int] = Counter()
    for row in rows:
        expert, where = str(row["expert"]).strip(), f"line {rows.line_num}"
        if not expert.isdecimal():
            raise ScenarioError(f"{where}: expert must be a number from 0, not '{expert}'")
        found[int(expert)] += _tokens(row["tokens"], where)  # type: ignore[assignment]
    return _in_order(found)


def _in_order(found: Counter[int]) -> list[float]:
    if missing := [expert for expert in range(max(found, default=0) + 1) if expert not in found]:
        raise ScenarioError(f"expert {missing[0]} has no row; give 0 tokens to an expert that had none")
    return [float(found[expert]) for expert in range(len(found))]


def _tokens(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ScenarioError(f"{where}: tokens must be a number from 0, not {show(value)}")
    return number
