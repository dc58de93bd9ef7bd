"""How the work is split (Plan), what is trained on (Batch), and what the software does with it (Stack).

Only the fields stand here: legality.py says which combinations are legal, stages.py who holds which layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from parsim.arguments import check_arguments, misfits
from parsim.described import Described, Told
from parsim.errors import PlanError, ScenarioError, did_you_mean
from parsim.model.dims import LINEAR, MATMUL
from parsim.model.documents import PACKED, PADDED, padded_lengths, typical_row, with_rest
from parsim.model.spec import Layout, ModelSpec, layers_in
from parsim.parallel.dimensions import DIMENSIONS, EXPERT, degrees, names, num_ranks, split
from parsim.parallel.optimizer import LOCAL_SGD, OPTIMIZERS, OUTER_OPTIMIZERS
from parsim.parallel.precision import FP8, RECIPES, WIDE, Recipe, with_wide_ends
from parsim.schedules import find

SERVED: Final = "parameter_server"  # a gradient_sync
# How many layers at either end of a model do not follow its recipe; named as by Megatron Core (transformer/transformer_config.py).
ENDS: Final = ("num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16")


class Batch(Described, frozen=True):
    """One optimizer step's worth of data; rows are all of one length, and what they hold may be of several."""

    global_batch: int  # sequences a step, all replicas together
    sequence_length: int  # tokens
    dtype: str = "bf16"  # the name of a precision recipe
    one_layout: bool = False  # whether the devices multiply 8 bits however they lie: see Narrowing
    num_layers_at_start_in_bf16: int = 0  # in a recipe that narrows the others
    num_layers_at_end_in_bf16: int = 0
    source_length: int = 0  # tokens of what an encoder reads beside a sequence; 0: as many as that has
    packing: str = ""  # of PACKINGS, where there are lengths
    lengths: tuple[int, ...] = ()  # tokens of the sequences of the data; none: each fills a row

    @property
    def source(self) -> int:
        """Tokens of a source."""
        return self.source_length or self.sequence_length

    @property
    def documents(self) -> tuple[int, ...]:
        """Tokens of the documents that are packed into each row, with the padding behind them; () where none are."""
        return with_rest(typical_row(self.lengths, self.sequence_length), self.sequence_length) if self.packing == PACKED else ()

    @property
    def real_documents(self) -> tuple[int, ...]:
        """Tokens of all documents of a step but padding."""
        if self.packing == PACKED:
            return typical_row(self.lengths, self.sequence_length) * self.global_batch
        return self.trained

    @property
    def trained(self) -> tuple[int, ...]:
        """The tokens of each row of a step that the loss is of: those before its padding."""
        if self.packing == PADDED:
            return padded_lengths(self.lengths, self.sequence_length, self.global_batch)
        held = sum(typical_row(self.lengths, self.sequence_length)) if self.packing else self.sequence_length
        return (held,) * self.global_batch

    @property
    def num_tokens(self) -> int:
        """Tokens of a step that the loss is of.

        >>> [Batch(4, 8, packing=how, lengths=(4, 3)).num_tokens for how in ("packed", "padded")], Batch(4, 8).num_tokens
        ([28, 14], 32)
        """
        return sum(self.trained) if self.packing else self.global_batch * self.sequence_length

    @property
    def recipe(self) -> Recipe:
        """What tensors are stored as, and matmuls multiply in.

        Raises:
            ScenarioError: there is no recipe of that name.
        """
        if self.dtype not in RECIPES:
            raise ScenarioError(f"unknown dtype '{self.dtype}'{did_you_mean(self.dtype, RECIPES)}", remedy=f"Known: {', '.join(RECIPES)}.")
        return RECIPES[self.dtype].in_one_layout() if self.one_layout else RECIPES[self.dtype]

    def layout(self, model: ModelSpec) -> Layout:
        """That of a model, in which layers that stay wide have names of their own."""
        start, end = (getattr(self, name) for name in ENDS)
        return with_wide_ends(model.layout, start, end) if start + end and self.recipe.narrows else model.layout

    def measured_against(self, model: ModelSpec) -> str:
        """The dtype whose peak stands below MFU: that of the linear layers, unless all of these stay wide."""
        layers = layers_in(self.layout(model))
        return self.recipe.multiplied_in(MATMUL if all(name.startswith(WIDE) for name, _ in layers) else LINEAR)


