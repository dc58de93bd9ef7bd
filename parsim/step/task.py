"""What a Step is made of: tasks over placed operands, or over weights laid end to end, each on a stream.

No sizes, no degrees, no seconds: `parsim.cost` prices a task; `estimator`, `simulator` and `executor` walk them.  A task of a stream starts
when the one before it on that stream has ended, when all compute issued before it has, and when what it reads is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeGuard

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import KV_HEADS, MATMUL, QUERY_HEADS, TOKEN_DIMS
from parsim.model.latent import UP_PROJECTION
from parsim.model.op import Dims
from parsim.parallel.group import Group
from parsim.parallel.precision import LAYOUTS
from parsim.parallel.sharding import Sharding

COMPUTE_STREAM: Final = "compute"
LAUNCH: Final = "launch"  # the stream of the host that launches kernels
RING: Final = "ring"  # the stream of what goes round while attention runs
HOST: Final = "host"  # the stream of what the host computes and what passes between it and its device
Part = Literal["whole", "padded", "shard", "scale"]


class Operand(Struct, frozen=True):
    """A buffer as one task sees it: its name, where it lies, and the role that sets the bytes of an element as it is stored."""

    name: str
    sharding: Sharding
    dtype: str

    @property
    def dims(self) -> Dims:
        """Names of its dims, as the task sees them."""
        return self.sharding.dims


class Weight(Struct, frozen=True, kw_only=True):
    """A parameter of a segment: where it and its gradient lie, over which ranks it is replicated, and whose buffer it is."""

    name: str
    sharding: Sharding
    gradient: Sharding  # partial over the axes that a step's end reduces
    group: Group  # the ranks that replicate it: its gradient is summed, and ZeRO shards, over them
    initial: str
    owner: str  # the segment whose buffer it is: another one's where it is tied on the same rank
    copy_of: str = ""  # the segment whose weight it repeats on another rank
    narrow_block: int = 0  # elements along either side of a block of such a matrix that shares a scale; 0: all of it
    narrow_rows: int = 0  # of one that lasts in a narrow format, too, to be multiplied: its first dims, which are the input's
    trained: bool = True  # else it has no gradient, and no states of an optimizer
    packed: bool = False  # kept in 4 bits

    @property
    def lasting(self) -> tuple[str, ...]:
        """Names of what lives through the step: itself, its gradient and its narrow layouts."""
        return self.name, f"d_{self.name}", *(self.name + layout for layout in LAYOUTS if self.narrow_rows)

    @property
    def makes_kv_heads(self) -> bool:
        """Whether ranks hold the same of it where they are more than there are kv heads."""
        dims = {*self.sharding.dims}
        return not dims.isdisjoint(KV_HEADS) and dims.isdisjoint(QUERY_HEADS)


class Bucket(Struct, frozen=True):
    """Weights laid end to end, in one role: of one copy of a segment in a pass, of all that a rank holds at the end of a step.

    `padded` is each weight flattened and padded to equal parts of its group, `shard` the rank's own part of that (ZeRO); `scale` is a
    number for each block of it that shares one, or of its experts.
    """

    role: Literal[
        "parameters", "gradients", "states", "temporaries", "quantised", "steers", "choices", "masters", "anchor", "outer_velocity"
    ]
    part: Part
    dtype: str
    weights: tuple[tuple[str, Weight], ...]  # each with its segment
    ahead: bool = False  # in a pass: of the copy that runs next, not of the present one
    layout: str = ""  # of narrow ones, or what their scales follow from; "": all layouts

    @property
    def name(self) -> str:
        """What waits for it, waits for."""
        return self.role

    def of(self, segment: str) -> tuple[Weight, ...]:
        """Its weights of one segment."""
        return tuple(weight for name, weight in self.weights if name == segment)


Value = Operand | Bucket


class Compute(Struct, frozen=True):
    """One kernel on one rank.  `accumulate` adds into the output, `in_place` overwrites the first input, `overwrite` the output."""

    name: str
    kernel: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    attributes: Mapping[str, float | str]
    accumulate: bool = False
    in_place: bool = False
    fused: bool = False
    tag: str = ""
    dtype: str = MATMUL  # the role of what it multiplies in; operands state what they are stored as
    again: bool = False  # a forward task that runs once more in backward
    alone: Group | None = None  # only the first rank of this group works
    stream: str = COMPUTE_STREAM
    frees: tuple[str | Bucket, ...] = ()
    overwrite: bool = False


class Collective(Struct, frozen=True):
    """One collective of a group.  all_reduce, reduce and broadcast work in place: `target` is then `source` with less left to reduce."""

    name: str
    operation: str
    group: Group
    source: Value
    target: Value
    dim: int = -1  # gathered, scattered or, of an all_to_all, joined
    split: int = -1  # of an all_to_all: cut
    operator: str = "sum"
    fresh: bool = True  # the target is a new buffer
    accumulate: bool = False  # a scattered sum is added to what the target holds
    tag: str = ""
    again: bool = False
    alone: Group | None = None
    stream: str = COMPUTE_STREAM  # of a group's own: beside compute that does not need its result
    frees: tuple[str | Bucket, ...] = ()


class Send(Struct, frozen=True):
    """A message to the rank at the same place on a neighbouring stage; eager: compute goes on.  `sent` may be slices of `sources`."""

    name: str
    sources: tuple[Operand, ...]  # one behind the other in the message
    sent: tuple[Operand, ...]
    stream: str
    frees: tuple[str | Bucket, ...] = ()


class Receive(Struct, frozen=True):
    """Compute waits for the message of a neighbouring stage; its buffers are new."""

    name: str
    targets: tuple[Operand, ...]
    frees: tuple[str | Bucket, ...] = ()


class HostCopy(Struct, frozen=True):
    """A bucket between a device and its host."""

    name: str
    bucket: Bucket
    to_host: bool
    alone: Group | None = None
    stream: str = HOST
    frees: tuple[str | Bucket, ...] = ()


class Launches(Struct, frozen=True):
    """The host launches so many kernels, from now on, on its own stream; on that of compute where one waits for the other."""

    name: str
    count: int
    of_loads: int = 0  # more, of sizes that follow the loads of experts
    of_experts: int = 0  # more, for each expert of a rank
    experts: tuple[str, ...] | None = None  # the axes over which these lie
    asks: bool = False  # the device for the loads
    stream: str = LAUNCH
    frees: tuple[str | Bucket, ...] = ()


class Wait(Struct, frozen=True):
    """Compute waits until streams have ended what was issued on them, and until buffers are there."""

    name: str
    streams: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    frees: tuple[str | Bucket, ...] = ()


class Hold(Struct, frozen=True):
    """Buffers come to life, full of zeros, or die; it takes no time."""

    name: str
    values: tuple[Value, ...] = ()
    frees: tuple[str | Bucket, ...] = ()


Task = Compute | Collective | Send | Receive | HostCopy | Launches | Wait | Hold


def reads(task: Task) -> tuple[str, ...]:
    """Names of the buffers a task needs alive; one that it adds into is read as well."""
    match task:
        case Compute():
            return tuple(o.name for o in (*task.inputs, *(task.outputs if task.accumulate else ())))
        case Collective():
            return (task.source.name,)
        case Send():
            return tuple(o.name for o in task.sources)
        case HostCopy():
            return (task.bucket.name,)
        case Wait():
            return task.buffers
    return ()


def writes(task: Task) -> tuple[str, ...]:
    """Names of the buffers that a task brings to life or changes."""
    match task:
        case Compute():
            return tuple(o.name for o in task.outputs)
        case Collective():
            return (task.target.name,)
        case Receive():
            return tuple(o.name for o in task.targets)
    return ()


def allocates(task: Task) -> tuple[Value, ...]:
    """The outputs that are new buffers."""
    match task:
        case Compute():
            there = task.in_place or task.accumulate or task.overwrite
            return () if there else tuple(o for o in task.outputs if isinstance(o, Operand))  # weights are there
        case Collective():
            return (task.target,) if task.fresh else ()
        case Receive():
            return task.targets
        case Hold():
            return task.values
    return ()


def free_after(task: Task, names: tuple[str | Bucket, ...]) -> Task:
    """The task, after which these buffers die as well."""
    return replace(task, frees=(*task.frees, *names))


def runs_beside(task: Task) -> TypeGuard[Collective]:
    """Whether it is a collective on a stream of its own."""
    return isinstance(task, Collective) and task.stream != COMPUTE_STREAM


# Kernels that a framework launches as several, unless a stack fuses them under a name: calls where it does, and where not.
# Source: NVIDIA/Megatron-LM, tag core_v0.14.0, megatron/core/transformer/moe: of a route top-k, what its score takes, and two tables of
# experts by tokens (moe_utils.py, topk_routing_with_score_function), and in two passes the table of rows that permute follows
# (NVIDIA/TransformerEngine, tag v2.5, transformer_engine/pytorch/triton/permutation.py, make_row_id_map); back four casts of the gate's
# operands, too (moe_utils.py, RouterGatingLinearFunction).  Of the auxiliary loss scores, their top-k and a table, sums over tokens, ranks
# and experts, and what is logged (compute_routing_scores_for_aux_loss, switch_load_balancing_loss_func; router.py,
# attach_and_log_load_balancing_loss).  Sigmoids are shared out anew, and tokens counted for the bias that steers them (router.py,
# _apply_expert_bias).  Latent attention turns by halves, four products and a sum of what is cut out and laid beside the rest again
# (core/models/common/embeddings/rope_utils.py, _apply_rotary_pos_emb_bshd).
_CALLS: Final[Mapping[str, tuple[str, int, int]]] = {
    **{"route": ("router", 3, 10), "route sigmoid": ("router", 4, 17)},
    **dict.fromkeys(("route_grad", "route_again_grad"), ("router", 5, 8)),
    **dict.fromkeys(("route_grad sigmoid", "route_again_grad sigmoid"), ("router", 5, 12)),
    **{"balance_loss": ("router", 6, 14), "balance_loss_grad": ("router", 5, 8)},
    **dict.fromkeys(("rotary", "rotary_grad"), ("latent_rotary", 1, 10)),
}


JOINED: Final = "joined"  # an attribute of a call that is part of the kernel of another of its kind, and moves its own bytes


def is_launched(task: Compute) -> bool:
    """Whether it is a kernel by itself; a fused op, a drawn input and what another call of its kind does too are part of another's."""
    return not (task.fused or JOINED in task.attributes) and bool(task.inputs)


