"""What a row leaves open, by the names of parsim/scenario/left_open.py, and what stands for it; what runs again, custom.py chooses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from parsim import catalog
from parsim.model.spec import ModelSpec
from parsim.scenario.left_open import MICRO_BATCH, Assumed
from parsim.validate.defaults import Software, names_stack, release_of
from parsim.validate.named import named_model
from parsim.validate.table import TableRow


def open_cells(row: TableRow, software: Software, stack: str, model: ModelSpec, precision: str) -> Iterator[Assumed]:
    """What of a row is assumed, of a model that its cells or the catalog describe.

    What a stack's recipes settle, as zero_stage and attention, or a catalog model has, is not open.
    """
    named = named_model(row)
    found: dict[str, Any] = {
        "micro_batch": MICRO_BATCH,
        **({} if named else {name: getattr(model, name) for name in ("num_heads", "vocab_size")}),
        "dtype": precision,
    }
    if named and not catalog.find("models", row.says("model_name")):
        yield Assumed("model", named)
    yield from (Assumed(name, str(value)) for name, value in found.items() if not row.says(name))
    if not names_stack(row):
        yield Assumed("stack", software.stack)
    asked = release_of(row)
    if catalog.releases("stacks", software.stack) and stack != f"{software.stack}-{asked}":
        yield Assumed("release", f"that of {stack}")
