"""What a scenario that was changed in Python is held to: its types, and what a file would be told of it.

Nothing of it is asked where a scenario is made, as a planner does, but once by a public function that is given one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf, isnan
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict, replace
from pydantic import ValidationError

from parsim.arguments import misfits
from parsim.described import breach
from parsim.model.tuning import Tuning
from parsim.parallel.tuning_faults import tuning_faults
from parsim.scenario.build import batch_faults
from parsim.scenario.clusters import has_one_layout
from parsim.scenario.disturbance_section import DisturbanceSection, disturbance_faults, section_of
from parsim.scenario.document import BatchSection, ClusterSection, DataSection, Sections, TuningSection
from parsim.scenario.fields import Section, complaints_of
from parsim.scenario.hardware import AcceleratorRow, FabricRow, NodeRow
from parsim.scenario.inputs import InputRow
from parsim.scenario.rows import StackRow
from parsim.scenario.storage import StorageRow

if TYPE_CHECKING:
    from parsim.model.spec import ModelSpec
    from parsim.scenario.types import Scenario


_LASTING: Final = ("storage", "input", "failures", "checkpoint")


def faults(scenario: Scenario) -> list[str]:
    """All that is wrong with it but for its plans, each with its place: types, or else values, or else what does not fit."""
    if scenario.cluster.groups:  # each kind by itself
        layouts = [has_one_layout([each.node]) for each in scenario.cluster.kinds]
        alike = zip(scenario.cluster.kinds, (replace(scenario.batch, one_layout=each) for each in layouts), strict=True)
        own = [said for kind, own in alike for said in faults(replace(scenario, cluster=kind, batch=own))]
        return own or [f"{'.'.join(map(str, place))}: {said}" for place, said in batch_faults(scenario)]
    if wrong := [*misfits(scenario)]:
        return wrong
    cluster, batch, stack = scenario.cluster, scenario.batch, scenario.stack
    node, accelerator = cluster.node, cluster.node.accelerator
    parts: list[tuple[str, type[Section], Struct | None]] = [
        *(("", Sections, scenario), ("batch.", BatchSection, batch), ("data.", DataSection, scenario.data), ("stack.", StackRow, stack)),
        *(("cluster.", ClusterSection, cluster), ("cluster.fabric.", FabricRow, cluster.fabric)),
        *(("storage.", StorageRow, scenario.storage), ("input.", InputRow, scenario.input)),
        *(("cluster.node.", NodeRow, node), ("cluster.node.accelerator.", AcceleratorRow, accelerator)),
    ]
    wrong = [f"model.{said}" for said in scenario.model.misfits()]
    wrong += [*_faults_of_tuning(scenario.model)]
    wrong += [said for place, section, part in parts if part is not None for said in _values(place, section, part)]
    wrong += [*_figures("cluster", cluster), *_figures("stack", stack), *_figures("total_tokens", scenario.total_tokens)]
    wrong += [*_figures("storage", scenario.storage), *_figures("input", scenario.input)]
    wrong += [*_figures("failures", scenario.failures), *_figures("checkpoint", scenario.checkpoint)]
    wrong += [said for place in _LASTING for said in _endless_figures(place, getattr(scenario, place))]
    if scenario.failures is None and (kept := scenario.checkpoint) and kept.interval_s is None and kept.interval_steps is None:
        wrong.append("checkpoint.interval: the optimum follows from how often a run fails: give failures, too, or interval_s")
    settings = {name: (getattr(scenario.training, name), each.about) for name, each in type(scenario.training).told.items()}
    wrong += [f"training.{name} {said}" for name, (value, limits) in settings.items() if (said := breach(value, limits))]
    wrong += [*_faults_of_disturbance(scenario)]
    if batch.one_layout != (of_node := has_one_layout([node])):  # which a file does not say: it follows
        wrong.append(f'batch.one_layout = {batch.one_layout}, but of accelerator "{accelerator.name}" it is {of_node}')
    found = () if wrong else batch_faults(scenario)
    return list(dict.fromkeys([*wrong, *(f"{'.'.join(map(str, place))}: {said}" for place, said in found)]))


def _faults_of_tuning(model: ModelSpec) -> Iterator[str]:
    """What a file is told of its section `tuning`, or what it would make of it."""
    own, nothing = asdict(model.tuning), asdict(Tuning())
    stated = {key: [*value] if isinstance(value, tuple) else value for key, value in own.items() if value != nothing[key]}
    try:
        meant = TuningSection.model_validate(stated).build()
    except ValidationError as error:
        yield from (f"tuning.{'.'.join(map(str, place))}: {said}" for place, said in complaints_of(error))
        return
    unlike = [name for name, value in asdict(meant).items() if own[name] != value]
    yield from (f"tuning.{name} = {own[name]!r}, where a file would say {getattr(meant, name)!r}" for name in unlike)
    if not unlike:
        yield from (f"tuning.{key}: {said}" for key, said in tuning_faults(model))


def _faults_of_disturbance(scenario: Scenario) -> Iterator[str]:
    """What a file is told of its section `disturbance`."""
    if scenario.disturbance is None:
        return
    try:
        DisturbanceSection.model_validate(section_of(scenario.disturbance))
        found = [*disturbance_faults(scenario.disturbance, scenario.cluster.num_devices, scenario.cluster.num_nodes)]
    except ValidationError as error:
        found = complaints_of(error)
    yield from (f"disturbance.{'.'.join(map(str, place))}: {said}" for place, said in found)


def _endless_figures(place: str, value: Any) -> Iterator[str]:
    """Figures of storage and failures without end, and times between two events that are 0."""
    for name in value.__struct_fields__ if isinstance(value, Struct) else ():
        each = getattr(value, name)
        if isinstance(each, Struct):
            yield from _endless_figures(f"{place}.{name}", each)
        elif isinstance(each, float) and isinf(each):
            yield f"{place}.{name} must be finite, not {each}"
        elif each == 0 and (name.endswith("mtbf_s") or name in ("interval_s", "interval_steps", "nodes_per_switch", "keep")):
            yield f"{place}.{name} must be above 0, not {each}"


def _values(before: str, section: type[Section], part: Struct) -> Iterator[str]:
    """What a file is told of such names, counts and shares; quantities, which it has as text, are told by `_figures`."""
    names, defaults = type(part).__struct_fields__, type(part).__struct_defaults__
    meant = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))  # by a file that leaves a key out
    fields = {key: getattr(part, key) for key in section.model_fields if key in names}
    fields = {key: value for key, value in fields.items() if section.model_fields[key].default is not None or value != meant.get(key)}
    stated = {key: [*value] if isinstance(value, tuple) else value for key, value in fields.items() if _is_plain(value)}
    try:
        section.model_validate(stated)
    except ValidationError as error:
        found = complaints_of(error)
        yield from (f"{before}{'.'.join(map(str, place))}: {said}" for place, said in found if place and place[0] in stated)


def _is_plain(value: Any) -> bool:
    """Whether it is a name, a number, or some of these."""
    held = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
    return value != () and all(isinstance(each, str | int | float) for each in held)


def _figures(place: str, value: Any) -> Iterator[str]:
    """What no quantity of hardware or software can be: below 0, or 0 where one divides by it, as by rates and efficiencies; names of
    fields end with their units (CONTRIBUTING, Style)."""
    if isinstance(value, Struct):
        for name in value.__struct_fields__:
            yield from _figures(f"{place}.{name}", getattr(value, name))
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _figures(f"{place}.{key}", each)
    elif isinstance(value, tuple):
        for each in value:
            yield from _figures(place, each)
    elif isinstance(value, int | float) and (value < 0 or isnan(value)):
        yield f"{place} must be at least 0, not {value}"
    elif value == 0 and ("_per_s" in place or place.endswith("efficiency")) and "per_sqrt" not in place:
        yield f"{place} must be above 0, not {value}"
