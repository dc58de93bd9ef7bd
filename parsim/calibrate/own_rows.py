"""Rows of a cluster to start from and to end with, and a factor as reports show it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from parsim import catalog, units
from parsim.calibrate.factor_fit import FoundFactor, JointFit
from parsim.calibrate.wires import Row
from parsim.errors import Fault, UnitError
from parsim.scenario.fields import merge
from parsim.scenario.inline import SCHEMAS, read

Cite = Callable[[Sequence[str]], str]


class OwnFactor(Struct, frozen=True):
    """A factor with the figure that it moves, by default, as found and as kept; errors are those of all factors of the same points."""

    name: str
    figure: str
    default: str
    fitted: str
    shrunk: str
    found: FoundFactor
    before: float
    after: float
    left_out: float
    left_out_by: str


class OwnCluster(Struct):
    """Rows that a scenario can name, the factors that they rest on, and what is wrong with the measurements."""

    node: Row
    fabric: Row | None
    stack: Row | None
    factors: list[OwnFactor] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


class RowBase(Struct):
    """A row to start from: as it is written, by its base, and with all its figures."""

    kind: str
    written: Row
    full: Row

    @classmethod
    def of(cls, kind: str, ref: Any) -> RowBase:
        """The row that a scenario names or holds."""
        if isinstance(ref, str):
            return cls(kind, {"base": catalog.find(kind, ref) or ref}, catalog.row(kind, ref))
        full = (
            merge(catalog.row(kind, ref["base"]), {key: each for key, each in ref.items() if key != "base"}) if "base" in ref else dict(ref)
        )
        return cls(kind, dict(ref), full)

    def build(self, changes: Mapping[str, Any]) -> Any:
        """Its struct with these figures in place of its own; of a row of the catalog as it is, that row's."""
        if not changes and [*self.written] == ["base"]:
            return read(self.kind, self.written["base"])
        return SCHEMAS.get(self.kind).model_validate(merge(self.written, dict(changes))).build("")

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(self.written.get("base") or self.written.get("name") or "inline")


def with_source(base: RowBase, changes: Row) -> Row:
    """The row as it is written with changes, and a source for each of them."""
    changes = dict(changes)
    cited: Mapping[str, str] = changes.pop("source", {})
    before = base.written.get("source", {})
    sources = {**(before if isinstance(before, dict) else {}), **cited}
    name = {} if "name" in base.written else {"name": f"{base.name}, calibrated"}
    return {**merge({**base.written, **name}, changes), **({"source": sources} if sources else {})}


def own_factor(name: str, figure: str, default: Any, fit: JointFit, move: Callable[[float, float], float]) -> OwnFactor:
    """What was found of the factor, with the figure of a row, a number or text with a unit, that `move` moves by it."""
    unit = next((each for each in ("s", "bytes/s") if isinstance(default, str) and _is_unit(default, each)), "")
    value, found = float(units.parse(default, unit) if unit else default), fit.factors[name]
    plain, fitted, shrunk = (
        units.format(each, unit) if unit else f"{each:.3g}" for each in (value, move(value, found.fitted), move(value, found.shrunk))
    )
    return OwnFactor(name, figure, plain, fitted, shrunk, found, fit.before, fit.after, fit.left_out, fit.left_out_by)


def _is_unit(text: str, unit: str) -> bool:
    try:
        units.parse(text, unit)
    except UnitError:
        return False
    return True
