"""What the fields of rows and scenario files are made of: quantities with units, known names, names or inline rows, open axes.

Section turns pydantic's complaints into parsim's sentences, each with the legal values and the way out.  Files of sections have no
`from __future__ import annotations`: pydantic would compile each annotation again, those of a base for each class that has it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag, ValidationError, model_validator
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from parsim import catalog, units
from parsim.described import BOUNDS
from parsim.errors import ParsimError, did_you_mean
from parsim.scenario import asked
from parsim.scenario.tree import Place, show

T = TypeVar("T")
# Tags stand in pydantic's places; no key of a file is likely to be one.
NAME, INLINE, VALUE, LIST, AUTO, WRITTEN = "<name>", "<inline>", "<value>", "<list>", "<auto>", "<written>"
TAGS: Final = (NAME, INLINE, VALUE, LIST, AUTO, WRITTEN, "[key]")

Natural = Annotated[int, Field(gt=0, le=1_000_000_000)]
Whole = Annotated[int, Field(ge=0, le=1_000_000_000)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(max_length=10_000)]
# Least and most of each unit: far beyond any hardware, and far from where floats and int64 picoseconds end.
RANGES: Final[Mapping[str, tuple[str, str]]] = {
    "s": ("0 s", "10000 s"),
    "bytes": ("0 B", "1 EB"),
    "bytes/s": ("1 B/s", "1 EB/s"),
    "FLOP/s": ("1 FLOP/s", "1 EFLOP/s"),
    "s/sqrt(bytes)": ("0 s/sqrt(B)", "1 s/sqrt(B)"),
    "W": ("1 W", "1 MW"),
    "USD": ("0 USD", "1 MUSD"),
    "token": ("1", "1000000 T"),
}


class Quantity:
    """Annotates a float as text with a unit, e.g. "80 GiB"; the value is in base units, and not 0 without `zero`.

    It lies in the unit's RANGES, or up to `most`.
    """

    def __init__(self, unit: str, *, zero: bool = False, most: str = "") -> None:
        self.unit, self.zero = unit, zero
        self.range = (RANGES[unit][0], most or RANGES[unit][1])
        self.least, self.most = (units.parse(each, unit) for each in self.range)

    def check(self, value: object) -> float | int:
        """The value in base units."""
        try:
            parsed = units.parse(value if not isinstance(value, dict | list) else show(value), self.unit)
        except ParsimError as error:
            raise complaint(error.what) from None
        if parsed < 0 or (parsed == 0 and not self.zero):
            raise complaint(f"must be {'at least' if self.zero else 'above'} 0, not '{value}'")
        if not self.least <= parsed <= self.most:
            raise complaint(f"must be from {self.range[0]} to {self.range[1]}, not '{value}'")
        return parsed

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: object) -> dict[str, Any]:
        counts = self.unit == "token"  # which may do without its unit
        return {
            "type": ["string", "number"] if counts else "string",
            "pattern": r"^\s*[+]?[0-9.]+([eE][+-]?[0-9]+)?" + ("" if counts else r"\s*[A-Za-zµ]"),
            "description": f"a number and a unit of {self.unit}, from {self.range[0]} to {self.range[1]}",
        }


class Known:
    """Annotates text as one of some names: of the rows of a kind of the catalog, or of what `names` lists.

    Text that starts with `prefix` is legal in a file too: what it names was read before the file is checked.  So is text that `also` reads.
    """

    def __init__(
        self,
        kind: str,
        names: Callable[[], tuple[str, ...]] | None = None,
        *,
        prefix: str = "",
        also: Callable[[str], object] | None = None,
    ) -> None:
        self.what, self.prefix, self.also = kind.removesuffix("s"), prefix, also
        self.kind = "" if names else kind
        self.names = names or (lambda: catalog.names(kind))

    def check(self, name: str) -> str:
        """The name, if it is known; an alias becomes the name of its row."""
        if name in self.names() or (self.also and self.also(name)):
            return name
        if self.kind and (found := catalog.find(self.kind, name)):
            return found
        near = asked.about_value(self.what, name, self.names())
        raise complaint(f"unknown {self.what} {show(name)}{near}; known: {', '.join(self.names())}")

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, core_schema.str_schema(strict=True))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: object) -> dict[str, Any]:
        return self.json_schema()

    def json_schema(self) -> dict[str, Any]:
        """What an editor should know: the names, and text that starts with `prefix`."""
        known: dict[str, Any] = {"type": "string", "enum": [*self.names(), *(catalog.aliases(self.kind) if self.kind else ())]}
        return {"anyOf": [known, {"type": "string", "pattern": f"^{self.prefix}."}]} if self.prefix else known


def name_or_inline(value: object) -> str | None:
    """The tag of text, or of a mapping."""
    return NAME if isinstance(value, str) else INLINE if isinstance(value, dict | BaseModel) else None


NAME_OR_INLINE: Final = Discriminator(name_or_inline)


def _axis_form(value: object) -> str:
    return LIST if isinstance(value, list) else AUTO if value == "auto" else VALUE


def _list_axis_form(value: object) -> str:
    is_value = isinstance(value, list) and not any(isinstance(each, list) for each in value)
    return VALUE if is_value else _axis_form(value)


# An axis of a plan: a value, `auto`, or a list for the planner to choose from.
Axis = Annotated[
    Annotated[T, Tag(VALUE)] | Annotated[list[T], Field(min_length=1), Tag(LIST)] | Annotated[Literal["auto"], Tag(AUTO)],
    Discriminator(_axis_form),
]
# The same of values that are lists themselves: [5, 7] is one, [[5, 7], [7, 5]] a list of two.
ListAxis = Annotated[
    Annotated[T, Tag(VALUE)] | Annotated[list[T], Field(min_length=1), Tag(LIST)] | Annotated[Literal["auto"], Tag(AUTO)],
    Discriminator(_list_axis_form),
]


class Section(BaseModel):
    """A mapping of a scenario file or the catalog; a `kind` lets it start from the catalog row named by `base`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)
    kind: ClassVar[str] = ""
    place: ClassVar[str | None] = None  # the section of a scenario that it is; None: a part of one
    hints: ClassVar[Mapping[str, str]] = {}  # keys that people write for its own, beside those of asked.py
    derived: ClassVar[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {}  # key -> what it is where left out, from the other keys

    @model_validator(mode="wrap")
    @classmethod
    def _speak(cls, value: Any, handler: Callable[[Any], Any]) -> Any:
        """Complain in our words; the row's own keys are known here, so the nearest can be named."""
        if cls.kind and isinstance(value, dict) and "base" in value:
            value = {**_from_base(cls, value), "base": value["base"]}
        try:
            return handler(value)
        except ValidationError as error:
            details = [
                InitErrorDetails(type=complaint(cls._sentence(each)), loc=each["loc"], input=each["input"]) for each in error.errors()
            ]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def follow_changes(cls, row: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        """Figures of a catalog row that change with others of it, and are not among the changes."""
        return {}

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        key = next((str(each) for each in reversed(error["loc"]) if each not in TAGS), "")
        if error["type"] == "extra_forbidden":
            if key in cls.hints:
                return f"unknown key (did you mean '{cls.hints[key]}'?)"
            if cls.place is not None and (said := asked.about_key(cls.place, key, fields, nested=isinstance(error["input"], list | dict))):
                return f"unknown key{said}"
            return f"unknown key{did_you_mean(key, fields)}; keys here: {', '.join(fields)}"
        if error["type"] == "missing":
            return f"missing; give {fields[key].description or 'a value'}" if key in fields else "missing"
        return _sentence(error, key)


def optional(kind: Callable[[], Any], description: str) -> Any:
    """The field of a list or dict that `kind` makes where left out; of a type as factory pydantic would parse the signature."""
    return Field(default_factory=lambda: kind(), description=description)


def complaints_of(error: ValidationError) -> list[tuple[Place, str]]:
    """Place and sentence of each complaint about a section."""
    return [(tuple(each for each in one["loc"] if each not in TAGS), str(one["ctx"]["sentence"])) for one in error.errors()]


def complaint(sentence: str) -> PydanticCustomError:
    """The pydantic error that says `sentence`, and is passed on as it is."""
    return PydanticCustomError("parsim", "{sentence}", {"sentence": sentence})


def _sentence(error: ErrorDetails, key: str) -> str:
    context, shown = error.get("ctx", {}), show(error["input"])
    match error["type"]:
        case "parsim":
            return str(context["sentence"])
        case "literal_error":
            legal = re.findall(r"'([^']*)'", str(context["expected"])) or [str(context["expected"])]
            near = asked.about_value(key, error["input"], legal) if isinstance(error["input"], str) else ""
            return f"cannot be {shown}{near}; legal: {', '.join(legal)}"
        case "too_short":
            return "must not be empty"
    bounds = [f"must be {words} {context[bound]:g}" for bound, (words, _) in BOUNDS.items() if bound in context]
    wanted = f"must be {_WANTED[error['type']]}" if error["type"] in _WANTED else error["msg"]
    return f"{next(iter(bounds), wanted)}, not {shown}"


_WANTED: Final = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
    "int_parsing_size": "a whole number of fewer digits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    **dict.fromkeys(("model_type", "dict_type"), "a mapping"),
    "list_type": "a list",
    "union_tag_not_found": "a name or a mapping",
    "invalid_key": "text",
}


def _from_base(section: type[Section], value: dict[str, Any]) -> dict[str, Any]:
    """The catalog row that `value` starts from, with its changes; a changed figure loses the catalog's source.

    A figure of the row that is as derived from its others is left out, and so derived anew with the changes.
    """
    base = value["base"] if isinstance(value["base"], str) else show(value["base"])
    try:
        row = catalog.row(section.kind, Known(section.kind).check(base))
    except PydanticCustomError as error:
        details = InitErrorDetails(type=error, loc=("base",), input=value["base"])
        raise ValidationError.from_exception_data(section.kind, [details]) from None
    changes = {key: each for key, each in value.items() if key != "base"}
    changes = {**section.follow_changes(row, changes), **changes}
    row["source"] = {figure: source for figure, source in row.get("source", {}).items() if figure not in changes}
    follows = [key for key, rule in section.derived.items() if key in row and key not in changes and row[key] == rule(row)]
    return merge({key: each for key, each in row.items() if key not in follows}, changes)


def merge(row: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The row with changes in place of its figures, key by key inside mappings, too."""
    both = {key for key, each in changes.items() if isinstance(each, dict) and isinstance(row.get(key), dict)}
    return {**row, **{key: merge(row[key], each) if key in both else each for key, each in changes.items()}}
