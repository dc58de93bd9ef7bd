"""What a sweep asks: its scenarios, each as a point for each combination of the values that vary over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Struct
from msgspec.structs import replace
from pydantic import Field, ValidationError

from parsim.errors import Fault, ScenarioError
from parsim.scenario import Scenario, tree
from parsim.scenario.build import build
from parsim.scenario.changes import Change
from parsim.scenario.fields import Section, Text, complaints_of, optional
from parsim.scenario.tree import Tree

NAMED: Final = "named"  # what is asked of each point: every plan without open axes; or the best of each space; or the plan so called
BEST: Final = "best"
_MOST: Final = 1_000_000
_NONE: Final[Mapping[str, Any]] = {}
_NOWHERE: Final = ("unknown key", "no plan")  # how a fault begins that no value mends
SweepSource = str | Path | Mapping[str, Any]


class SweepSection(Section):
    """A sweep file."""

    place: ClassVar[str | None] = None
    schema_version: Literal[1] = Field(1, alias="schema", description="the version of this format")
    name: Text = Field("", description="a name for reports; that of the file where left out")
    scenario: Annotated[list[Text], Field(min_length=1)] = Field(description="the scenario file, or a list of some, as seen from here")
    over: dict[Text, Annotated[list[Any], Field(min_length=1)]] = optional(
        dict, "values by the path of what varies: {cluster.num_nodes: [1, 2]}"
    )
    combine: Literal["product", "zip"] = Field("product", description="each value with each, or the first with the first")
    plan: Text = Field(NAMED, description="the plans of each point: named, best (of its open axes), or one by its name")


class SweepPoint(Struct, frozen=True):
    """A scenario with what was changed in it; `plan`: what is asked of it."""

    base: Tree
    changes: tuple[tuple[str, Any], ...]
    plan: str

    def build(self) -> BuiltPoint:
        """The scenario without the plans at fault; these are told apart from what is wrong with all of it."""
        return _build(self.base, self.changes)


class BuiltPoint(Struct, frozen=True):
    """What came of a point."""

    name: str
    scenario: Scenario | None  # None: none of it can be estimated
    plans: Mapping[str, Any]  # as they were written
    faults: tuple[Fault, ...]
    by_plan: Mapping[str, str]  # what is wrong with a plan

    @property
    def own_faults(self) -> str:
        """What is wrong with the scenario, whatever its plans; "" where nothing is."""
        return "; ".join(_words(each) for each in self.faults if _plan_of(each, self.plans) is None)

    def names(self, plan: str) -> tuple[str, ...]:
        """The names of what `plan` asks for."""
        spaces = tuple(self.scenario.spaces) if self.scenario else ()
        if plan == BEST:
            wrong = (name for name in self.by_plan if any(each == "auto" or isinstance(each, list) for each in self.plans[name].values()))
            return (*spaces, *wrong) or (BEST,)
        if plan == NAMED:
            return tuple(name for name in self.plans if name not in spaces) or tuple(self.plans) or ("",)
        return (plan,)

    def reason(self, name: str) -> str:
        """Why a plan cannot be estimated; "" where it can."""
        if self.scenario and name not in (*self.plans, BEST):
            return f"no plan '{name}': plans here are {', '.join(self.plans)}"
        return self.by_plan.get(name, self.own_faults) or ("" if self.scenario else "; ".join(self.by_plan.values()))


class Sweep(Struct, frozen=True):
    """All points, in their order."""

    name: str
    points: tuple[SweepPoint, ...]


def read_sweep(
    sources: Sequence[SweepSource], plan: str | None = None, over: Mapping[str, Sequence[Any]] = _NONE, changes: Mapping[str, Any] = _NONE
) -> Sweep:
    """The points of sweep files and scenarios; `plan` and `over` in place of what the files say, or beside it; `changes` in all points.

    Raises:
        ScenarioError: a file is wrong, other than in what varies; the error holds all faults.
    """
    points: list[SweepPoint] = []
    names = []
    for source in sources:
        read = tree.of(source, "scenario") if isinstance(source, Mapping) else tree.read(source)
        section, bases = _sweep_of(read)
        values = {**section.over, **{path: list(each) for path, each in over.items()}}
        rows = [(*changes.items(), *row) for row in _rows(read, values, section.combine)]
        own = [SweepPoint(base, row, plan or section.plan) for base in bases for row in rows]
        _check(own, read)
        points += own
        names.append(section.name or (Path(read.path).stem if bases[0] is not read else ""))
    return Sweep(names[0] if len(names) == 1 and names[0] else "sweep", tuple(points))


def _sweep_of(read: Tree) -> tuple[SweepSection, list[Tree]]:
    """What a file says, and the scenarios that it names; a scenario file names itself."""
    value = read.value
    if not isinstance(value, dict) or not value.keys() & {"scenario", "over"}:
        return SweepSection.model_construct(scenario=[read.path]), [read]  # a path may hold what is no text
    if isinstance(value.get("scenario"), str):
        value = {**value, "scenario": [value["scenario"]]}
    try:
        section = SweepSection.model_validate(value)
    except ValidationError as error:
        raise ScenarioError.of([*read.faults, *(read.fault(place, said) for place, said in complaints_of(error))]) from None
    if read.faults:
        raise ScenarioError.of(read.faults)
    return section, [tree.read(Path(read.path).parent / each) for each in section.scenario]


def _rows(read: Tree, over: Mapping[str, list[Any]], combine: str) -> Iterator[tuple[tuple[str, Any], ...]]:
    """What each point changes, the last path the fastest."""
    lengths = {path: len(values) for path, values in over.items()}
    if combine == "zip" and len(set(lengths.values())) > 1:
        said = ", ".join(f"{path} {length}" for path, length in lengths.items())
        raise ScenarioError.of([read.fault(("over",), f"zip takes lists of one length, and these have: {said}; or leave combine out")])
    if combine == "product" and math.prod(lengths.values()) > _MOST:
        raise ScenarioError.of([read.fault(("over",), f"makes {math.prod(lengths.values()):,} points; at most {_MOST:,}")])
    rows = zip(*over.values(), strict=True) if combine == "zip" and over else itertools.product(*over.values())
    return (tuple(zip(over, row, strict=True)) for row in rows)


def _check(points: Sequence[SweepPoint], read: Tree) -> None:
    """Refuse what is wrong whatever varies: in the scenario as it is written, or a path that leads nowhere, where the sweep file has it.

    Raises:
        ScenarioError: something is.
    """
    first, last = points[0].build(), points[-1].build()
    written = _build(points[0].base, ()).faults
    wrong = [each for each in first.faults if each in last.faults and (each in written or each.message.startswith(_NOWHERE))]
    if any(_plan_of(each, first.plans) is None or each.message.startswith(_NOWHERE) for each in wrong):
        raise ScenarioError.of(_stated_at(each, points[0], read) for each in wrong)
    if points[0].plan not in (NAMED, BEST, *first.plans) and first.scenario:
        first.scenario.plan(points[0].plan)


def _stated_at(fault: Fault, point: SweepPoint, read: Tree) -> Fault:
    """The fault; of a path that varies over values of the sweep file, at its place there."""
    places = (("over", path) for path, _ in point.changes if f"{fault.where}.".startswith(f"{path}."))
    place = next((each for each in places if each in read.spots), None)
    return fault if fault.line or place is None else read.fault(place, fault.message)


def _build(base: Tree, changes: Sequence[tuple[str, Any]], without: Collection[str] = ()) -> BuiltPoint:
    own = [Change(path, value, path) for path, value in changes if not any(f"{path}.".startswith(f"plans.{name}.") for name in without)]
    changed = replace(base, value=_less(base.value, without), faults=list(base.faults), changed={})
    scenario, faults = build(changed, Path(base.path).stem, own)
    told = [
        each if each.path == base.path else replace(each, path=base.path, where=f"{each.path}.{each.where}".rstrip(".")) for each in faults
    ]
    value = changed.value if isinstance(changed.value, dict) else {}
    plans = value["plans"] if isinstance(value.get("plans"), dict) else {}
    by_plan: dict[str, str] = {}
    for each in told:
        if name := _plan_of(each, plans):
            by_plan[name] = f"{by_plan[name]}; {_words(each)}" if name in by_plan else _words(each)
    found = BuiltPoint(str(value.get("name") or Path(base.path).stem), scenario, plans, tuple(told), by_plan)
    if scenario or found.own_faults or len(by_plan) == len(plans):
        return found
    return replace(found, scenario=_build(base, changes, by_plan).scenario)


def _less(value: Any, plans: Collection[str]) -> Any:
    """The values of a scenario without some of its plans, and without what somebody measured, which says nothing of another point."""
    if not isinstance(value, dict) or not isinstance(value.get("plans"), dict):
        return value
    kept = {name: each for name, each in value["plans"].items() if name not in plans}
    return {**{key: each for key, each in value.items() if key != "measured"}, "plans": kept}


def _plan_of(fault: Fault, plans: Mapping[str, Any]) -> str | None:
    """The plan that a fault is of; None: of no plan."""
    own = [name for name in plans if f"{fault.where}.".startswith(f"plans.{str(name)[:80]}.")]
    return max(own, key=len, default=None)


def _words(fault: Fault) -> str:
    return f"{fault.where}: {fault.message}" if fault.where else fault.message
