"""From a plan to what a launcher reads: written from the target's table, then read back by the same, and the same work, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from parsim.arguments import check_arguments
from parsim.errors import ParsimError, PlanError, did_you_mean
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.parallel.plan import KEYS, Batch, Plan
from parsim.parallel.plans import Plans
from parsim.planner.canonical import canonical
from parsim.scenario import Scenario
from parsim.targets.entries import Entry, counted_figures, fields_of, value_of
from parsim.targets.figures import same_figures
from parsim.targets.importing import job_of
from parsim.targets.kinds import note_of, with_kinds
from parsim.targets.target import MICRO_BATCHES, TARGETS, ForeignJob, KeyValue, Launch, NotExpressible, Setup, Target

_OF_LAYOUT = ("model.num_dense_layers", "model.expert_layer_every")
_OF_DEVICES = "one_layout"  # of a batch: what its devices can


def find(asked: str) -> tuple[Target, str]:
    """The target and the version of "NAME" or "NAME@VERSION", the newest where none is said.

    Raises:
        ParsimError: there is no such target, or it has no such version.
    """
    TARGETS.discover("parsim.targets.launchers")
    name, _, version = asked.partition("@")
    target = TARGETS.get(name)
    if version and version not in target.versions:
        known = ", ".join(target.versions)
        raise ParsimError(f"{name} of version '{version}' is not known{did_you_mean(version, target.versions)}", remedy=f"Known: {known}.")
    return target, version or target.versions[0]


@check_arguments
def export_plan(scenario: Scenario, plan: str | Plan, to: str) -> Launch:
    """The files and the command with which a launcher runs a plan of a scenario.

    Raises:
        ParsimError: there is no such plan or target.
        NotExpressible: the target has no key for what the plan says.
        PlanError: the plan is not legal, or the target would not run it.
    """
    target, version = find(to)
    setup = Setup(plan if isinstance(plan, str) else "plan", scenario, scenario.legal_plan(plan))
    return export_setup(target, version, setup)


def export_setup(target: Target, version: str, setup: Setup) -> Launch:
    """The same of a setup that is known to be legal."""
    launch = target.write(keys_of(target, version, setup), setup, version)
    cluster, (name, text) = setup.scenario.cluster, next(iter(launch.files.items()))
    if not cluster.groups:
        return launch
    return replace(launch, files={**launch.files, name: with_kinds(text, name, cluster)}, notes=(*launch.notes, note_of(cluster)))


def keys_of(target: Target, version: str, setup: Setup) -> Mapping[str, KeyValue]:
    """The launcher's keys for a setup, which its own table reads back as the same work (planner/canonical.py) on the same model.

    Raises:
        PlanError: a field has no key, as NotExpressible, or the target would not run the plan.
    """
    for fault in (*_server_faults(target, version, setup), *target.refuses(setup, version), *_gaps(target, version, setup)):
        raise fault
    keys: dict[str, KeyValue] = {}
    for entry in target.entries(version):
        keys |= entry.write(setup)
    for field, value in differences(setup, job_of(target, version, keys), target.entries(version)):
        raise NotExpressible(field, target.name, version, f"no key of it says {value!r}")
    return keys


def differences(setup: Setup, read: ForeignJob, entries: Iterable[Entry] = ()) -> Iterator[tuple[str, Any]]:
    """The fields, of the plan without a dot, in which a job is another than a setup, and what the setup says of them.

    Of batch, training and model these are those that entries state; one that was not read has its default, or follows from others.
    """
    plan = {name.removeprefix("plan."): value for name, value in read.keys.items() if name.startswith("plan.")}
    asked, found = (_canonical(setup, each) for each in (setup.plan, Plan.from_dict(plan)))
    for name in KEYS:
        if getattr(asked, name) != getattr(found, name):
            yield name, getattr(setup.plan, name)
    if read.keys.get(MICRO_BATCHES, setup.num_micro_batches) != setup.num_micro_batches:
        yield MICRO_BATCHES, setup.num_micro_batches
    row = {name.removeprefix("model."): value for name, value in read.keys.items() if name.startswith("model.")}
    if (base := row.get("base")) and not same_figures(setup.model, row):
        yield "model.name", setup.model.name
    stated = ("batch.", "training.") if base else ("batch.", "training.", "model.")
    known = dict.fromkeys((*(field for each in entries if not each.assumed for field in each.fields), *read.keys))
    idle = {f"training.{name}" for name in type(setup.training).__struct_fields__} - {*counted_figures(setup)}
    for field in (field for field in known if field.startswith(stated) and field not in idle):
        said = value_of(setup, field)
        if said not in ([read.keys[field]] if field in read.keys else _unread(setup, field)) and not _lays_alike(setup, read, field):
            yield field, said


def _lays_alike(setup: Setup, read: ForeignJob, field: str) -> bool:
    """Whether a figure says which layers are of which form, and the model has the same ones with those that were read."""
    if field not in _OF_LAYOUT:
        return False
    own = {name: read.keys.get(name, _default(setup.model, name.split(".")[1])) for name in _OF_LAYOUT}
    return replace(setup.model, **{name.split(".")[1]: value for name, value in own.items()}).layout == setup.model.layout


def _unread(setup: Setup, field: str) -> tuple[Any, ...]:
    """What a field of batch, training or model is where nothing says it."""
    part, name = field.split(".")
    struct = getattr(setup, part)
    if field == "training.max_norm":
        return (_default(struct, name), inf)  # no scenario states that it clips nothing
    rule = type(struct).figures()[name].rule if part == "model" and name in type(struct).figures() else None
    return (_default(struct, name), *((rule(asdict(struct)),) if rule else ()))


def _canonical(setup: Setup, plan: Plan) -> Plan:
    """That of a plan whose precision is the batch's."""
    return canonical(Plans.of([replace(plan, precision=None)]), setup.scenario.facts)[0]


