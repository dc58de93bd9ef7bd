"""Rows that stand in the catalog or in a scenario, and how a name or an inline row becomes its dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, Tag

from parsim import catalog
from parsim.registry import Registry
from parsim.scenario.fields import INLINE, NAME, Quantity, Row, Text, name_or_inline

Seconds = Annotated[float, Quantity("s", zero=True, most="1 s")]  # launches and latencies
Rate = Annotated[float, Quantity("bytes/s")]
Ramp = Annotated[float, Quantity("s/sqrt(bytes)", zero=True)]
Memory = Annotated[float, Quantity("bytes", zero=True)]
Ratio = Annotated[float, Field(gt=0, le=2)]  # efficiencies above 1 are measured where operands stay in a cache

SCHEMAS: Final[Registry[type[InlineRow]]] = Registry("kind of row")


class InlineRow(Row):
    """A row that may stand in a scenario: with a name of its own, and perhaps the catalog row it starts from."""

    name: Text = Field("", description="a name for reports")
    base: Text = Field("", description="the catalog row to start from; keys beside it replace its figures")
    source: Annotated[
        Annotated[Text, Tag(NAME)] | Annotated[dict[Text, Text], Tag(INLINE)],
        Discriminator(name_or_inline),
        Field(description="the citation, or one for each figure"),
    ] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.kind:
            SCHEMAS.register(cls.kind, cls)

    @classmethod
    def schema_of(cls, row: Mapping[str, Any]) -> type[InlineRow]:
        """The class that reads `row`: this one, where a kind has no other."""
        return cls

    def build(self, name: str) -> Any:
        """The dataclass of the row; `name` is the catalog's, "" for an inline row."""
        raise NotImplementedError  # each kind of row has its own

    def whole(self) -> dict[str, Any]:
        """The figures by key, with what is derived where it was left out."""
        stated = {key: each for key, each in self if key not in ("name", "base", "source")}
        return {**stated, **{key: rule(stated) for key, rule in self.derived.items() if stated[key] is None}}

    def title(self, name: str) -> str:
        """What reports call it: its name in the catalog, its own, or that of its base."""
        return name or self.name or (f"{self.base} (changed)" if self.base else "inline")

    def cited(self) -> str:
        """Its citations, each once."""
        return self.source if isinstance(self.source, str) else "; ".join(dict.fromkeys(self.source.values()))


@cache
def read(kind: str, name: str) -> Any:
    """The dataclass of a catalog row: a ModelSpec, Accelerator, Link, Node, Fabric, Stack, or the bytes of a dtype.

    Raises:
        ParsimError: there is no such row.

    >>> from parsim.scenario import rows  # where the schemas are
    >>> rows.read("models", "gpt3-175b").hidden_size
    12288
    """
    row = catalog.row(kind, name)
    return SCHEMAS.get(kind).schema_of(row).model_validate(row).build(name)


def resolve(kind: str, ref: Any) -> Any:
    """The dataclass of a checked name or inline row."""
    return read(kind, ref) if isinstance(ref, str) else ref.build("")
