"""From the values of a file to a Scenario: every fault of the file is found before the first is told."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace
from pydantic import ValidationError

from parsim import catalog, data, schedules
from parsim.errors import Fault, ParsimError, did_you_mean
from parsim.model.spec import ModelSpec
from parsim.parallel import legality, recomputation, sharding_faults
from parsim.parallel.batch_faults import bf16_layers_fault, empty_slots_fault, loss_chunks_fault
from parsim.parallel.length_faults import length_faults
from parsim.parallel.plan import KEYS, Batch, Plan, Stack
from parsim.parallel.precision import FP8
from parsim.parallel.tuning_faults import tuning_faults
from parsim.scenario import huggingface
from parsim.scenario.changes import Change, change
from parsim.scenario.clusters import Ground, cluster_faults, has_one_layout, layouts_fault
from parsim.scenario.defaults import add_defaults, usual_stack
from parsim.scenario.disturbance_section import disturbance_faults
from parsim.scenario.document import Document, MeasuredSection, PlanSection, Sections
from parsim.scenario.failing import reliability_faults
from parsim.scenario.fields import complaints_of
from parsim.scenario.inputs import input_faults
from parsim.scenario.left_open import Assumed, add_heads, open_in_plan
from parsim.scenario.lengths import with_lengths
from parsim.scenario.loads import loads_of_file
from parsim.scenario.models import expert_layers
from parsim.scenario.named_files import name_in
from parsim.scenario.row_files import with_row_files
from parsim.scenario.rows import read, resolve
from parsim.scenario.tree import Place, Tree
from parsim.scenario.types import DataSpec, Measured, PlanSpace, Scenario, Training

_CHECKED: Final = ("dimensions", "recompute_modules", "recompute_ops")  # what a value names is there or not, whatever the rest of the plan


class _Parts(Struct):
    """What could be built so far; None where the file is at fault."""

    model: ModelSpec | None = None
    ground: Ground = field(default_factory=Ground)
    batch: Batch | None = None
    stack: Stack | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    spaces: dict[str, PlanSpace] = field(default_factory=dict)
    measured: dict[str, Measured] = field(default_factory=dict)


def build(tree: Tree, default_name: str, changes: Sequence[Change] = (), *, asked: bool = False) -> tuple[Scenario | None, list[Fault]]:
    """The scenario with the changes, or None and its faults in the order of the file, each once.

    `asked`: it stands in no file, so that it needs no plans, and what it lacks of batch and fabric takes stated defaults.
    """
    notes = tuple(each.note for each in changes if each.note)
    assumed: tuple[Assumed, ...] = ()
    change(tree, [each for each in changes if not each.is_in_a_row])
    if tree.value is not None or not tree.faults:
        _read_rows(tree)
        assumed = add_heads(tree.value)
        reasons = add_defaults(tree.value, _sections(tree.value)[0]) if asked else {}
        notes += tuple(f"{key} = {tree.value[section][key]} ({why})" for (section, key), why in reasons.items())
        change(tree, [each for each in changes if each.is_in_a_row])
        tree.value = with_lengths(_with_loads(tree.value, tree), tree)
    found, scenario = list(tree.faults), None
    if tree.value is not None or not found:
        sections, complaints = _sections(tree.value)
        parts = _Parts()
        complaints += _relations(sections, parts, tree.value if isinstance(tree.value, dict) else {})
        # A value that YAML could not give is missing now: what that leads to at the same place was told already.
        told = {(fault.path, fault.where) for fault in found}
        every = (tree.fault(place, message) for place, message in complaints)
        found += [fault for fault in every if (fault.path, fault.where) not in told]
        if asked:  # what is missing may follow from what is wrong
            found = [fault for fault in found if fault.path != tree.path and not fault.message.startswith("missing")] or found
        if not found:
            scenario = _scenario(sections, parts, tree.path, default_name, notes, tree.changed)
            scenario = replace(scenario, changes={each.path: each.value for each in changes}, has_file=not asked)
            scenario = replace(scenario, assumed=(*assumed, *scenario.assumed)).sound()
    unique = list(dict.fromkeys(found))
    return scenario, sorted(unique, key=lambda fault: (fault.line, fault.column, fault.path, fault.where))


def add_usual(tree: Tree) -> dict[tuple[str, str], str]:
    """Add to the values of a tree what a question without a file may leave out, too; by place why it is so.  Names of rows stay names."""
    whole = Tree(tree.path, copy.deepcopy(tree.value))
    _read_rows(whole)
    reasons = add_defaults(whole.value, _sections(whole.value)[0])
    for section, key in reasons:
        tree.value.setdefault(section, {})[key] = whole.value[section][key]
    return reasons


def _read_rows(tree: Tree) -> None:
    """Put the rows that stand in files of their own in place of their names."""
    tree.value = _with_config(tree.value, tree)
    tree.value = with_row_files(tree.value, tree)


def _with_config(value: Any, tree: Tree) -> Any:
    """The values, with the row that a Hugging Face config describes in place of its name; a fault of it becomes one of the tree."""
    name = value.get("model") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name.startswith(huggingface.PREFIX):
        return value
    others = {key: each for key, each in value.items() if key != "model"}
    path = huggingface.find(Path(tree.path).parent, name.removeprefix(huggingface.PREFIX))
    try:
        return {**others, "model": huggingface.row(path, name)}
    except ParsimError as error:
        tree.faults.append(tree.fault(("model",), error.what))
        return others


def _with_loads(value: Any, tree: Tree) -> Any:
    """The values, with what a file says of the loads of experts in place of its name; a fault of it becomes one of the tree."""
    model = value.get("model") if isinstance(value, dict) else None
    name = name_in(model.get("load_shares")) if isinstance(model, dict) else None
    if not isinstance(model, dict) or name is None:
        return value
    found = {key: each for key, each in model.items() if key != "load_shares"}
    try:
        if (layers := expert_layers(found)) is not None:  # else a fault of the model is told
            found["load_shares"] = loads_of_file(name, tree, layers)
    except ParsimError as error:
        tree.faults.append(tree.fault(("model", "load_shares"), error.what))
    return {**value, "model": found}


def _sections(value: Any) -> tuple[Sections, list[tuple[Place, str]]]:
    """The sections without fault, and what is wrong with the others."""
    if not isinstance(value, dict):
        return Sections.model_validate({}), [((), "a scenario is a mapping with the keys model, cluster, batch and plans")]
    try:
        return Document.model_validate(value), []
    except ValidationError as error:
        complaints = complaints_of(error)
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
    parts.stack = resolve("stacks", sections.stack if "stack" in sections.model_fields_set else usual_stack(sections))
    if sections.model is not None:
        parts.model = resolve("models", sections.model)
        if sections.tuning is not None:
            parts.model = replace(parts.model, tuning=sections.tuning.build())
            yield from ((("tuning", key), said) for key, said in tuning_faults(parts.model))
    if sections.cluster is not None:
        yield from cluster_faults(sections.cluster, parts.ground, parts.stack, value["cluster"])
    if sections.batch is not None:
        parts.batch = sections.batch.build()
        if parts.stack is not None:
            parts.batch = replace(parts.batch, dtype=parts.stack.precision(parts.batch.dtype))
            parts.batch = replace(parts.batch, one_layout=has_one_layout(parts.ground.nodes))
        yield from _batch(parts, parts.batch, [*_precisions(sections, parts.stack)])
    if sections.data is not None and parts.model is not None and parts.batch is not None:
        said = data.fault(sections.data.name, parts.model, parts.batch.sequence_length, parts.batch.source)
        if said := said or "has sequences of its own; leave packing and lengths of the batch out" * bool(parts.batch.packing):
            yield ("data", "name"), said
    if sections.disturbance is not None and (cluster := parts.ground.cluster) is not None:
        found = disturbance_faults(sections.disturbance.build(), cluster.num_devices, cluster.num_nodes)
        yield from ((("disturbance", *place), said) for place, said in found)
    for name, plan in sections.plans.items():
        place = ("plans", name)
        if any(value == "auto" or isinstance(value, list) for _, value in plan):  # one value is no list, whatever it holds
            parts.spaces[name] = space_of(name, plan)
            yield from _unknown_parts(place, plan, parts)
        else:
            yield from _plan(place, plan, parts)
    if sections.training is not None and "max_norm" in sections.training.model_fields_set:
        for name, key in ((name, key) for name, plan in parts.plans.items() if (key := _unclipping_key(plan))):
            said = "updates before the norm of all gradients is known, by which training.max_norm clips; leave one of the two out"
            yield ("plans", name, key), said
    yield from reliability_faults(sections, value)
    yield from input_faults(sections, value)
    stated = value.get("plans")
    plans = [each for each in stated if isinstance(each, str)] if isinstance(stated, dict) else []
    for name, measured in sections.measured.items():
        yield from _measurement(name, measured, plans, parts)


def _unknown_parts(place: tuple[str, str], section: PlanSection, parts: _Parts) -> Iterator[tuple[Place, str]]:
    """What is wrong with single values of a plan with open axes, of those that name dimensions or parts of a layer."""
    for axis in _CHECKED:
        stated = getattr(section, axis)
        values = enumerate(stated) if isinstance(stated, list) else [(None, () if stated == "auto" else stated)]
        for index, value in values:
            plan = replace(Plan(), **{axis: value})
            found = [*sharding_faults.unknown_dimensions(plan)]
            if parts.model is not None and parts.stack is not None:
                found += recomputation.faults(plan, parts.model, parts.stack)
            for fault in found:
                yield (*place, axis) if index is None else (*place, axis, index), str(fault)


def _precisions(sections: Sections, stack: Stack | None) -> Iterator[str]:
    """Those that plans state, or leave to the planner."""
    for plan in sections.plans.values():
        stated = dict(plan)["precision"]
        for name in stated if isinstance(stated, list) else [stated]:
            if name and stack:
                yield from stack.precisions if name == "auto" else [stack.precision(name)]


def _batch(parts: _Parts, batch: Batch, of_plans: list[str]) -> Iterator[tuple[Place, str]]:
    if batch.dtype == FP8:  # whatever a faulty stack means by it
        return
    for accelerator in (each.accelerator for each in parts.ground.nodes):
        if missing := batch.recipe.without_peak(accelerator.peak_flops_per_s):
            known = ", ".join(accelerator.peak_flops_per_s)
            yield ("batch", "dtype"), f"accelerator \"{accelerator.name}\" has no peak for '{missing}'; it multiplies: {known}"
    if said := layouts_fault(parts.ground.nodes, [batch.dtype, *of_plans]):
        yield ("cluster", "nodes"), said
    model = parts.model
    if model is not None and model.tuning.quantization and batch.recipe.narrows:
        yield (
            ("tuning", "quantization"),
            f"{model.tuning.quantization} is not built beside dtype = {batch.dtype}, which multiplies in 8 or 4 bits",
        )
    if model is not None and (wrong := bf16_layers_fault(model, batch, of_plans)):
        yield ("batch", wrong.field), str(wrong)
    if model is not None and (fault := model.sequence_fault(batch.sequence_length)):
        yield ("batch", "sequence_length"), fault
    if model is not None and (fault := model.source_fault(batch.source_length)):
        yield ("batch", "source_length"), fault
    if model is not None:
        yield from ((("batch", key), said) for key, said in length_faults(model, batch))
    if model is not None and parts.stack is not None and (fault := loss_chunks_fault(model, batch, parts.stack)):
        yield ("stack", "loss_chunks"), fault
    if model is not None and parts.stack is not None and (fault := empty_slots_fault(model, batch, parts.stack)):
        yield ("model", "pad_to_capacity"), fault


def batch_faults(scenario: Scenario) -> Iterator[tuple[Place, str]]:
    """The same of a scenario that is there, each with its place."""
    ground = Ground(tuple(each.node for each in scenario.cluster.kinds))
    parts = _Parts(scenario.model, ground, batch=scenario.batch, stack=scenario.stack)
    return _batch(parts, scenario.batch, [plan.precision for plan in scenario.plans.values() if plan.precision])


def _plan(place: tuple[str, str], section: PlanSection, parts: _Parts) -> Iterator[tuple[Place, str]]:
    values, batch = dict(section), parts.batch
    if values["data_parallel"] is None:
        inner = Plan(**{axis: values[axis] for axis in ("tensor_parallel", "pipeline_parallel", "context_parallel", "dimensions")})
        values["data_parallel"] = max(1, (parts.ground.num_devices or 0) // inner.num_devices)
        if parts.ground.num_devices is None:  # nobody knows the replicas, and so not the micro batches
            batch, values["zero_group"] = None, None
    if values["schedule"] is None:
        values["schedule"] = schedules.default(values["virtual_pipeline"])
    if values["context_kind"] is None:
        values["context_kind"] = parts.stack.context if parts.stack else KEYS["context_kind"].default
    plan = Plan(**values)
    parts.plans[place[1]] = plan
    ground = parts.ground
    facts = legality.Facts(parts.model, batch, ground.num_devices, parts.stack, ground.peak_flops_per_s, ground.runs)
    for fault in legality.faults_of(plan, facts):
        yield (*place, fault.field), str(fault)


def _unclipping_key(plan: Plan) -> str:
    """The key by which a plan applies gradients whose norm over all weights nobody has; "" of any other."""
    return "optimizer_in_backward" if plan.optimizer_in_backward else "gradient_sync" if plan.is_served else ""


def space_of(name: str, section: PlanSection) -> PlanSpace:
    """The axes that a plan states, each with its values."""
    stated = {axis: value for axis, value in section if axis in section.model_fields_set and value is not None}
    return PlanSpace(name, {axis: tuple(dict.fromkeys(each)) if isinstance(each, list) else (each,) for axis, each in stated.items()})


def _measurement(name: str, section: MeasuredSection, plans: list[str], parts: _Parts) -> Iterator[tuple[Place, str]]:
    parts.measured[name] = Measured(section.step_time, section.peak_memory, section.source)
    if name not in plans:
        yield ("measured", name), f"unknown plan '{name}'{did_you_mean(name, plans)}; plans here: {', '.join(plans)}"
    if section.step_time is None and section.peak_memory is None:
        yield ("measured", name), "holds no figure; give step_time, peak_memory or both"


def _still_measured(measured: Mapping[str, Measured], changed: Iterable[Place]) -> dict[str, Measured]:
    """What was measured of plans that the changes leave as they were."""
    if any(place[0] in ("model", "cluster", "batch", "stack") or place == ("plans",) for place in changed):
        return {}
    others = {place[1] for place in changed if place[0] == "plans"}
    return {plan: each for plan, each in measured.items() if plan not in others}


def _open(sections: Sections, parts: _Parts) -> Iterator[Assumed]:
    """What the sections leave open of the software and of plans that no planner fills."""
    if parts.stack is not None and "stack" not in sections.model_fields_set:
        yield Assumed("stack", parts.stack.name)
    for name in parts.plans:
        if name in sections.plans:
            yield from open_in_plan(name, sections.plans[name].model_fields_set)


def _scenario(
    sections: Sections, parts: _Parts, path: str, default_name: str, notes: tuple[str, ...], changed: Iterable[Place]
) -> Scenario:
    cluster = parts.ground.cluster
    assert parts.model is not None and cluster is not None and parts.batch is not None and parts.stack is not None
    stated = dict(sections.training) if sections.training is not None else {}
    tokens = stated.pop("total_tokens", None)
    axes_of = {name: dict(section) for name, section in sections.plans.items()}
    idle = (name for name, axes in axes_of.items() if axes["context_kind"] is not None and axes["context_parallel"] == 1)
    notes += tuple(f"plans.{name}.context_kind does nothing, since context_parallel = 1" for name in idle)
    if any(map(_unclipping_key, parts.plans.values())):
        stated["max_norm"] = inf  # so that all plans train alike
    return Scenario(
        name=sections.name or default_name,
        model=parts.model,
        cluster=cluster,
        batch=parts.batch,
        stack=parts.stack,
        plans=parts.plans,
        spaces=parts.spaces,
        measured=_still_measured(parts.measured, changed),
        seed=sections.seed,
        path=path,
        itemsize_bytes={name: read("dtypes", name) for name in catalog.names("dtypes")},
        data=DataSpec(**dict(sections.data)) if sections.data is not None else None,
        training=Training(**stated),
        default_stack="stack" not in sections.model_fields_set,
        notes=notes,
        total_tokens=tokens,
        disturbance=sections.disturbance.build() if sections.disturbance is not None else None,
        assumed=tuple(_open(sections, parts)),
        failures=sections.failures.build() if sections.failures is not None else None,
        checkpoint=sections.checkpoint.build() if sections.checkpoint is not None else None,
        storage=resolve("storage", sections.storage) if sections.storage is not None else None,
        input=resolve("inputs", sections.input) if sections.input is not None else None,
    )
