"""The keys of a scenario file: what may stand where, without looking at what the values mean together (build.py does)."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_type_hints

from msgspec.structs import replace
from pydantic import AfterValidator, BeforeValidator, Field, create_model, model_validator

from parsim import data
from parsim.model.adapters import ALL, TARGETS, each_target
from parsim.model.tuning import BASE, FREEZABLE, Tuning, run_of
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.fault import divisors
from parsim.parallel.plan import KEYS, Batch, Key
from parsim.parallel.precision import FP8, RECIPES
from parsim.scenario.disturbance_section import DisturbanceSection
from parsim.scenario.failing import CheckpointSection, FailuresSection
from parsim.scenario.fields import Axis, Known, ListAxis, Natural, Quantity, Section, Text, Whole, complaint, optional
from parsim.scenario.hardware import SiteLinkRow
from parsim.scenario.inputs import InputRef
from parsim.scenario.lengths import Lengths
from parsim.scenario.rows import FabricRef, ModelRef, NodeRef, StackRef, StorageRef
from parsim.scenario.tree import show
from parsim.scenario.types import Training
from parsim.scenario.unbuilt import MIXED
from parsim.scenario.written import ScheduleAxis

T = TypeVar("T", bound=Section)
_TYPES = get_type_hints(Training)
DEFAULT_STACK = "megatron-2022"
DtypeName = Annotated[str, Known("dtypes", lambda: (*RECIPES, FP8))]


E = TypeVar("E")
NameList = Annotated[list[E], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]  # one may stand by itself


class NodeGroupSection(Section):
    """Equal nodes of a cluster that has others, too."""

    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(("num_nodes", "nodes", "nnodes", "number", "num"), "count")
    node: NodeRef = Field(description="the node, as cluster.node")
    count: Annotated[int, Field(gt=0, le=1_000_000)] = Field(description="how many of them there are")
    fabric: FabricRef | None = Field(None, description="what joins them, where it is another than that of the cluster")
    price_per_device_hour: Annotated[float, Quantity("USD")] | None = Field(None, description="as that of the cluster")


def _list_of_groups(value: object) -> object:
    if not isinstance(value, list):
        raise complaint(f"must be a list, not {show(value)}: {MIXED}; how many equal nodes there are is num_nodes")
    return value


class ClusterSection(Section):
    """Where it runs."""

    place: ClassVar[str | None] = "cluster"
    node: NodeRef | None = Field(None, description="the node: a name of the catalog, file:path/to/row.yaml, or an inline row")
    nodes: Annotated[list[NodeGroupSection], BeforeValidator(_list_of_groups), Field(min_length=1, max_length=1000)] | None = Field(
        None, description="nodes of several kinds, in place of node and num_nodes: a list of {node, count}; a pipeline stage lies on one"
    )
    num_nodes: Annotated[int, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="the number of nodes; where left out, as many as num_devices needs, else 1"
    )
    num_devices: Natural | None = Field(
        None, description="the devices that are used, as many of each node; where left out, all that the nodes have"
    )
    fabric: FabricRef | None = Field(
        None, description="the network between the nodes: a name, file:path/to/rows.yaml, or an inline row; none for one node"
    )
    num_sites: Natural = Field(1, description="the sites over which the nodes lie, as many in each; each has a fabric of its own")
    site_link: SiteLinkRow | None = Field(None, description="what joins a site to the others, shared by its devices: bandwidth and latency")
    price_per_device_hour: Annotated[float, Quantity("USD")] | None = Field(
        None, description="what a device costs an hour, with its part of the node; the list price of the node where left out and known"
    )

    def counts(self, each: int) -> tuple[int, int]:
        """How many nodes, and how many of their devices, `each` a node, are used."""
        num_nodes = self.num_nodes or ceil((self.num_devices or 1) / each)
        return num_nodes, self.num_devices or num_nodes * each

    def sites_fault(self, num_nodes: int) -> tuple[str, str] | None:
        """The key at fault, and why nodes cannot lie over sites so; None where they can."""
        sites, nodes = self.num_sites, f"{num_nodes} node{'s' if num_nodes > 1 else ''}"
        if num_nodes % sites:
            return (
                "num_sites",
                f"{sites} sites are of as many nodes each, which {nodes} cannot be; legal: {', '.join(map(str, divisors(num_nodes)))}",
            )
        if sites > 1 and self.site_link is None:
            return (
                "site_link",
                f"missing: say what joins each of {sites} sites to the others: site_link: {{bandwidth: 800 Gb/s, latency: 5 ms}}",
            )
        if sites == 1 and self.site_link is not None:
            return "site_link", "it joins sites, and there is one: give num_sites, too, or leave it out"
        return None


class BatchSection(Section):
    """What one optimizer step trains on."""

    place: ClassVar[str | None] = "batch"
    global_batch: Natural = Field(description="the sequences of a step, all replicas together")
    sequence_length: Natural = Field(description="the tokens of a sequence")
    source_length: Natural | None = Field(
        None, description="the tokens of what an encoder reads beside a decoder's sequence; as many as that has where left out"
    )
    packing: Literal["packed", "padded"] | None = Field(
        None,
        description="how sequences of several lengths become rows of sequence_length: packed into them, first fit in order, where "
        "attention = flash keeps documents apart; or padded to it, one a row.  The loss, tokens/s and MFU are of real tokens",
    )
    lengths: Lengths | None = Field(
        None,
        description="the tokens of the sequences of the data: a list, file:NAME of a CSV file with a column tokens or of a JSON list, or "
        "{distribution: lognormal, median: 500, sigma: 0.8, seed: 0}; longer ones are cut to sequence_length",
    )
    dtype: DtypeName = Field("bf16", description="the precision: what tensors are stored as, and what matrices are multiplied in")
    num_layers_at_start_in_bf16: Annotated[int, Field(ge=0)] = Field(0, description="the first layers that keep bf16 where dtype is lower")
    num_layers_at_end_in_bf16: Annotated[int, Field(ge=0)] = Field(0, description="the last layers that do")

    def build(self) -> Batch:
        """What it says; what is left out has the Batch's own default."""
        return Batch(**{key: value for key, value in self if value is not None})


