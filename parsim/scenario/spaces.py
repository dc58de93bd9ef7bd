"""A space that is given to `parsim.plan` rather than written in a file: the axes of a plan's section, with the same values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from parsim.errors import PlanError
from parsim.scenario.build import space_of
from parsim.scenario.document import PlanSection
from parsim.scenario.fields import complaints_of
from parsim.scenario.types import PlanSpace


def space_of_axes(space: Mapping[str, object] | PlanSpace) -> PlanSpace:
    """The space of these axes, each a value, "auto" or a list; those of a PlanSpace are tuples of values.

    Raises:
        PlanError: an axis or a value of it is unknown.

    >>> space_of_axes({"tensor_parallel": [2, 4], "pipeline_parallel": "auto", "zero_stage": 1}).axes
    {'tensor_parallel': (2, 4), 'pipeline_parallel': ('auto',), 'zero_stage': (1,)}
    """
    axes = {axis: _as_in_a_file(each) for axis, each in space.items()} if isinstance(space, Mapping) else _axes_of(space)
    try:
        section = PlanSection.model_validate(axes)
    except ValidationError as error:
        raise PlanError("\n".join(f"{'.'.join(map(str, place))}: {said}" for place, said in complaints_of(error)), "space") from None
    return space if isinstance(space, PlanSpace) else space_of("space", section)


def _axes_of(space: PlanSpace) -> dict[str, object]:
    """As lists of values; None, which is what is left out, needs no check."""
    return {
        axis: "auto" if values == ("auto",) else [_as_in_a_file(each) for each in values if each is not None]
        for axis, values in space.axes.items()
        if values != (None,)
    }


def _as_in_a_file(value: Any) -> Any:
    """Lists in place of tuples, and a mapping in place of pairs."""
    if isinstance(value, list | tuple):
        if value and all(
            isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], int) for each in value
        ):
            return dict(value)
        return [_as_in_a_file(each) for each in value]
    return value
