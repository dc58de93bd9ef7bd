"""From the values of a file to a Scenario: every fault of the file is found before the first is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from parsim import catalog, data, schedules
from parsim.cluster import Cluster, Node
from parsim.errors import Fault, ParsimError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel import legality, sharding_faults
from parsim.parallel.plan import KEYS, Batch, Plan, Stack
from parsim.scenario import huggingface
from parsim.scenario.document import ClusterSection, Document, MeasuredSection, PlanSection, Sections
from parsim.scenario.fields import TAGS
from parsim.scenario.hardware import ROW_FILE
from parsim.scenario.rows import read, resolve
from parsim.scenario.tree import Place, Tree
from parsim.scenario.tree import read as read_file
from parsim.scenario.types import DataSpec, Measured, PlanSpace, Scenario, Training

_WHOLE: Final = tuple(name for name, key in KEYS.items() if key.type.startswith("tuple"))  # no planner varies these


@dataclass(slots=True)
class _Parts:
    """What could be built so far; None where the file is at fault."""

    model: ModelSpec | None = None
    node: Node | None = None
    cluster: Cluster | None = None
    num_devices: int | None = None
    batch: Batch | None = None
    stack: Stack | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    spaces: dict[str, PlanSpace] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)


def build(tree: Tree, default_name: str) -> tuple[Scenario | None, list[Fault]]:
    """The scenario, or None and its faults in the order of the file, each once."""
    found = list(tree.faults)
    scenario = None
    if tree.value is not None or not found:
        value = _with_machine(_with_config(tree, found), tree, found)
        sections, complaints = _sections(value)
        parts = _Parts()
        complaints += _relations(sections, parts, value if isinstance(value, dict) else {})
        # A value that YAML could not give is missing now: what that leads to at the same place was told already.
        told = {fault.where for fault in found}
        found += [fault for fault in (tree.fault(place, message) for place, message in complaints) if fault.where not in told]
        if not found:
            scenario = _scenario(sections, parts, tree.path, default_name)
    unique = list(dict.fromkeys(found))
    return scenario, sorted(unique, key=lambda fault: (fault.line, fault.column, fault.where))


def _with_config(tree: Tree, found: list[Fault]) -> Any:
    """The values, with the row that a Hugging Face config describes in place of its name; a fault of it is added to `found`."""
    value = tree.value
    name = value.get("model") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.startswith(huggingface.PREFIX):
        return value
    others = {key: each for key, each in value.items() if key != "model"}
    batch = value.get("batch")
    tokens = batch.get("sequence_length") if isinstance(batch, dict) else None
    path = Path(tree.path).parent / name.removeprefix(huggingface.PREFIX)
    try:
        return {**others, "model": huggingface.row(path, name, tokens if type(tokens) is int else None)}
    except ParsimError as error:
        found.append(tree.fault(("model",), error.what))
        return others


def _with_machine(value: Any, tree: Tree, found: list[Fault]) -> Any:
    """The values, with the row that stands in a file in place of the node's name; a fault of it is added to `found`."""
    cluster = value.get("cluster") if isinstance(value, dict) else None
    name = cluster.get("node") if isinstance(cluster, dict) else None
    if not isinstance(cluster, dict) or not isinstance(name, str) or not name.startswith(ROW_FILE):
        return value
    path = Path(tree.path).parent / name.removeprefix(ROW_FILE)
    row = read_file(path)
    if isinstance(row.value, dict):
        return {**value, "cluster": {**cluster, "node": row.value}}
    what = "; ".join(str(fault) for fault in row.faults) or f"{path}: is no mapping; a node's row is one"
    found.append(tree.fault(("cluster", "node"), what))
    return {**value, "cluster": {key: each for key, each in cluster.items() if key != "node"}}