_AXIS: Any = Axis  # of types that are known at run time only
_LIST_AXIS: Any = ListAxis
_LITERAL: Any = Literal
# By the annotation of a field of Plan: what a file may say of it.  Of a validator that is a type pydantic would parse the signature.
_FORMS: Mapping[str, Any] = {
    "int": _AXIS[Natural],
    "bool": _AXIS[bool],
    "str": _AXIS[Annotated[str, Field(max_length=40)]],
    "str | tuple[str, ...]": ScheduleAxis,
    "tuple[str, ...]": _LIST_AXIS[Annotated[list[Text], AfterValidator(lambda values: tuple(values))]],
    "tuple[int, ...]": _LIST_AXIS[Annotated[list[Natural], AfterValidator(lambda values: tuple(values))]],
    "tuple[tuple[str, int], ...]": _AXIS[Annotated[dict[Text, Natural], AfterValidator(lambda degrees: tuple(sorted(degrees.items())))]],
}


# Of a field whose values are names that files register.
_NAMED: Mapping[str, Any] = {"context_kind": _AXIS[Annotated[str, Known("context_kind", kinds)]], "precision": _AXIS[DtypeName]}


def _plan_key(name: str, key: Key) -> tuple[Any, Any]:
    """The type of a plan's key in a file, and its pydantic field."""
    if name in _NAMED:
        form = _NAMED[name]
    elif not key.legal:
        form = _FORMS[key.type.removesuffix(" | None")] if key.least else _AXIS[Whole | None if key.default is None else Whole]
    else:
        form = _AXIS[Annotated[int, Field(ge=key.legal[0], le=key.legal[-1])] if key.type == "int" else _LITERAL[key.legal]]
    if key.follows or key.default is None:
        return form | None, Field(None, description=key.description)
    return form, Field(key.default, description=key.description)


def _with_fields(definitions: dict[str, Any]) -> Callable[[type[T]], type[T]]:
    return lambda cls: create_model(cls.__name__, __base__=cls, __doc__=cls.__doc__, __module__=__name__, **definitions)


@_with_fields({name: _plan_key(name, key) for name, key in KEYS.items()})
class PlanSection(Section):
    """How the work is split; an axis is a value, `auto`, or a list that the planner chooses from: of lists, where a value is a list."""

    place: ClassVar[str | None] = "plans"


class TuningSection(Section):
    """Which weights are trained; all where the section is left out."""

    place: ClassVar[str | None] = "tuning"
    freeze: NameList[Annotated[str, Known("part to freeze", lambda: FREEZABLE, also=run_of)]] = optional(
        list,
        f"the parts of the model that stay as they are: {', '.join(FREEZABLE)}, or layers by number from 0, as `layers 0..7`; "
        "of a tied model embedding freezes the matrix of the head, too",
    )
    lora_rank: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="the rank of adapters (LoRA) beside a frozen base; 0: there are none"
    )
    lora_alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="over lora_rank the scale of what they add; lora_rank where left out"
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="the share of elements dropped of what enters them")
    lora_targets: NameList[Annotated[str, Known("lora_targets", lambda: (ALL, *TARGETS))]] = optional(
        lambda: [ALL], f"the linear layers of a layer that have one: {ALL}, {', '.join(TARGETS)}; linear_* share their first matrix"
    )

    share_expert_adapters: bool = Field(False, description="whether all experts of a layer share an adapter; else each has its own")
    quantization: Literal["nf4"] | None = Field(
        None, description="what frozen linear layers of layers are kept in (QLoRA); as all else where left out"
    )
    double_quantization: bool = Field(False, description="whether the scales of these are quantized, too")

    @model_validator(mode="after")
    def _check_needs(self) -> Self:
        stated = sorted({"lora_alpha", "lora_dropout", "lora_targets", "share_expert_adapters"}.intersection(self.model_fields_set))
        if stated and not self.lora_rank:
            raise complaint(f"{stated[0]} is of adapters, which lora_rank asks for: give it, or leave {stated[0]} out")
        if self.lora_rank and not self.lora_targets:
            raise complaint(f"lora_targets names no layer, so that nothing is trained; leave it out for {ALL}")
        if self.double_quantization and not self.quantization:
            raise complaint("double_quantization is of the scales of quantization: give quantization: nf4, or leave it out")
        return self

    def build(self) -> Tuning:
        """What it says."""
        adapts = self.lora_rank > 0
        freeze = self.freeze or ([BASE] if adapts else [])
        found = Tuning(tuple(dict.fromkeys(freeze)), quantization=self.quantization or "", double_quantization=self.double_quantization)
        if not adapts:
            return found
        alpha, targets = self.lora_alpha or float(self.lora_rank), each_target(self.lora_targets)
        of_adapters = {"lora_alpha": alpha, "lora_dropout": self.lora_dropout, "lora_targets": targets}
        return replace(found, lora_rank=self.lora_rank, share_expert_adapters=self.share_expert_adapters, **of_adapters)