class Key(Struct, frozen=True):
    """What stands beside a field of Plan, for all who list the fields: scenario files and their schema, legality, the planner."""

    description: str
    legal: tuple[Any, ...] = ()  # its values; empty: any of its type, a count from 1
    auto: tuple[Any, ...] = ()  # what the planner tries; empty: all that is legal
    least: int = 1  # of a count
    quiet: bool = False  # documents leave it out where it is the default
    follows: bool = False  # where left out, it follows from the rest of the scenario, and the default is only Plan's own
    type: str = ""  # as annotated
    default: Any = None


def _key(default: Any, description: str, **others: Any) -> Any:
    return Told(default, {"description": description, **others})


class Plan(Described, frozen=True):
    """One way to split a step over devices.  The names are those of a scenario file; to add a field is to add its line here.

    >>> Plan(tensor_parallel=8, pipeline_parallel=8, data_parallel=2).num_devices
    128
    """

    data_parallel: int = _key(1, "replicas; what remains of the devices where left out", follows=True)
    tensor_parallel: int = _key(1, "ranks that split each layer")
    pipeline_parallel: int = _key(1, "ranks that split the layers")
    context_parallel: int = _key(1, "ranks that split each sequence")
    context_kind: str = _key("all_gather", "how attention reaches other ranks; as the stack where left out", follows=True)
    context_group: int | None = _key(None, "neighbours of these that trade tokens for heads, where context_kind has groups")
    virtual_pipeline: int = _key(1, "model chunks a pipeline rank")
    sequence_parallel: bool = _key(False, "whether the tensor-parallel ranks split the sequence between blocks")
    micro_batch: int = _key(1, "sequences that pass the pipeline together")
    schedule: str | tuple[str, ...] = _key(  # a name, or the written actions of each pipeline rank
        "1f1b", "the pipeline schedule, named or written out; 1f1b, or interleaved_1f1b with virtual_pipeline, where left out", follows=True
    )
    recompute: str = _key("none", "which activations are computed again", legal=("none", "selective", "full"))
    recompute_modules: tuple[str, ...] = _key(
        (), "modules of a layer that run again in backward, by Megatron Core's names; in place of the stack's selective"
    )
    recompute_ops: tuple[str, ...] = _key((), "ops of a layer, or their tags, that run again in backward")
    recompute_every: int = _key(1, "recompute in each n-th layer of a stage only", auto=(1, 2, 4))
    layers_per_stage: tuple[int, ...] | None = _key(
        None,
        "layers by (virtual) stage, an encoder's before its decoder's; the stack's layer_split where left out",
        auto=(None,),
        quiet=True,
    )
    gradient_sync: str = _key(
        "all_reduce",
        "how replicas agree on gradients; to servers of parameters they push them, unclipped, and with local_sgd they sum weights",
        legal=("all_reduce", "master", SERVED, LOCAL_SGD),
        auto=("all_reduce", "master"),  # of its own accord the planner changes no losses
    )
    parameter_servers: int = _key(1, "servers that share out the weights, where gradient_sync = parameter_server", auto=(1,), quiet=True)
    staleness_bound: int | None = _key(
        None,
        "gradients that a worker of parameter servers may be ahead of the slowest; 0: all wait for one update; none where left out or null",
        auto=(None,),
        least=0,
        quiet=True,
    )
    backup_workers: int = _key(
        0,
        "of workers that wait for one update (staleness_bound = 0), how many it does without",
        auto=(0,),
        least=0,
        quiet=True,
    )
    local_steps: int = _key(
        1, "optimizer steps of each replica between two sums of weights, where gradient_sync = local_sgd", auto=(1,), quiet=True
    )
    outer_optimizer: str = _key(
        "average", "what becomes of the replicas' weights then", legal=tuple(OUTER_OPTIMIZERS), auto=("average",), quiet=True
    )
    expert_parallel: int = _key(1, "ranks that split the experts, of those that a stage has")
    expert_tensor_parallel: int = _key(1, "ranks that split each expert")
    rank_order: str = _key(
        "tp-dp-pp",
        "axes from the fastest: neighbours in a node differ along the first",
        auto=tuple("-".join(order) for order in permutations(("tp", "dp", "pp"))),
    )
    optimizer: str = _key(
        "adamw",
        "what updates the weights",
        legal=tuple(OPTIMIZERS),
        auto=("adamw",),  # a choice of convergence, not of speed: never varied of the planner's own accord
    )
    optimizer_in_backward: bool = _key(False, "whether gradients are applied, unclipped, and freed as soon as they are there")
    zero_stage: int = _key(
        0, "sharded over the replicas: 1 optimizer state, 2 also gradients, 3 also parameters (FSDP)", legal=(0, 1, 2, 3)
    )
    reshard_after_forward: bool | None = _key(
        None,
        "whether ZeRO 3 lets parameters go between forward and backward; under a pipeline as the stack does, where left out",
        auto=(True, False),
    )
    zero_group: int | None = _key(
        None, "replicas that shard among themselves (HSDP), or that stay together with local_sgd; all, or each by itself, where left out"
    )
    offload_optimizer: bool = _key(False, "whether the host holds the optimizer's states and updates")
    precision: str | None = _key(None, "numbers that it trains in, and so its losses; batch.dtype where left out", quiet=True)
    dimensions: tuple[tuple[str, int], ...] = _key((), "degrees of dimensions without a key here, by name")

    @property
    def num_devices(self) -> int:
        """Devices that the plan occupies."""
        return num_ranks(degrees(self))

    @property
    def is_served(self) -> bool:
        """Whether servers of parameters hold and update the weights."""
        return self.gradient_sync == SERVED

    @property
    def num_stages(self) -> int:
        """Virtual stages: chunks over all pipeline ranks."""
        return self.pipeline_parallel * self.virtual_pipeline

    @property
    def num_copies(self) -> int:
        """Copies of the model that one pipeline holds, as its schedule says."""
        return 1 if isinstance(self.schedule, tuple) else find(self.schedule, self.pipeline_parallel).num_copies

    def num_micro_batches(self, batch: Batch) -> int:
        """Micro_batches that each replica runs in a step, or each copy of the model, where its pipeline holds several."""
        return batch.global_batch // (split(self, "B") * self.micro_batch * self.num_copies)

    def to_dict(self) -> dict[str, Any]:
        """Under the names and in the forms of a scenario file; what follows where it is left out is left out."""
        values = asdict(self) | {"dimensions": dict(self.dimensions)}
        stated = {name: value for name, value in values.items() if not KEYS[name].quiet or value != KEYS[name].default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}

    @classmethod
    @check_arguments
    def from_dict(cls, document: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` said; what is left out has Plan's own default.  Whether it is legal, legality.py says.

        Raises:
            PlanError: a key is unknown, or a value is of another type than its field.

        >>> Plan.from_dict(Plan(schedule=("0F0 0B0",), dimensions=(("a", 2),)).to_dict()).dimensions
        (('a', 2),)
        """
        for name in document:
            if name not in KEYS:
                raise PlanError(f"a plan has no key '{name}'{did_you_mean(name, KEYS)}", remedy=f"Known: {', '.join(KEYS)}.")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
        if isinstance(degrees := document.get("dimensions"), Mapping):
            values["dimensions"] = tuple(sorted(degrees.items()))
        if wrong := [*misfits(plan := cls(**values))]:
            raise PlanError("\n".join(wrong), "document of Plan")
        return plan


KEYS: Final[Mapping[str, Key]] = {
    name: Key(**each.about, type=Plan.__annotations__[name], default=each.default) for name, each in Plan.told.items()
}
# The fields that say which dimensions are on and how many ranks they have.
MESH: Final = (*(name for name in KEYS if name in names()), "context_kind", "zero_group", "dimensions")
EXPERT_KEYS: Final = tuple(name for name in MESH if name in names() and DIMENSIONS.get(name).view == EXPERT)


ALL_TO_ALL, _, PER_NODE = DISPATCHES = ("all_to_all", "hierarchical", "per_node")
# all; all but kernels whose sizes follow the loads of experts; all, of a step that neither a pipeline nor experts on other ranks interrupt
ALL, AROUND_EXPERTS, UNSPLIT = GRAPHS = ("all", "around_experts", "unsplit")
# Of PyTorch; the same, whose segments grow; of another nothing is known of blocks and segments.
_, EXPANDABLE, OTHER = ALLOCATORS = ("caching", "expandable", "other")
# One kernel repeats tokens in the order of experts, or adds them up; or they are repeated, and rows sorted by an index in a pass of its own
_, SORT = PERMUTES = ("kernel", "sort")
ANY: Final = "any"  # in place of an accelerator: on those that have no entry


class Stack(Described, frozen=True):
    """A software stack: the switches that decide which kernels run and what the framework holds.

    Structural switches change the Step; the overheads only its price.
    """

    name: str
    attention: str = _key("fused_softmax", "the kernels of attention; one of flash attention by its name, or flash for the device's own")
    context: str = _key("all_gather", "the kind of context parallelism")  # a file each in dimensions
    dispatch: str = _key(
        ALL_TO_ALL,
        "how tokens reach experts: all_to_all, a message a slot; hierarchical, by a rank of each node; per_node, so, and a node once",
    )
    permute: str = _key("kernel", "how tokens come in the order of experts: by a kernel of its own, or a sort of rows that repeat them")
    flash: str = _key("flash", "the kernel of attention flash, if the device has it")  # of cluster/flash.py; flash: the device's own
    flash_in: Mapping[str, str] = _key({}, "precision: its kernel of attention flash, in place of that of all, if the device has it")
    named_flash: str = ""  # the kernel that was asked for by name, and that the device must have
    fusions: tuple[str, ...] = _key((), "what is fused into a neighbour")  # see model/blocks.py and ends.py
    gradient_dtype: str = _key("fp32", "what gradients are kept in")  # fp32 | compute
    narrow_gradients: bool = _key(
        False, "whether gradients of a micro_batch stay, in the dtype of matmuls, beside float32 ones up to ZeRO 1"
    )
    frees_gradients: bool = _key(
        False, "whether gradients go with their update, and come with the backward of the next step; not those in buffers of replicas"
    )
    loss_chunks: int = _key(1, "chunks of tokens that pass output layer and loss one after another, each with its gradients")
    gather_logits: bool = _key(False, "whether each tensor-parallel rank holds the logits of the whole vocabulary")
    keeps_gathered: bool = _key(False, "whether what sequence parallelism gathers stays for the backward, which else gathers it again")
    wide_norms: bool = _key(False, "whether an RMSNorm that no kernel fuses multiplies by its weights in float32, too")
    tensor_overlap: bool = _key(False, "whether collectives of tensor parallelism run beside weight-gradient GEMMs")
    gradient_overlap: bool = _key(False, "whether a layer's gradients are reduced while the backward goes on")
    master_shards: bool = _key(False, "whether ZeRO 3 shards master weights, cast as they are gathered, and keeps no others")
    gradient_copies: str = _key(  # none | update | sum
        "none", "flat copies at a step's end: own gradients, and in float32, for update (to ZeRO 2), or all, narrow, for sum (to ZeRO 1)"
    )
    multi_tensor_update: bool = _key(
        False, "whether the optimizer updates all weights op by op, through temporaries, and not in one kernel"
    )
    pipeline_keeps_parameters: bool = _key(False, "whether parameters that ZeRO 3 gathers stay for all micro-batches of a pipeline")
    broadcasts_weights: bool = _key(False, "whether ranks of ZeRO 1 and 2 hand on their new weights in turn, each in a broadcast")
    scatter_gather: bool = _key(False, "whether a stage boundary sends 1/tensor_parallel a rank")  # and gathers on arrival
    selective_recompute: tuple[str, ...] = _key(
        ("core_attn",), "what recompute = selective runs again: modules, ops of a layer, or quantise, all its casts"
    )
    recompute_early_stop: bool = _key(False, "whether recomputation ends at the last tensor that backward needs")
    layer_split: str = _key("even", "who holds layers that remain")  # even | embedding_and_head | remainder_first
    vocab_multiple: int = _key(128, "the vocabulary is padded to a multiple of this x tensor_parallel")
    waits_for_loads: bool = _key(False, "whether the host waits for the loads of experts, and kernels of their layers for their launches")
    blocks_launches: bool = _key(False, "whether a launch returns when its kernel has ended, so that launches stand before kernels")
    host_launch_s: float = _key(0.0, "host seconds a kernel launch")  # a segment never runs faster than its launches
    own_kernels: bool = _key(
        False, "whether its kernels are its own, so that laws measured of single ones of another program do not hold for it"
    )
    message_launch_s: float = _key(0.0, "host seconds of a collective or a message, beyond what the law of its wire says")
    expert_launch_s: float = _key(0.0, "host seconds a kernel of one expert, where one call launches those of all")
    graphs: Mapping[str, str] = _key({}, "accelerator, or any: what graphs replay without launches: all, around_experts, or unsplit")
    sustained_factor: Mapping[str, float] = _key(
        {}, "accelerator, or dtype of GEMMs: share of an isolated kernel's rate"
    )  # absent: the accelerator's own
    framework_bytes: float = _key(0.0, "memory of the context and libraries")
    allocator: str = _key(
        OTHER, "caching, PyTorch's; expandable, the same whose segments grow; other: nothing is known of blocks and segments"
    )
    allocator_slack: float = _key(0.0, "what the caching allocator holds beyond activations and transients, as a share of them")
    kept_logits: int = _key(0, "logits of so many micro-batches stay, in the dtype of matmuls, beside those that a backward needs")
    logit_holes: int = _key(0, "so many float32 copies of the logits leave blocks that nothing else fills")
    blas_workspaces: int = _key(0, "workspaces of cuBLAS that the framework allocates: one a thread that calls it")
    engine_workspaces: int = _key(0, "the same of Transformer Engine")
    expert_workspaces: int = _key(0, "those that it has besides where it runs experts, one a stream")
    workspace_bytes: float = _key(0.0, "memory of a workspace of cuBLAS; as the device has it where left out")
    communicator_bytes: float | None = _key(None, "memory of the buffers of one communicator, for each axis; as nccl says where left out")
    nccl: tuple[str, ...] = _key(
        (),
        "what buffers of communicators follow from: eager, it connects all ranks of a group at once, as before 2.22, or lazy, for what "
        "needs it; no_switch, it does not add in NVLink's",
    )
    narrow_parameters: tuple[str, ...] = _key(
        (),
        "precisions whose linear layers keep, and ZeRO gathers, their matrices in the narrow format alone; ZeRO 3 with one scale a tensor",
    )
    precisions: tuple[str, ...] = _key((), "precisions of 8 and 4 bits that it trains in; not known where left out")
    fp8: str = _key("fp8_current", "what dtype fp8 means: a precision of 8 bits by its name")
    host_float32_gradients: bool = _key(False, "whether offloaded gradients go to the host in float32, too")
    pinned_elements: int = _key(0, "elements of a pinned buffer of gradients on the host, a power of two of bytes; 0: none is pinned")
    process_bytes: float = _key(0.0, "memory of the host that a process takes")
    collectives: Mapping[str, str] = _key({}, "operation: its algorithm, priced by latency and bandwidth; by size and span where left out")
    limits: tuple[str, ...] = _key((), "what it cannot run, which is marked in reports")  # names of stack_limits.py
    source: str = ""

    def precision(self, dtype: str) -> str:
        """The recipe that a dtype of a batch names: bare fp8 is what the stack means by it."""
        return self.fp8 if dtype == FP8 else dtype

    def flash_of(self, dtype: str) -> str:
        """The kernel of flash attention that it asks for in a precision.

        >>> stack = Stack("mine", flash="cudnn", flash_in={"fp8_current": "cudnn_fp8"})
        >>> stack.flash_of("bf16"), stack.flash_of("fp8_current")
        ('cudnn', 'cudnn_fp8')
        """
        return self.named_flash or self.flash_in.get(dtype, "") or self.flash
