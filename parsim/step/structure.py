"""Which switches change the Step itself.  Plans that share them share one Step, whatever their degrees."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.model.dims import COMPUTE, FLAT_AND_CAST, FLOAT32, GRADIENT, MASTER
from parsim.model.documents import PACKED
from parsim.model.spec import Architecture, ModelSpec
from parsim.model.transformer import TransformerArchitecture
from parsim.model.tuning import Tuning
from parsim.parallel.dimensions import EXPERT, axis_of, degrees, replica_axes, rules, split, switched_on, view_of
from parsim.parallel.group import Group
from parsim.parallel.optimizer import LOCAL_SGD, OPTIMIZERS
from parsim.parallel.plan import SERVED, Batch, Plan, Stack
from parsim.parallel.precision import NARROW_FLASH, WIDE, Narrowing
from parsim.parallel.recomputation import regions, single_ops
from parsim.parallel.sharding_faults import keeps_parameters
from parsim.parallel.stages import layers_of
from parsim.step.task import HOST

Joint = Literal["", "first", "last", "own"]


class Apart(NamedTuple):
    """Replicas, or groups of them, that train apart for some steps, and then sum weights."""

    group: Group  # of ranks that hold the same part of the weights
    outer_optimizer: str

    @classmethod
    def of(cls, plan: Plan) -> Apart | None:
        """Those of a plan; between groups of replicas that stay together, where it has such."""
        if plan.gradient_sync != LOCAL_SGD:
            return None
        return cls(Group((axis_of("data_parallel" if plan.zero_group is None else "replica_groups"),)), plan.outer_optimizer)


class MeshFacts(NamedTuple):
    """What a structure knows of the mesh: which axes and dimensions are on, and what else of degrees is structural."""

    axes: tuple[str, ...]
    dimensions: tuple[str, ...]
    is_cut: bool  # what crosses a stage boundary
    ring: int  # ranks round which keys go; 1: they stay
    copies_kv_heads: bool  # more ranks than there are kv heads cut attention

    @classmethod
    def of(cls, model: ModelSpec, plan: Plan, stack: Stack) -> MeshFacts:
        """Of the degrees of a plan."""
        found = degrees(plan)
        axes, dimensions = tuple(axis for axis in found if found[axis] > 1), switched_on(plan)
        divides = model.extents["D"] % plan.tensor_parallel == 0
        is_cut = stack.scatter_gather and {"tp", "pp"} <= set(axes) and "T" not in rules(dimensions) and divides
        return cls(axes, dimensions, is_cut, split(plan, "Z"), split(plan, "K") > model.extents.get("K", math.inf))


def ends_apart(plan: Plan) -> bool:
    """Whether the first and the last stage of all copies live on different ranks."""
    found, ranks = schedules.find(plan.schedule, plan.pipeline_parallel), plan.pipeline_parallel
    return found.rank_of(0, ranks) != found.rank_of(plan.num_stages * found.num_copies - 1, ranks)


def joint_of(model: ModelSpec, plan: Plan, stack: Stack) -> Joint:
    """Beside which end of the model its second stack begins, on the rank that holds both, or on a rank of its own; "" without one.

    Beside the first end only where this has a table that the second shares, as that of an encoder.

    >>> from parsim.model.families.encoder_decoder import EncoderDecoderSpec
    >>> toy = EncoderDecoderSpec.of(name="toy", num_layers=4, hidden_size=8, num_heads=2, vocab_size=64, max_positions=16)
    >>> [joint_of(toy, Plan(pipeline_parallel=p), Stack("any")) for p in (1, 2, 4)]
    ['first', 'last', 'own']
    """
    if not model.has_joint:
        return ""
    found, ranks = schedules.find(plan.schedule, plan.pipeline_parallel), plan.pipeline_parallel
    before = model.first_stack
    ends = accumulate(layers_of(plan, model.num_layers, stack.layer_split))
    home = found.rank_of(next(stage for stage, end in enumerate(ends) if before < end), ranks)
    last = found.rank_of(plan.num_stages - 1, ranks)
    return "first" if model.has_encoder and home == found.rank_of(0, ranks) else "last" if home == last else "own"


class Structure(Struct, frozen=True):
    """All structural switches of a plan.  An axis of degree 1 is off."""

    axes: tuple[str, ...]  # of degree above 1, outermost first
    dimensions: tuple[str, ...]  # names of those that are on
    recomputes_all: bool
    checkpointed: tuple[str, ...]  # regions of a layer that run again as a whole
    recompute_ops: tuple[str, ...]
    recompute_every: int
    early_stop: bool
    gradient_sync: str
    apart: Apart | None  # None: all replicas sum gradients
    zero_stage: int
    reshard: bool
    host_gradients: tuple[str, ...]  # the roles in which the gradients lie on the host, which updates; none where the device does
    optimizer: str
    update_temporaries: str  # the role of tensors that it makes of all that it updates; "": none
    sum_copies: str  # the role of copies of all gradients, made for their sums; "": none
    in_backward: bool  # it runs there, segment by segment
    attention: str
    architecture: Architecture
    fusions: tuple[str, ...]
    gather_logits: bool
    keeps_gathered: bool  # tokens, which backward else gathers again
    tensor_overlap: bool
    gradient_overlap: bool
    boundary_axes: tuple[str, ...]  # over which ranks cut the width of what crosses a stage boundary, though all hold it
    master_weights: bool  # beside those that are computed with
    master_shards: bool  # what ZeRO 3 shards is what is updated, and is cast on its way to where it is computed with
    frees_gradients: bool  # those of the only micro-batch come with its backward, and go with the update
    narrow_gradients: bool  # those of a micro_batch have buffers that last, beside the wider ones that they are added to
    ends_apart: bool  # the first and the last stage live on different ranks
    joint: Joint  # and beside which of them the second stack of a model of two begins
    is_mirrored: bool  # a pipeline holds the model twice, the second time from its last rank to its first
    loss_chunks: int  # chunks of tokens that pass the head one after another
    narrows: Narrowing | None  # what linear layers multiply
    attends_narrow: bool  # attention of layers that are narrow, or of all where none is, reads 8 bits
    wide_layers: tuple[str, ...]  # names of blocks, of which some copies do not
    narrow_parameters: bool  # what they multiply of weights is gathered in the narrow format, made of what the optimizer updates
    ring: int
    copies_kv_heads: bool
    waits_for_loads: bool  # the host, before it launches experts
    blocks_launches: bool  # the host goes on when a kernel has ended
    ignores_labels: bool  # of what pads rows
    by_document: bool  # attention sees a token's own document alone

    @classmethod
    def of(cls, model: ModelSpec, batch: Batch, plan: Plan, stack: Stack) -> Structure:
        """The switches that this plan, model and software stack throw.

        >>> from parsim.model.transformer import TransformerSpec
        >>> sizes = {"ffn_hidden_size": 32, "num_heads": 2, "num_kv_heads": 2, "head_dim": 4, "vocab_size": 64, "max_positions": 16}
        >>> tiny = TransformerSpec(name="tiny", num_layers=2, hidden_size=8, **sizes)
        >>> Structure.of(tiny, Batch(4, 16), Plan(data_parallel=2), Stack("any")).axes
        ('dp',)
        """
        axes, dimensions, is_cut, ring, copies_kv_heads = MeshFacts.of(model, plan, stack)
        replicates, whole, ops = any(axis in axes for axis in replica_axes()), regions(plan, stack), single_ops(plan, stack)
        keeps = replicates and keeps_parameters(plan, stack)
        # What stays for all micro-batches of a pipeline is gathered once a step, and its gradients are whole until the last backward, which
        # shares them out (torch/distributed/pipelining/stage.py, backward_maybe_with_nosync): the bytes and the memory of ZeRO 1.
        zero_stage = 1 if keeps and "pp" in axes else plan.zero_stage if replicates else 0
        shards_masters = zero_stage == 3 and _shards_masters(batch, plan, stack) and view_of(axes) != EXPERT
        return cls(
            axes=axes,
            dimensions=dimensions,
            recomputes_all=plan.recompute == "full",
            checkpointed=whole,
            recompute_ops=ops,
            recompute_every=plan.recompute_every if whole or ops or plan.recompute == "full" else 1,
            early_stop=stack.recompute_early_stop,
            gradient_sync=plan.gradient_sync if replicates or plan.is_served else "all_reduce",
            apart=Apart.of(plan),
            zero_stage=zero_stage,
            reshard=not keeps or zero_stage < 3,
            host_gradients=_host_gradients(batch, stack) if plan.offload_optimizer else (),
            optimizer=plan.optimizer,
            update_temporaries=_temporaries(plan, stack, zero_stage),
            sum_copies=_sum_copies(batch, plan, stack, zero_stage),
            in_backward=plan.optimizer_in_backward,
            attention=stack.attention,
            architecture=_architecture(model, stack),
            fusions=tuple(sorted(stack.fusions)),
            gather_logits=stack.gather_logits and "tp" in axes,
            keeps_gathered=stack.keeps_gathered and "sequence_parallel" in dimensions,
            tensor_overlap=stack.tensor_overlap and "tp" in axes,
            gradient_overlap=stack.gradient_overlap and _sums_gradients(axes, plan) and plan.gradient_sync in ("all_reduce", LOCAL_SGD),
            boundary_axes=("tp",) if is_cut else (),
            master_weights=batch.recipe.has_master and not shards_masters,
            master_shards=shards_masters,
            frees_gradients=_frees_gradients(batch, plan, stack, shares=_sums_gradients(axes, plan) and zero_stage < 2, axes=axes),
            narrow_gradients=_keeps_narrow(batch, stack) and zero_stage < 2 and not plan.optimizer_in_backward,
            ends_apart=ends_apart(plan),
            joint=joint_of(model, plan, stack),
            is_mirrored=plan.num_copies > 1,
            loss_chunks=stack.loss_chunks,
            narrows=batch.recipe.narrows,
            attends_narrow=stack.attention == "flash" and stack.flash_of(batch.dtype) in NARROW_FLASH,
            wide_layers=tuple(dict.fromkeys(name for name, _ in batch.layout(model) if name.startswith(WIDE))),
            narrow_parameters=not copies_kv_heads and _has_narrow_parameters(model, batch, plan, stack, zero_stage),
            ring=ring,
            copies_kv_heads=copies_kv_heads,
            waits_for_loads=stack.waits_for_loads,
            blocks_launches=stack.blocks_launches,
            ignores_labels=batch.packing != "",
            by_document=batch.packing == PACKED and stack.attention == "flash",  # no other kernel takes lengths
        )

    @property
    def replicas(self) -> Group:
        """The ranks that replicate dense weights, over which their gradients are summed step by step and ZeRO shards."""
        return Group(tuple(axis for axis in replica_axes() if axis in self.axes and view_of((axis,)) != EXPERT))

    def ranks_of_sum(self, group: Group) -> Group:
        """Those of the ranks that replicate a weight over which its gradient is summed."""
        return Group(tuple(axis for axis in group.axes if axis not in self.apart.group.axes)) if self.apart else group

    @property
    def master(self) -> Group | None:
        """The replicas of which the first alone updates; None where all do."""
        return self.replicas if self.gradient_sync == "master" else None

    @property
    def is_served(self) -> bool:
        """Whether others hold the optimizer's states and update: a device has weights to compute with, and gradients."""
        return self.gradient_sync == SERVED

    @property
    def sums_in_passes(self) -> bool:
        """Whether gradients are summed over replicas while passes run, and not at the end of the step."""
        return self.scatters or (self.gradient_overlap and not self.in_backward)

    @property
    def scatters(self) -> bool:
        """Whether a rank keeps its own part of gradients that passes add up (ZeRO 2)."""
        return self.zero_stage >= 2 and not self.in_backward

    @property
    def gradients_last(self) -> bool:
        """Whether gradients have buffers all through a step."""
        return not (self.in_backward or self.frees_gradients)

    @property
    def axes_beside(self) -> tuple[str, ...]:
        """The axes whose collectives in backward run beside weight-gradient GEMMs."""
        return (axis_of("tensor_parallel"),) if self.tensor_overlap else ()

    @property
    def sum_stream(self) -> str:
        """The stream of sums over replicas that run beside compute, whatever their group."""
        return self.replicas.name or next(axis for axis in replica_axes() if axis in self.axes)

    @property
    def replica_stream(self) -> str:
        """The stream of sums that the end of the step waits for; "" where it waits for none."""
        return self.sum_stream if self.sums_in_passes and not self.scatters else ""

    @property
    def lasting_narrow(self) -> Narrowing | None:
        """How narrow weights that last through a step are made at its end; None where each pass makes them, as by row, or there are none.

        Source: NVIDIA/TransformerEngine, transformer_engine/pytorch/module/linear.py (is_first_microbatch): cached over a step.
        """
        lasts = (self.zero_stage < 3 or self.narrow_parameters) and not self.in_backward
        return self.narrows if lasts and self.narrows and not self.narrows.by_row else None

    @property
    def lasting_layouts(self) -> tuple[str, ...]:
        """In which layouts they last; in ZeRO 3, and alone beside adapters, in what forward multiplies, of which backward makes the other.

        Source of the latter: mlcommons/training_results_v4.0, NVIDIA/benchmarks/llama2_70b_lora, and NVIDIA-NeMo/Megatron-Bridge,
        src/megatron/bridge/perf_recipes/llama (LoRA): disable_parameter_transpose_cache.
        """
        how, tuned = self.lasting_narrow, self.architecture.tuned
        makes_other = self.zero_stage >= 3 or (self.narrow_alone and tuned is not None and tuned.adapters is not None)
        return () if how is None else how.layouts[-1:] if makes_other else how.layouts

    @property
    def narrow_alone(self) -> bool:
        """Whether such weights last in no other format but the optimizer's own."""
        return self.narrow_parameters and not self.master_shards

    @property
    def tells_weights_apart(self) -> bool:
        """Whether some weights have no buffer in a role in which others have one."""
        return self.narrow_alone or self.architecture.tuned is not None

    @property
    def packs(self) -> bool:
        """Whether some weights are kept in 4 bits."""
        return self.architecture.tuned is not None and self.architecture.tuned.packs

    @property
    def casts_shards(self) -> bool:
        """Whether narrow shards live only while they are gathered, made anew for each pass.

        Source: pytorch/ao, torchao/float8/fsdp_utils.py (fsdp_pre_all_gather).
        """
        return self.gathers_narrow and self.master_shards

    @property
    def gathers_narrow(self) -> bool:
        """Whether ZeRO brings narrow weights together, and not what they are made of."""
        return self.narrow_parameters and self.zero_stage > 0

    @property
    def parameter_role(self) -> str:
        """What the parameters that last are stored as."""
        return MASTER if self.master_shards else COMPUTE

    @property
    def offload(self) -> bool:
        """Whether the host holds the optimizer's states and updates."""
        return bool(self.host_gradients)

    @property
    def paged(self) -> bool:
        """Whether the states lie on the host, from where they come for the update."""
        return OPTIMIZERS[self.optimizer].paged

    @property
    def uses_host(self) -> bool:
        """Whether anything of the optimizer lies on the host."""
        return self.offload or self.paged

    @property
    def links(self) -> tuple[str, ...]:
        """What a device sends over: the mesh axes, and the link to its host."""
        return (*self.axes, HOST) if self.uses_host else self.axes