class MeasuredSection(Section):
    """What somebody measured of a plan."""

    place: ClassVar[str | None] = "measured"
    step_time: Annotated[float, Quantity("s")] | None = Field(None, description="the time of a step")
    peak_memory: Annotated[float, Quantity("bytes")] | None = Field(None, description="the memory of the device that holds most")
    source: Text = Field("", description="where the figures stand")


class DataSection(Section):
    """What an executed training is fed with."""

    place: ClassVar[str | None] = "data"
    name: Annotated[str, Known("data sets", data.names)] = Field(description="the data set")
    validation_split: Annotated[float, Field(ge=0, lt=1)] = Field(0.2, description="the share of its sequences held back, to measure by")


@_with_fields({name: (_TYPES[name], Field(each.default, **each.about)) for name, each in Training.told.items()})
class TrainingSection(Section):
    """How an executed training goes, and how far the whole one."""

    place: ClassVar[str | None] = "training"
    total_tokens: Annotated[float, Quantity("token")] | None = Field(
        None, description="the tokens of the whole training, e.g. 2T: its days, device-hours, cost and energy are then told"
    )


class Sections(Section):
    """A scenario file of which parts may be missing, since they are at fault."""

    place: ClassVar[str | None] = ""
    schema_version: Literal[1] = Field(1, alias="schema", description="the version of this format")
    name: Text = Field("", description="a name for reports; that of the file where left out")
    model: ModelRef | None = None
    cluster: ClusterSection | None = None
    batch: BatchSection | None = None
    tuning: TuningSection | None = Field(None, description="what of the model is trained; all where left out")
    stack: StackRef = Field(
        DEFAULT_STACK,
        description="the software: a name of the catalog, file:path/to/rows.yaml, or an inline row; TPU, Trainium and Gaudi have their own",
    )
    plans: dict[Text, PlanSection] = optional(dict, "the plans to compare, by name; all but `parsim plan` need one")
    measured: dict[Text, MeasuredSection] = optional(dict, "what somebody measured, by plan")
    data: DataSection | None = Field(None, description="what `parsim execute` trains on; numbers drawn from the seed where left out")
    training: TrainingSection | None = Field(
        None, description="how `parsim execute` trains: epochs, and the optimizer's settings; total_tokens of the whole"
    )
    storage: StorageRef | None = Field(
        None, description="where data and checkpoints are kept: a name of the catalog, file:path/to/row.yaml, or an inline row"
    )
    failures: FailuresSection | None = Field(
        None, description="how often what fails, and what is done then: goodput and the time of the whole training are then told"
    )
    checkpoint: CheckpointSection | None = Field(None, description="what is kept against failures, how often")
    input: InputRef | None = Field(
        None, description="what is read, decoded and sent to the devices: a name of the catalog, file:path/to/row.yaml, or an inline row"
    )
    disturbance: DisturbanceSection | None = Field(
        None, description="what disturbs a step, whose time is then a distribution: jitter, stragglers, slow devices and links"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="the seed of whatever is random")


class Document(Sections):
    """A whole scenario file."""

    model: ModelRef = Field(description="the model: a name of the catalog, hf:path/to/config.json, or an inline row")
    cluster: ClusterSection = Field(description="where it runs: node, num_nodes and fabric")
    batch: BatchSection = Field(description="what a step trains on: global_batch, sequence_length and dtype")


def json_schema() -> dict[str, Any]:
    """The JSON Schema, draft 7, that editors check scenario files with."""
    schema = Document.model_json_schema(ref_template="#/definitions/{model}")
    return {"$schema": "http://json-schema.org/draft-07/schema#", **_draft_7(schema)}


def _draft_7(part: Any) -> Any:
    """Rename what later drafts renamed; a row may leave out what its `base` has; forms of a value may overlap."""
    if isinstance(part, list):
        return [_draft_7(each) for each in part]
    if not isinstance(part, dict):
        return part
    renamed = {"$defs": "definitions", "oneOf": "anyOf"}
    result = {renamed.get(key, key): _draft_7(each) for key, each in part.items() if key != "discriminator"}
    if "base" in result.get("properties", {}) and "required" in result:
        result["anyOf"] = [{"required": result.pop("required")}, {"required": ["base"]}]
    return result
