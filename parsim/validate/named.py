"""The model of the catalog that a row names, where no column of it states a shape."""

from __future__ import annotations

from typing import Final

from parsim import catalog
from parsim.validate.table import TableRow

SHAPE: Final = ("num_layers", "hidden_size", "num_heads")


def named_model(row: TableRow) -> str:
    """The one row of the catalog that a row without a shape can mean, or "".

    >>> named_model(TableRow({"model_name": "Nemotron_3_Nano"}, {}, {}, ()))
    'nemotron-3-nano-30b-a3b'
    >>> [named_model(TableRow({"model_name": name}, {}, {}, ())) for name in ("Llama 3", "Llama 4 Behemoth")]  # several, none
    ['', '']
    """
    if any(row.says(column) for column in SHAPE):
        return ""
    meant = catalog.rows_meant("models", row.says("model_name"))
    return meant[0] if len(meant) == 1 else ""


def num_experts(row: TableRow) -> int:
    """Experts that a row states, or that the model has which it names."""
    named = "" if "num_experts" in row.counts else named_model(row)
    return int(catalog.row("models", named).get("num_experts", 0)) if named else row.counts.get("num_experts", 0)
