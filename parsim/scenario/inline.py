"""Rows that stand in the catalog or in a scenario, and how a name or an inline row becomes its struct."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field, GetCoreSchemaHandler, Tag
from pydantic_core import CoreSchema, core_schema

from parsim import catalog
from parsim.registry import Registry
from parsim.scenario.fields import INLINE, NAME, NAME_OR_INLINE, Known, Quantity, Section, Text, complaint
from parsim.scenario.tree import show
from parsim.scenario.unbuilt import MIXED

Seconds = Annotated[float, Quantity("s", zero=True, most="1 s")]  # launches and latencies
Bytes = Annotated[float, Quantity("bytes")]
Rate = Annotated[float, Quantity("bytes/s")]
Ramp = Annotated[float, Quantity("s/sqrt(bytes)", zero=True)]
Ratio = Annotated[float, Field(gt=0, le=2)]  # efficiencies above 1 are measured where operands stay in a cache

_UNITS: Final = ("", "_s", "_bytes", "_bytes_per_s", "_flops_per_s", "_s_per_sqrt_byte", "_w", "_usd")
SCHEMAS: Final["Registry[type[InlineRow]]"] = Registry("kind of row")


class LawRow(Section):
    """A row without a name, whose figures are the fields of `form` in their order; a rate left out is infinite."""

    form: ClassVar[Any]  # a struct

    def build(self) -> Any:
        """The struct."""
        return self.form(*(math.inf if each is None else figure(each) for _, each in self))


class InlineRow(Section):
    """A row that may stand in a scenario: with a name of its own, and perhaps the catalog row it starts from."""

    form: ClassVar[Any]  # the struct that it becomes
    refs: ClassVar[Mapping[str, str]] = {}  # key -> the kind of the row that it names or holds
    name: Text = Field("", description="a name for reports")
    base: Text = Field("", description="the catalog row to start from; keys beside it replace its figures")
    source: Annotated[
        Annotated[Text, Tag(NAME)] | Annotated[dict[Text, Text], Tag(INLINE)],
        NAME_OR_INLINE,
        Field(description="the citation, or one for each figure"),
    ] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.kind:
            SCHEMAS.register(cls.kind, cls)

    @classmethod
    def schema_of(cls, row: Mapping[str, Any]) -> "type[InlineRow]":
        """The class that reads `row`: this one, where a kind has no other."""
        return cls

    @classmethod
    def forms(cls) -> "tuple[type[InlineRow], ...]":
        """All classes that `schema_of` gives."""
        return (cls,)

    def build(self, name: str) -> Any:
        """The struct of the row; `name` is the catalog's, "" for an inline row."""
        return self.form(**self.figures(name))

    def figures(self, name: str) -> dict[str, Any]:
        """The fields of its struct: the keys with their units, which may stand in place of the last word."""
        own = {key: each for key, each in self if key != "base"} | {"name": self.title(name), "source": self.citations()}
        known = self.form.__struct_fields__
        names = {key: next(f for stem in (key, key.rpartition("_")[0]) for u in _UNITS if (f := f"{stem}{u}") in known) for key in own}
        return {
            names[key]: resolve(self.refs[key], each) if key in self.refs and each is not None else figure(each)
            for key, each in own.items()
        }

    def title(self, name: str) -> str:
        """What reports call it: its name in the catalog, its own, or that of its base."""
        return name or self.name or (f"{catalog.find(self.kind, self.base)} (changed)" if self.base else "inline")

    def citations(self) -> str:
        """Its citations, each once."""
        return self.source if isinstance(self.source, str) else "; ".join(dict.fromkeys(self.source.values()))


class NameOrRow:
    """Annotates the name of a catalog's row, or an inline row: what keys it may have is put together only where there is one."""

    def __init__(self, row: type[InlineRow], *, prefix: str = "") -> None:
        self.row, self.known = row, Known(row.kind, prefix=prefix)

    def check(self, value: object) -> str | InlineRow:
        """The name of a row, or the row."""
        if isinstance(value, str):
            return self.known.check(value)
        if isinstance(value, dict):
            return self.row.schema_of(value).model_validate(value)
        mixed = f": {MIXED}" if isinstance(value, list) and self.row.kind in ("nodes", "accelerators") else ""
        raise complaint(f"must be a name or a mapping, not {show(value)}{mixed}")

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Callable[[CoreSchema], dict[str, Any]]) -> dict[str, Any]:
        for form in self.row.forms():
            form.model_rebuild()
        # As unions of one, the rows are told apart by pydantic, and each becomes a definition of its own.
        rows = [handler(core_schema.union_schema([form.__pydantic_core_schema__])) for form in self.row.forms()]
        return {"oneOf": [self.known.json_schema(), *rows]}


@cache
def read(kind: str, name: str) -> Any:
    """The struct of a catalog row: a ModelSpec, Accelerator, Link, Node, Fabric, Stack, or the bytes of a dtype.

    Raises:
        ParsimError: there is no such row.

    >>> from parsim.scenario import rows  # where the schemas are
    >>> rows.read("models", "gpt3-175b").hidden_size
    12288
    """
    row = catalog.row(kind, name)
    return SCHEMAS.get(kind).schema_of(row).model_validate(row).build(catalog.find(kind, name))


def resolve(kind: str, ref: Any) -> Any:
    """The struct of a checked name or inline row."""
    return read(kind, ref) if isinstance(ref, str) else ref.build("")


def figure(value: Any) -> Any:
    """A checked value as structs hold it: rows of laws built, lists as tuples."""
    if isinstance(value, LawRow):
        return value.build()
    if isinstance(value, dict):
        return {key: figure(each) for key, each in value.items()}
    return tuple(map(figure, value)) if isinstance(value, list) else value
