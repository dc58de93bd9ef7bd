"""Seconds of every task, rounded once to integer picoseconds and shared by estimate, simulate and the clocks of execute.

Sharing among symmetric groups (all data-parallel groups of a node on its NICs) is part of the price: see `cluster.network`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec.structs import replace

from parsim.cluster.accelerator import Accelerator
from parsim.cluster.efficiency import attention_s, elementwise_s
from parsim.cluster.price import Price, by_node_price, p2p_price, private_price
from parsim.cluster.scalars import Scalar, floats, one_each, picoseconds
from parsim.cluster.sites import spread_of
from parsim.collectives.placed import group_price
from parsim.cost.buckets import Held, elements, num_bytes
from parsim.cost.chunks import chunks_of
from parsim.cost.cost_model import CostModel
from parsim.cost.count import along, flops, hbm_bytes, head_widths, message_bytes, operands, payload, query_heads, results, window_of
from parsim.cost.exchange import exchanges_of
from parsim.cost.gemms import gemm_factor, plain_gemm_s
from parsim.cost.permutes import are_batched, order_s, sorted_s, sorts
from parsim.cost.reach import reach_of
from parsim.cost.scan import RUN_BESIDE, scan_seconds
from parsim.cost.sizes import Ints, Sizes
from parsim.cost.work import Work, law_name, works_of
from parsim.model.dims import COMPUTE, FLOAT32, QUERIES
from parsim.model.op_kinds import COSTS
from parsim.parallel.dimensions import EXPERT, view_of
from parsim.parallel.group import Group
from parsim.parallel.plan import ALL, ALL_TO_ALL, AROUND_EXPERTS, UNSPLIT
from parsim.parallel.sharding import Sharding
from parsim.step.quantise import RESCALED
from parsim.step.task import (
    HOST,
    JOINED,
    Bucket,
    Collective,
    Compute,
    HostCopy,
    Launches,
    Operand,
    Send,
    Task,
    is_launched,
    kernels_of_an_expert,
)

_FLASH_BLOCK = 128  # rows of a block of the flash attention kernels whose law the catalog holds: Dao 2023, section 3.3

# Of a cast with a scale a row, and a column: how often it reads its input, and how many times as long it takes as the elementwise law says
# of that: it reads a row twice, in part from a cache, and writes columns across what it reads.
# Source: measured by parsim's authors on an H200, torch 2.11 under torch.compile, 16384 x 14336 elements: 225 and 491 us.
_CASTS_BY_ROW = {"row": (1, 1.4), "col": (2, 1.83)}

# What finds the sizes of an exchange of a message a slot, for which the host waits: seven sums and copies, an all_gather of the counts of
# all ranks, and four copies to the host.  Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/moe/token_dispatcher.py
# (MoEAlltoAllTokenDispatcher.preprocess and _maybe_dtoh_and_synchronize), without drops and padding.
SIZING_LAUNCHES = 7 + 1 + 4

# What the bias of an expert's last matrix, times a gate, moves over what one kernel would: product, sum, joined experts and cast are
# kernels of their own, in float32, 28 bytes an element for 4 in bf16; back a cast either way, and a product and its sum for each factor, 36
# for 4.  Source: NVIDIA/Megatron-LM, tags core_v0.14.0 to d98e8a64, megatron/core/transformer/moe/experts.py (TEGroupedMLP._apply_bias).
# What is clamped before the gate and after it is cut, clamped and joined by kernels of their own: of 2 bytes an element of the result, 4
# read and 4 written more than the 2 + 1; back a comparison and a choice for one half, two of each for the other, and joining, 15 more than
# the 3 + 2.  Source: the same tags, megatron/core/fusions/fused_bias_geglu.py (weighted_bias_quick_geglu_impl, outside of what is
# compiled); pytorch/pytorch, torch/csrc/autograd/FunctionsManual.cpp (clamp_backward, split_backward).
_APART = {
    **{"weighted_expert_bias": 7, "weighted_expert_bias_grad": 9, "weighted_expert_bias_grad_gates": 9},
    **{"weighted_clamped_swiglu": 11 / 3, "weighted_clamped_swiglu_grad": 4},
}

# An RMSNorm that no kernel fuses is written out in float32, where an element is 4 bytes: a square (read, written), its mean (read) and a
# product (read, written), 20 bytes for the 8 of one kernel; back a product with the factor (8) and one with the input (12), whose sum is
# read (4), a mean spread out (4), the gradient of a square, which copies, doubles and multiplies (8, 8, 12), and a sum of both ways (12).
# Source: pytorch/pytorch, torch/csrc/autograd/FunctionsManual.cpp (pow_backward, mean_backward); meta-llama/llama, llama/model.py.
_WRITTEN_OUT = {"rms_normalize": 20 / 8, "rms_normalize_grad": 68 / 12}


def task_ps(task: Task, sizes: Sizes, model: CostModel, held: Held = None) -> Ints:
    """Picoseconds of one task that has its resources to itself; `held`: the copies of segments over which its buckets reach."""
    match task:
        case Launches():
            return _launches_ps(task, sizes, model)
        case Compute():
            return one_each(picoseconds(compute_s(task, sizes, model, held)), sizes.num_plans)
    return task_price(task, sizes, model, held).ps


def _launches_ps(task: Launches, sizes: Sizes, model: CostModel) -> Ints:
    """Picoseconds of the host: none for what a graph replays, or where laws of single kernels hold what surrounds a call."""
    replayed, stack, node = model.replayed, model.stack, model.cluster.node
    if model.kernel_laws or replayed == ALL:
        return sizes.zero
    sizing = SIZING_LAUNCHES if task.experts and task.asks and stack.dispatch == ALL_TO_ALL else 0
    called = task.of_loads + sizing + (0 if replayed == AROUND_EXPERTS else task.count)
    experts = sizes.local(Sharding(("E",), (task.experts,)), "E") if task.experts is not None else sizes.zero
    one_ps, expert_ps = (int(picoseconds(each * node.launch_factor)) for each in (stack.host_launch_s, stack.expert_launch_s))
    launches = called * one_ps + task.of_experts * experts * expert_ps
    is_whole = (replayed == UNSPLIT) & (sizes.num_ranks(Group(("pp",))) * sizes.num_ranks(Group(("ep",))) == 1)
    return np.where(is_whole, 0, launches)


def task_price(task: Task, sizes: Sizes, model: CostModel, held: Held = None) -> Price:
    """The price of one task; what only waits, keeps the books of memory, or sums an empty bucket of a pass takes no time.

    A step's end is the same on all ranks: one whose bucket is empty makes its call, too.
    """
    match task:
        case Collective() if task.operation != "slice":  # a slice keeps what is there
            count = elements(payload(task), sizes, held)
            price = _with_launch(collective_price(task, count, sizes, model), sizes.num_ranks(task.group), model)
            return price.where(count > 0) if held is None else price
        case Send():
            return send_price(task, sizes, model)
        case HostCopy():
            link = model.cluster.node.host_link
            return private_price(model.cluster, link.latency_s + num_bytes(task.bucket, sizes, held) / link.bandwidth_bytes_per_s)
    return private_price(model.cluster, compute_s(task, sizes, model, held) if isinstance(task, Compute) else sizes.zero)


def send_price(task: Send, sizes: Sizes, model: CostModel, *, between_sites: bool = False) -> Price:
    """The price of a message to the next stage, in the same site or in another, until its last byte has left."""
    group, far = Group(("pp",)), np.full(sizes.num_plans, between_sites) if between_sites else None
    ranks, stride = sizes.num_ranks(group), sizes.stride(group)
    return _with_launch(p2p_price(model.cluster, message_bytes(task, sizes), stride, num_ranks=ranks, between_sites=far), ranks, model)


def _with_launch(price: Price, num_ranks: Ints, model: CostModel) -> Price:
    """The price with what the host does for a communication of several ranks."""
    launch_s = model.stack.message_launch_s
    return price.later(np.where(num_ranks > 1, launch_s, 0.0)) if launch_s else price


def send_ps(task: Send, sizes: Sizes, models: Iterable[CostModel], *, between_sites: bool = False) -> Ints:
    """Picoseconds of a message to the next stage by the slower of its two ends, whose nodes may be of two kinds; arguments as before."""
    return np.asarray(np.max([send_price(task, sizes, each, between_sites=between_sites).ps for each in models], axis=0))


def longer_ps(task: Send, sizes: Sizes, models: Sequence[CostModel]) -> Ints:
    """How much later a message to the next stage has left where that lies in another site; then it is on its way for the latency."""
    if models[0].cluster.num_sites == 1:
        return sizes.zero
    far, near = (send_ps(task, sizes, models, between_sites=each) for each in (True, False))
    return far - near


def compute_s(task: Compute, sizes: Sizes, model: CostModel, held: Held = None) -> Scalar:
    """Seconds of a kernel by its own law, or by that of its family; on the host by the memory that its devices share."""
    node, family = model.cluster.node, COSTS[task.kernel].family
    if task.stream == HOST:
        return hbm_bytes(task, sizes, held) / (node.host_memory_bytes_per_s / node.devices_per_node)
    if (name := law_name(task)) in model.kernel_laws:
        return _own_law_s(name, works_of(task, sizes, held), sizes, model)
    dtype = model.multiplies_in(task.dtype)
    keep = model.sustained_in(dtype) if family == "gemm" else model.sustained
    if family == "gemm":
        seconds = plain_gemm_s(task, sizes, node.accelerator, dtype, keep, is_batch=are_batched(sizes, model)) * gemm_factor(task)
        moved = 2 * elements(task.outputs[0], sizes) * sizes.itemsize_bytes[COMPUTE]
        return seconds + elementwise_s(node.accelerator, moved) if RESCALED in task.attributes else seconds
    traffic = hbm_bytes(task, sizes, held)
    if family == "attention":
        query = operands(task)[0].sharding
        of_head = np.maximum(sizes.local(query, along(query, QUERIES)) / _FLASH_BLOCK, 1.0)  # not rounded: a token more is never faster
        blocks = query_heads(query, sizes) * of_head
        width, is_gradient = head_widths(task, sizes)[0], task.kernel.endswith("_grad")
        rate = model.flash.backward if is_gradient else model.flash.forward
        worked = window_of(task, sizes).share_worked(int(sizes.dims["Z"][0]), model.flash.block)
        work, sustained = flops(task, sizes, held) * worked, keep * rate
        return attention_s(node.accelerator, work, traffic, blocks, width, dtype, is_gradient=is_gradient, sustained=sustained)
    if family == "scan":
        return scan_seconds(task, traffic, sizes, node.accelerator, dtype, keep)
    if task.kernel in RUN_BESIDE:
        return sizes.zero
    if sorts(task, model):
        return sorted_s(task, sizes, model)
    if (own := _epilogue(task, model)) is not None:
        return elementwise_s(node.accelerator, sum((num_bytes(each, sizes) for each in own), start=sizes.zero), fused=True)
    if task.kernel == "quantise" and task.attributes["across"] and not task.attributes["along"]:
        return _cast_by_row_s(task, sizes, node.accelerator)
    seconds = elementwise_s(node.accelerator, traffic * num_passes(task, model), fused=not is_launched(task))
    return seconds + _more_kernels(task, sizes) * node.accelerator.elementwise.launch_s


def num_passes(task: Compute, model: CostModel) -> float:
    """How often the bytes of one kernel move where several do its work."""
    if task.kernel in _WRITTEN_OUT and all(each.dtype == FLOAT32 for each in operands(task)):
        return _WRITTEN_OUT[task.kernel]
    return 1 if _fuses_around_experts(model) else _APART.get(task.kernel, 1)


def _more_kernels(task: Compute, sizes: Sizes) -> Ints:
    """Kernels beyond the one that is there, and that which looks for the largest element, of what is made narrow for each expert.

    Of a tensor by its own largest element two that move a number: one sets it to 0 before it is looked for, one makes it a scale (in 4
    bits the kernel that quantises does so).
    Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/common/recipe/current_scaling.cu (zero_amax_kernel,
    compute_scale_from_amax_kernel) and transformer_engine/pytorch/csrc/quantizer.cpp (Float8CurrentScalingQuantizer, NVFP4Quantizer).
    """
    if not (kernels := kernels_of_an_expert(task)):
        makes_scale = task.kernel == "quantise" and len(operands(task)) > 1 and task.attributes["format"] != "e2m1"
        return sizes.zero + int((makes_scale or task.kernel == "absmax") and JOINED not in task.attributes)
    x = operands(task)[0].sharding
    experts = sizes.local(Sharding(("E",), (x.axes[x.dims.index("X")],)), "E")
    return np.maximum(experts * kernels - min(kernels, 2), 0)


def _cast_by_row_s(task: Compute, sizes: Sizes, accelerator: Accelerator) -> Scalar:
    """Seconds of making narrow what has a scale a row, or a column, whose largest element is known only once all of it has been read."""
    (x,), seconds = operands(task), np.zeros(sizes.num_plans)
    for layout, narrow in zip(str(task.attributes["layouts"]).split(), results(task), strict=True):
        reads, factor = _CASTS_BY_ROW[layout]
        seconds = seconds + factor * elementwise_s(accelerator, reads * num_bytes(x, sizes) + num_bytes(narrow, sizes))
    return seconds


def _epilogue(task: Compute, model: CostModel) -> tuple[Operand, ...] | None:
    """What a kernel between the matmuls of experts still moves where the grouped GEMM before it does it, too; None of others.

    It has its product at hand, writes it narrow and no wide activation, and fetches gate and up for their gradient.
    Source: NVIDIA/TransformerEngine@d0067d0d, transformer_engine/pytorch/ops/fused/grouped_mlp.py (grouped_gemm_glu_wrapper_sm100 and
    grouped_gemm_dglu_wrapper_sm100, of MXFP8).
    """
    inputs = operands(task)
    if not inputs or not _fuses_around_experts(model):
        return None
    moved = {"quantise": results(task), "weighted_swiglu": (), "weighted_swiglu_grad": inputs[:2]}
    return moved.get(task.kernel) if {"X", "J"} <= set(inputs[0].dims) else None


def _fuses_around_experts(model: CostModel) -> bool:
    """Whether grouped GEMMs do what lies between them, which they can in blocks with scales of powers of two."""
    narrows = model.batch.recipe.narrows
    return "grouped_mlp" in model.stack.fusions and narrows is not None and narrows.scale == "e8m0"


def _own_law_s(name: str, calls: Iterable[Work], sizes: Sizes, model: CostModel) -> Scalar:
    """Seconds of calls of a kernel that has a law of its own: between that of a device alone and that of a node whose devices all work."""
    accelerator, devices = model.cluster.node.accelerator, model.cluster.node.devices_per_node
    alone, busy = accelerator.kernels[name], accelerator.busy_kernels.get(name, accelerator.kernels[name])
    share = (np.minimum(sizes.num_devices, devices) - 1) / max(devices - 1, 1)
    return sum(((1.0 - share) * each.seconds(alone) + share * each.seconds(busy) for each in calls), start=np.zeros(sizes.num_plans))


def collective_price(task: Collective, count: Ints, sizes: Sizes, model: CostModel) -> Price:
    """The price of a collective over so many elements of a group: by the fitted laws, or by the algorithm that the stack names."""
    if task.operation == "shift":
        payload_bytes = count * sizes.itemsize_bytes[payload(task).dtype]
        ranks, stride = sizes.num_ranks(task.group), sizes.stride(task.group)
        _, (members, apart) = floats(ranks, stride)
        far = spread_of(model.cluster, members, apart, reach_of(model.cluster, task.group, sizes)).sites > 1
        waits_s = np.where(far, model.cluster.site_link.latency_s, 0.0) if model.cluster.site_link else 0.0
        return p2p_price(model.cluster, payload_bytes, stride, num_ranks=ranks, between_sites=far, waits_s=waits_s)
    if model.stack.broadcasts_weights and task.operation == "all_gather" and isinstance(task.target, Bucket):
        return _in_turn(task, count, sizes, model)
    price = group_price(
        model.cluster,
        task.operation,
        elements=count,
        itemsize_bytes=sizes.itemsize_bytes[payload(task).dtype],
        num_ranks=sizes.num_ranks(task.group),
        stride=distance(task.group, sizes, model),
        algorithm=model.stack.collectives.get(task.operation),
        chunks=chunks_of(task, sizes),
        reach=reach_of(model.cluster, task.group, sizes),
    )
    if task.operation != "all_to_all" or view_of(task.group.axes) != EXPERT:
        return price
    itemsize_bytes = sizes.itemsize_bytes[payload(task).dtype]
    if exchanges := exchanges_of(task, sizes, model):
        return by_node_price(price, *(each * itemsize_bytes for each in exchanges.busiest()))
    return replace(price, seconds=price.seconds + _order_s(task, count * itemsize_bytes, sizes, model))


def _in_turn(task: Collective, count: Ints, sizes: Sizes, model: CostModel) -> Price:
    """The price of a broadcast of each rank's part, one after another: of as many starts as there are ranks, whatever they send.

    A ring hands a part on in pieces, so that all of it passes every link: as of an all_gather of n / (n - 1) such parts.
    """
    ranks = sizes.num_ranks(task.group)
    others = np.maximum(ranks - 1, 1)
    one = group_price(
        model.cluster,
        task.operation,
        elements=-(-count // others),
        itemsize_bytes=sizes.itemsize_bytes[payload(task).dtype],
        num_ranks=ranks,
        stride=distance(task.group, sizes, model),
        reach=reach_of(model.cluster, task.group, sizes),
    )
    return replace(one, seconds=one.seconds * ranks, wire_bytes=one.wire_bytes * (ranks - 1), num_steps=one.num_steps * ranks)


def _order_s(task: Collective, num_bytes: Ints, sizes: Sizes, model: CostModel) -> Scalar:
    """Seconds in which what ranks exchanged is put in order of experts, or back in that of ranks, where a rank has several.

    Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/moe/token_dispatcher.py (MoEAlltoAllTokenDispatcher.dispatch_postprocess,
    combine_preprocess: sort_chunks_by_idxs if num_local_experts > 1), a kernel that reads and writes all of it.
    """
    own = sizes.dims["E"] // sizes.num_ranks(task.group)
    return np.where(own > 1, order_s(num_bytes, model.cluster.node.accelerator, model), 0.0)


def distance(group: Group, sizes: Sizes, model: CostModel) -> Ints:
    """Devices between neighbours of a group; those of a pipeline's ends are as far apart as it is long, or stay in its node, and so are
    all pairs of ranks that mirror one another."""
    stride = sizes.stride(group)
    if not group.homes and not group.mirrors:
        return stride
    whole = sizes.num_ranks(Group(group.axes))
    in_node = whole * stride <= model.cluster.node.devices_per_node  # the whole pipeline, so both its ends
    return np.where(in_node, stride, stride * np.maximum(whole - 1, 1))