def calls_of(task: Task, fusions: tuple[str, ...]) -> int:
    """Calls by which the host launches it; a bucket is part of another's."""
    if not isinstance(task, Compute):
        return int(isinstance(task, Collective) and isinstance(task.source, Operand))
    if not is_launched(task):
        return 0
    sigmoid = " sigmoid" if str(task.attributes.get("gate")).endswith("sigmoid") else ""  # also where each has its own
    fusion, together, apart = _CALLS.get(task.kernel + sigmoid, ("", 1, 1))
    return together if fusion in fusions or (fusion == "latent_rotary" and not _is_latent(task)) else apart


def _is_latent(rotary: Compute) -> bool:
    """Whether it turns the part of queries that latent attention turns, or the keys that all its heads share."""
    return rotary.tag == UP_PROJECTION or any("r" in each.dims for each in rotary.inputs if isinstance(each, Operand))


def experts_of(task: Task) -> tuple[str, ...] | None:
    """The axes over which experts lie of which each has a kernel of its own there; None of other tasks.

    Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/common/gemm/cublaslt_gemm.cu, nvte_multi_tensor_gemm: a cuBLAS call each.
    """
    if not isinstance(task, Compute) or task.kernel != "grouped_gemm":
        return None
    matrices = next(o.sharding for o in (*task.inputs, *task.outputs) if isinstance(o, Operand) and "E" in o.dims)
    return matrices.axes[matrices.dims.index("E")]


