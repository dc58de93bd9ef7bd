"""Models that a launcher knows by a name of its own: a row of the catalog, or what differs from one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError

from parsim.errors import ParsimError
from parsim.model.spec import ModelSpec
from parsim.scenario.rows import SCHEMAS

FiguresRow = Mapping[str, Any]  # {"base": a name of the catalog, figure: value}
_APART = ("name", "source", "max_positions")  # figures that say nothing of what a step does


@cache
def _spec(items: tuple[tuple[str, Any], ...]) -> ModelSpec:
    row = dict(items)
    try:
        built: ModelSpec = SCHEMAS.get("models").schema_of(row).model_validate(row).build("")
    except ValidationError as error:
        said = "; ".join(" ".join(map(str, (*fault["loc"], fault["msg"]))) for fault in error.errors())
        raise ParsimError(f"its figures are no model: {said}", "model", "State the model in their place: --model NAME.") from None
    return built


def spec_of(row: FiguresRow) -> ModelSpec:
    """The model of a row.

    Raises:
        ParsimError: its figures do not fit one another.

    >>> spec_of({"base": "llama3-8b", "num_layers": 16}).num_layers
    16
    """
    return _spec(tuple(row.items()))


def same_figures(model: ModelSpec, row: FiguresRow) -> bool:
    """Whether a model is that of a row, whatever its name and its longest sequence.

    >>> same_figures(spec_of({"base": "llama3-8b"}), {"base": "llama3-8b", "max_positions": 16}), same_figures(
    ...     spec_of({"base": "llama3-8b"}), {"base": "llama3-70b"}
    ... )
    (True, False)
    """
    other = spec_of(row)
    return type(other) is type(model) and replace(other, **{name: getattr(model, name) for name in _APART if hasattr(model, name)}) == model


def fields_of_row(row: FiguresRow) -> dict[str, Any]:
    """A row as fields of a scenario."""
    return {f"model.{name}": value for name, value in row.items()}


def long_enough(row: FiguresRow, sequence_length: int) -> dict[str, Any]:
    """The same, whose longest sequence is at least so long."""
    short = getattr(spec_of(row), "max_positions", sequence_length) < sequence_length
    return fields_of_row(row) | ({"model.max_positions": sequence_length} if short else {})