def _sections(value: Any) -> tuple[Sections, list[tuple[Place, str]]]:
    """The sections without fault, and what is wrong with the others."""
    if not isinstance(value, dict):
        return Sections.model_validate({}), [((), "a scenario is a mapping with the keys model, cluster, batch and plans")]
    try:
        return Document.model_validate(value), []
    except ValidationError as error:
        complaints: list[tuple[Place, str]] = [
            (tuple(each for each in one["loc"] if each not in TAGS), str(one["ctx"]["sentence"])) for one in error.errors()
        ]
    return Sections.model_validate(_without(value, [place for place, _ in complaints])), complaints


def _without(value: dict[Any, Any], places: list[Place]) -> dict[Any, Any]:
    """The value less the sections at fault: of plans and measured only the entries, of cluster only the fabric, where no more is."""
    pairs = {place[:2] for place in places if len(place) > 1}
    entries = {pair for pair in pairs if pair[0] in ("plans", "measured") or pair == ("cluster", "fabric")}
    whole = {place[0] for place in places if place and place[:2] not in entries}
    good = {key: each for key, each in value.items() if key not in whole}
    for section in ("plans", "measured", "cluster"):
        if isinstance(good.get(section), dict):
            good[section] = {key: each for key, each in good[section].items() if (section, key) not in entries}
    return good


def _relations(sections: Sections, parts: _Parts, value: dict[Any, Any]) -> Iterator[tuple[Place, str]]:
    parts.stack = resolve("stacks", sections.stack)
    if sections.model is not None:
        parts.model = resolve("models", sections.model)
    if sections.cluster is not None:
        yield from _cluster(sections.cluster, parts, value["cluster"].get("fabric") is not None)
    if sections.batch is not None:
        parts.batch = Batch(**dict(sections.batch))
        yield from _batch(parts, parts.batch)
    if sections.data is not None and parts.model is not None and parts.batch is not None:
        said = data.fault(sections.data.name, parts.model, parts.batch.sequence_length)
        if said:
            yield ("data", "name"), said
    for name, plan in sections.plans.items():
        place = ("plans", name)
        if any(value == "auto" or isinstance(value, list) for axis, value in plan if axis not in _WHOLE):
            parts.spaces[name] = _space(name, plan)
            yield from _fixed_keys(place, plan, parts)
        else:
            yield from _plan(place, plan, parts)
    stated = value.get("plans")
    plans = [each for each in stated if isinstance(each, str)] if isinstance(stated, dict) else []
    for name, measured in sections.measured.items():
        yield from _measurement(name, measured, plans, parts)


def _fixed_keys(place: tuple[str, str], section: PlanSection, parts: _Parts) -> Iterator[tuple[Place, str]]:
    """What is wrong with the keys that no planner varies, of a plan with open axes."""
    values = _values(section)
    plan = Plan(**{axis: values[axis] for axis in _WHOLE})
    found = [*sharding_faults.unknown_dimensions(plan)]
    if parts.model is not None and parts.stack is not None:
        found += sharding_faults.recompute_ops(plan, parts.model, parts.stack)
    for fault in found:
        yield (*place, fault.field), str(fault)


def _cluster(section: ClusterSection, parts: _Parts, states_fabric: bool) -> Iterator[tuple[Place, str]]:
    node: Node = resolve("nodes", section.node)
    parts.node, parts.num_devices = node, section.num_nodes * node.devices_per_node
    for operation, algorithm in parts.stack.collectives.items() if parts.stack else ():
        if algorithm == "in_network" and not node.switch_adds:
            yield ("stack",), f'{operation} by in_network needs a switch that adds, which node "{node.name}" has not (switch_adds)'
    if section.num_nodes > 1 and section.fabric is None:
        if not states_fabric:  # one that is stated, and wrong, was told already
            yield ("cluster", "fabric"), f"missing: {section.num_nodes} nodes need a fabric; known: {', '.join(catalog.names('fabrics'))}"
        return
    fabric = resolve("fabrics", section.fabric) if section.fabric is not None else None
    if section.num_nodes > 1 and node.num_nics == 0:
        yield ("cluster", "node"), f'{section.num_nodes} nodes need NICs, but node "{node.name}" has num_nics = 0'
        return
    try:
        parts.cluster = Cluster(node, section.num_nodes, fabric)
    except ParsimError as error:  # what a cluster demands of its parts is known there
        yield ("cluster",), f"{error.what} {error.remedy}".strip()