# Calls for each expert of a rank beside a GEMM's own.  Source: NVIDIA/Megatron-LM, tag core_v0.14.0: core/transformer/moe/experts.py
# (TEGroupedMLP._apply_bias: a product and a sum each, as in their gradients).
_OF_AN_EXPERT: Final = ("weighted_expert_bias", "weighted_expert_bias_grad", "weighted_expert_bias_grad_gates")


def kernels_of_an_expert(task: Task) -> int:
    """Kernels that make narrow what one expert takes, where each expert has its own: a block takes one; a tensor is set to 0 before its
    largest element is found, made a scale, and used.

    Source: NVIDIA/TransformerEngine@006b3360, transformer_engine/pytorch/csrc/extensions/cast.cpp (multi_tensor_quantize_impl: 'Currently
    only have fused kernel for FP8 delayed scaling', whose scales are there before; nvfp4 has its own) and csrc/quantizer.cpp
    (Float8CurrentScalingQuantizer).
    """
    if not isinstance(task, Compute) or task.kernel != "quantise" or task.attributes["format"] == "e2m1":
        return 0
    inputs = [each for each in task.inputs if isinstance(each, Operand)]
    found = 1 if task.attributes["along"] else 4 if len(inputs) > 1 else 0
    return found if inputs and "X" in inputs[0].dims else 0


def calls_of_an_expert(task: Task) -> int:
    """Calls for each expert: a GEMM, and where it makes a gradient of weights the hook that hands it to the sums of gradients; those of
    gate and up together are one matrix.

    Source: NVIDIA/Megatron-LM, tag core_v0.14.0, core/distributed/distributed_data_parallel.py (_make_backward_post_hook), and
    core/transformer/moe/experts.py (TEGroupedMLP: linear_fc1 is twice as wide where units are gated).
    """
    if experts_of(task) is not None:
        assert isinstance(task, Compute)
        if task.name.startswith("experts_gate_gemm"):
            return 0
        return 1 + (not TOKEN_DIMS.intersection(*(each.dims for each in task.outputs if isinstance(each, Operand))))
    if kernels := kernels_of_an_expert(task):
        return 0 if task.name.startswith("d_expert_gate.") else min(kernels, 2)
    return 2 if isinstance(task, Compute) and task.kernel in _OF_AN_EXPERT else 0