def _architecture(model: ModelSpec, stack: Stack) -> Architecture:
    """The model's, with norms as the stack writes them out."""
    own = model.architecture
    return replace(own, norm_in_float32=True) if stack.wide_norms and isinstance(own, TransformerArchitecture) else own


def _sums_gradients(axes: tuple[str, ...], plan: Plan) -> bool:
    """Whether ranks that replicate weights sum gradients over these axes, which may lie inside what trains apart."""
    apart = Apart.of(plan)
    return any(axis in axes for axis in replica_axes() if not apart or axis not in apart.group.axes)


def _frees_gradients(batch: Batch, plan: Plan, stack: Stack, *, shares: bool, axes: tuple[str, ...]) -> bool:
    """Whether no gradient lives in the forward; `shares`: replicas sum whole ones, in buffers that stay.

    Source: PyTorch, torch/nn/parallel/distributed.py (gradient_as_bucket_view): buckets as large as all gradients.
    """
    stays = shares or "pp" in axes or plan.is_served or plan.optimizer_in_backward
    return stack.frees_gradients and not stays and plan.num_micro_batches(batch) == 1


def _shards_masters(batch: Batch, plan: Plan, stack: Stack) -> bool:
    """Whether ZeRO 3 would shard the weights that are updated; an optimizer on the host has them there."""
    return stack.master_shards and batch.recipe.has_master and not plan.offload_optimizer