def _server_faults(target: Target, version: str, setup: Setup) -> Iterator[PlanError]:
    """No target has workers that push gradients when they have them: of TensorFlow's program the server updates for replicas in step."""
    if setup.plan.is_served:
        why = "none of its programs has workers that push gradients each for itself"
        yield NotExpressible("gradient_sync", target.name, version, why, "Set gradient_sync = all_reduce or master.")
    elif setup.plan.gradient_sync == LOCAL_SGD:
        why = "none of its programs has replicas that train apart for some steps"
        yield NotExpressible("gradient_sync", target.name, version, why, "Set gradient_sync = all_reduce.")


def _gaps(target: Target, version: str, setup: Setup) -> Iterator[PlanError]:
    """What no entry states of the plan; and of batch, model and training, where some entry states anything of them."""
    known = set(fields_of(target.entries(version)))
    known |= {"plan.precision"} if "batch.dtype" in known else set()
    parts = {part for part in ("batch", "model", "training") if any(field.startswith(f"{part}.") for field in known)}
    batch = (f"batch.{name}" for name in Batch.__struct_fields__ if name != _OF_DEVICES)
    model = (f"model.{name}" for name in (*type(setup.model).figures(), "tuning"))
    meant = replace(setup, plan=replace(_canonical(setup, setup.plan), precision=setup.plan.precision))
    for field in (
        *(f"plan.{name}" for name in KEYS),
        *(each for each in (*batch, *model, *counted_figures(setup)) if each.split(".")[0] in parts),
    ):
        part, name = field.split(".")
        if field not in known and value_of(meant, field) != _default(getattr(setup, part), name):
            told = f"it has no key for {name} = {value_of(setup, field)!r}"
            yield NotExpressible(field.removeprefix("plan."), target.name, version, told)


def _default(struct: Struct, name: str) -> Any:
    """That of a field; None where it has none."""
    known = type(struct)
    return dict(zip(known.__struct_fields__[::-1], known.__struct_defaults__[::-1], strict=False)).get(name)