def _batch(parts: _Parts, batch: Batch) -> Iterator[tuple[Place, str]]:
    if parts.node is not None and batch.dtype not in parts.node.accelerator.peak_flops_per_s:
        accelerator = parts.node.accelerator
        known = ", ".join(accelerator.peak_flops_per_s)
        yield ("batch", "dtype"), f"accelerator \"{accelerator.name}\" has no peak for '{batch.dtype}'; it multiplies: {known}"
    model = parts.model
    if model is not None and (longest := model.longest_sequence) is not None and batch.sequence_length > longest:
        message = f'sequence_length = {batch.sequence_length} is above max_positions = {longest} of model "{model.name}"; at most {longest}'
        yield ("batch", "sequence_length"), message


def _plan(place: tuple[str, str], section: PlanSection, parts: _Parts) -> Iterator[tuple[Place, str]]:
    values, batch = _values(section), parts.batch
    if values["data_parallel"] is None:
        inner = values["tensor_parallel"] * values["pipeline_parallel"] * prod(degree for _, degree in values["dimensions"])
        values["data_parallel"] = max(1, (parts.num_devices or 0) // inner)
        if parts.num_devices is None:  # nobody knows the replicas, and so not the micro batches
            batch, values["zero_group"] = None, None
    if values["schedule"] is None:
        values["schedule"] = schedules.default(values["virtual_pipeline"])
    plan = Plan(**values)
    parts.plans[place[1]] = plan
    for fault in legality.faults(plan, parts.model, batch, parts.num_devices, schedules, stack=parts.stack):
        yield (*place, fault.field), str(fault)


def _values(section: PlanSection) -> dict[str, Any]:
    """The values by axis; what no planner varies as Plan has it."""
    lists = {axis: sorted(value.items()) if isinstance(value, dict) else value for axis, value in section if axis in _WHOLE}
    return {**dict(section), **{axis: tuple(value) for axis, value in lists.items() if value is not None}}


def _space(name: str, section: PlanSection) -> PlanSpace:
    stated = {axis: value for axis, value in _values(section).items() if axis in section.model_fields_set and value is not None}
    return PlanSpace(name, {axis: tuple(dict.fromkeys(each)) if isinstance(each, list) else (each,) for axis, each in stated.items()})


def _measurement(name: str, section: MeasuredSection, plans: list[str], parts: _Parts) -> Iterator[tuple[Place, str]]:
    parts.measured[name] = Measured(section.step_time, section.peak_memory, section.source)
    if name not in plans:
        yield ("measured", name), f"unknown plan '{name}'{did_you_mean(name, plans)}; plans here: {', '.join(plans)}"
    if section.step_time is None and section.peak_memory is None:
        yield ("measured", name), "holds no figure; give step_time, peak_memory or both"


def _scenario(sections: Sections, parts: _Parts, path: str, default_name: str) -> Scenario:
    assert parts.model is not None and parts.cluster is not None and parts.batch is not None and parts.stack is not None
    name, model, batch, plans, seed = sections.name or default_name, parts.model, parts.batch, parts.plans, sections.seed
    itemsize = {name: read("dtypes", name) for name in catalog.names("dtypes")}
    dataset = DataSpec(**dict(sections.data)) if sections.data is not None else None
    training = Training(**dict(sections.training)) if sections.training is not None else Training()
    spaces, measured = parts.spaces, parts.measured
    unstated = "stack" not in sections.model_fields_set
    return Scenario(
        name, model, parts.cluster, batch, parts.stack, plans, spaces, measured, seed, path, itemsize, dataset, training, unstated
    )