def _temporaries(plan: Plan, stack: Stack, zero_stage: int) -> str:
    """What an update makes of all that it updates: not where the host updates, a server, or the backward."""
    if plan.offload_optimizer or plan.optimizer_in_backward or plan.is_served:
        return ""
    if stack.gradient_copies == "update" and zero_stage < 3:
        return FLAT_AND_CAST
    return MASTER if OPTIMIZERS[plan.optimizer].temporaries and stack.multi_tensor_update else ""


def _sum_copies(batch: Batch, plan: Plan, stack: Stack, zero_stage: int) -> str:
    """What gradients in float32 are summed as, at the end of a step."""
    copies = stack.gradient_copies == "sum" and zero_stage < 2 and not (plan.optimizer_in_backward or plan.is_served)
    return COMPUTE if copies and _are_wider(batch, stack) else ""


def _are_wider(batch: Batch, stack: Stack) -> bool:
    """Whether gradients are kept in a wider dtype than they are computed in."""
    return stack.gradient_dtype == "fp32" and batch.recipe.stores[COMPUTE] != "fp32"


def _has_narrow_parameters(model: ModelSpec, batch: Batch, plan: Plan, stack: Stack, zero_stage: int) -> bool:
    """Whether what is kept and gathered of weights is narrow: not where one rank, a server or the host updates for all.

    Blocks of two directions are made of what is gathered: no rank could make one layout of the other.  ZeRO 3 takes one scale a tensor.
    What is not trained has no states of which its shards are made narrow.
    Source: pytorch/ao, torchao/float8/config.py: 'enable_fsdp_float8_all_gather only supports tensorwise scaling granularity'.
    """
    elsewhere = plan.offload_optimizer or plan.optimizer_in_backward or plan.gradient_sync != "all_reduce"
    how = batch.recipe.narrows
    return (
        batch.dtype in stack.narrow_parameters
        and how is not None
        and not how.by_row
        and not elsewhere
        and (zero_stage == 0 or how.along == (how.square if zero_stage < 3 else 0))
        and (zero_stage < 3 or model.tuning == Tuning())
    )


def _keeps_narrow(batch: Batch, stack: Stack) -> bool:
    """Whether the stack keeps gradients in the dtype of matmuls beside those in float32, and no kernel adds to the latter at once."""
    return stack.narrow_gradients and _are_wider(batch, stack) and "gradient_accumulation" not in stack.fusions


def _host_gradients(batch: Batch, stack: Stack) -> tuple[str, ...]:
    """As the device sums them, and in float32 where the stack keeps that beside narrower ones."""
    is_wide = stack.gradient_dtype == "fp32" or batch.recipe.stores[COMPUTE] == "fp32"
    return (GRADIENT, FLOAT32) if stack.host_float32_gradients and not is_wide else (GRADIENT,)
