"""Lengths of sequences: a list, a file of them (CSV with a column tokens, or a JSON list), or drawn from a named distribution."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import AfterValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from parsim.errors import ParsimError, ScenarioError
from parsim.scenario.fields import INLINE, LIST, Natural, Section, complaint
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.named_files import PlacedRows, content_of, file_of, name_in
from parsim.scenario.tree import Tree, show

COLUMN: Final = "tokens"
MOST_SEQUENCES: Final = 100_000
MOST_TOKENS: Final = 1_000_000_000
_MOST_BYTES: Final = 10_000_000
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "lognormal": ("median", "sigma"),
    "normal": ("mean", "standard_deviation"),
    "exponential": ("mean",),
    "uniform": ("least", "most"),
}
_DRAWS: Final[Mapping[str, Callable[..., Any]]] = {
    "lognormal": lambda rng, count, median, sigma: rng.lognormal(np.log(median), sigma, count),
    "normal": lambda rng, count, mean, standard_deviation: rng.normal(mean, standard_deviation, count),
    "exponential": lambda rng, count, mean: rng.exponential(mean, count),
    "uniform": lambda rng, count, least, most: rng.integers(least, most, count, endpoint=True),
}
_Positive = Annotated[float, Field(gt=0, le=MOST_TOKENS)] | None


class DistributionSection(Section):
    """A distribution of lengths, of which some are drawn."""

    distribution: Literal["lognormal", "normal", "exponential", "uniform"] = Field(description="what lengths follow, in tokens")
    median: _Positive = Field(None, description="of a lognormal distribution")
    sigma: Annotated[float, Field(ge=0, le=10)] | None = Field(None, description="of a lognormal one: the deviation of the logarithm")
    mean: _Positive = Field(None, description="of a normal or an exponential one")
    standard_deviation: Annotated[float, Field(ge=0, le=MOST_TOKENS)] | None = Field(None, description="of a normal one")
    least: Natural | None = Field(None, description="of a uniform one")
    most: Natural | None = Field(None, description="of a uniform one")
    num_sequences: Annotated[int, Field(gt=0, le=MOST_SEQUENCES)] = Field(1000, description="how many are drawn")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="the seed of the draw")

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        own = _PARAMETERS[self.distribution]
        for name in dict.fromkeys(name for names in _PARAMETERS.values() for name in names):
            if (getattr(self, name) is None) == (name in own):
                raise complaint(
                    f"distribution = {self.distribution} has {' and '.join(own)}; {'give' if name in own else 'leave out'} {name}"
                )
        if self.distribution == "uniform" and self.least and self.most and self.least > self.most:
            raise complaint(f"least = {self.least} is above most = {self.most}")
        return self

    def draw(self) -> tuple[int, ...]:
        """Whole tokens, each at least 1."""
        parameters = {name: getattr(self, name) for name in _PARAMETERS[self.distribution]}
        found = _DRAWS[self.distribution](np.random.default_rng(self.seed), self.num_sequences, **parameters)
        return tuple(np.clip(np.rint(found), 1, MOST_TOKENS).astype(np.int64).tolist())


class _OrFile:
    """Annotates what a file may hold, too, which was read before the scenario is checked."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "string", "pattern": f"^{ROW_FILE}."}]}


_List = Annotated[list[Natural], Field(min_length=1, max_length=MOST_SEQUENCES), AfterValidator(tuple)]
_Drawn = Annotated[DistributionSection, AfterValidator(lambda section: section.draw())]
Lengths = Annotated[
    Annotated[_List, Tag(LIST)] | Annotated[_Drawn, Tag(INLINE)],
    Discriminator(lambda value: LIST if isinstance(value, list | tuple) else INLINE),
    _OrFile(),
]


def with_lengths(value: Any, tree: Tree) -> Any:
    """The values, with the lengths that a file holds in place of its name; a fault of it becomes one of the tree."""
    batch = value.get("batch") if isinstance(value, dict) else None
    name = name_in(batch.get("lengths")) if isinstance(batch, dict) else None
    if not isinstance(batch, dict) or name is None:
        return value
    found = {key: each for key, each in batch.items() if key not in ("lengths", "packing")}
    try:
        lengths = _of_file(file_of(name, tree))
        found |= {**({"packing": batch["packing"]} if "packing" in batch else {}), "lengths": lengths}
    except ParsimError as error:
        tree.faults.append(tree.fault(("batch", "lengths"), error.what))
    return {**value, "batch": found}


def _of_file(path: Path) -> list[int]:
    """The lengths in a file.

    Raises:
        ScenarioError: it cannot be read, or is no such file.
    """
    found = content_of(path, _MOST_BYTES, MOST_SEQUENCES, _of_list, _of_rows)
    if not found:
        raise ScenarioError(f"{path.name}: has no lengths; give 1 to {MOST_SEQUENCES:,}, in CSV a row each, in JSON a list")
    for where, each in found.items():
        if not isinstance(each, int) or isinstance(each, bool) or not 0 < each <= MOST_TOKENS:
            raise ScenarioError(f"{path.name}: {where}: a length must be a whole number of tokens, 1 at least, not {show(each)}")
    return [*found.values()]


def _of_list(value: object) -> dict[str, Any]:
    if not isinstance(value, list):
        raise ScenarioError("a JSON file of lengths is a list of them")
    if len(value) > MOST_SEQUENCES:
        raise ScenarioError(f"has {len(value):,} lengths; give {MOST_SEQUENCES:,} at most")
    return {f"entry {place}": each for place, each in enumerate(value)}


def _of_rows(rows: PlacedRows, names: list[str]) -> dict[str, Any]:
    """Each length, by where it stands."""
    if COLUMN not in names:
        raise ScenarioError(f"a CSV file of lengths has a column {COLUMN}, and here is none (it has {', '.join(names)[:50]})")
    texts = {where: str(row[COLUMN]).strip() for where, row in rows}
    return {where: int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else text for where, text in texts.items()}
