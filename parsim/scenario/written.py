"""The key `schedule` of a plan: a name, names for the planner to choose from, or a schedule written as the actions of each rank."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema

from parsim import schedules
from parsim.scenario.fields import AUTO, LIST, VALUE, WRITTEN, Known, complaint
from parsim.scenario.tree import show
from parsim.schedules.action import is_written

_RANK: Final = re.compile(r"rank ([0-9]{1,6})")
_FORM: Final = 'a schedule is written as {rank 0: "0F0 0B0", rank 1: "1F0 1B0"}, or as a list of such texts'


class WrittenActions:
    """Annotates a mapping from rank to its actions, or a list of them by rank; the value is a tuple of texts with single blanks."""

    def check(self, value: object) -> tuple[str, ...]:
        """The texts by rank; whether their actions make a schedule is asked once pipeline and batch are known."""
        lines = list(value) if isinstance(value, list | tuple) else _by_rank(value) if isinstance(value, dict) else None
        if not lines:
            raise complaint(f"{_FORM}, not {show(value)}")
        for rank, line in enumerate(lines):
            if not isinstance(line, str):
                raise complaint(f"the actions of rank {rank} must be text, not {show(line)}; {_FORM}")
        return tuple(" ".join(str(line).split()) for line in lines)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: object) -> dict[str, Any]:
        line = {"type": "string", "pattern": r"^\s*([0-9]+[FB][0-9]+\s*)*$"}
        return {
            "anyOf": [
                {"type": "array", "items": line, "minItems": 1},
                {"type": "object", "patternProperties": {"^(rank )?[0-9]+$": line}, "additionalProperties": False, "minProperties": 1},
            ]
        }


def _by_rank(value: dict[object, object]) -> list[object]:
    """The values of the keys `rank 0` or 0, `rank 1` or 1, and so on."""
    found: dict[int, object] = {}
    for key, line in value.items():
        named = _RANK.fullmatch(key) if isinstance(key, str) else None
        rank = int(named[1]) if named else key
        if type(rank) is not int or rank in found:
            again = "a second time" if type(rank) is int else f"not {show(key)}"
            raise complaint(f"the keys of a written schedule are rank 0, rank 1, ..., {again}; {_FORM}")
        found[rank] = line
    missing = next((rank for rank in range(len(found)) if rank not in found), None)
    if missing is not None:
        raise complaint(f"the written schedule has no rank {missing}, but rank {max(found)}; {_FORM}")
    return [found[rank] for rank in range(len(found))]


def _form(value: object) -> str:
    if isinstance(value, list):
        return WRITTEN if any(isinstance(each, str) and is_written(each) for each in value) else LIST
    return AUTO if value == "auto" else _form_of_one(value)


def _form_of_one(value: object) -> str:
    return WRITTEN if isinstance(value, dict | list) else VALUE


_Name = Annotated[Annotated[str, Known("schedule", schedules.names)], Tag(VALUE)]
_Written = Annotated[tuple[str, ...], WrittenActions(), Tag(WRITTEN)]
_One = Annotated[_Name | _Written, Discriminator(_form_of_one)]  # in a list, a written one is a mapping or a list itself
ScheduleAxis = Annotated[
    _Name | Annotated[list[_One], Field(min_length=1), Tag(LIST)] | Annotated[Literal["auto"], Tag(AUTO)] | _Written,
    Discriminator(_form),
]
