"""How a plan shares the work out: the mesh of ranks, and what each of its dimensions does with blocks and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from model import Chain, Units
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

REPLICAS = ("dp_replicate", "dp")  # groups of replicas, and the replicas of a group, among which FSDP shards
BUCKET_BYTES = 25 * 2**20  # of gradients in a message, as DistributedDataParallel has it


def mesh_of(plan: Mapping[str, Any], device: str) -> DeviceMesh:
    """All ranks; neighbours differ along the axis that the plan's rank_order names first."""
    group = plan["zero_group"] or plan["data_parallel"]
    degrees = {"dp_replicate": plan["data_parallel"] // group, "dp": group, "tp": plan["tensor_parallel"], "pp": plan["pipeline_parallel"]}
    order = [axis for axis in reversed(plan["rank_order"].split("-")) if axis in degrees]
    if "dp_replicate" not in order:
        order.insert(order.index("dp"), "dp_replicate")
    return init_device_mesh(device, tuple(degrees[axis] for axis in order), mesh_dim_names=tuple(order))


def split_tensors(chain: Chain, mesh: DeviceMesh, *, sequence_parallel: bool) -> None:
    """Tensor parallelism: first matrices by columns, second ones by rows, tables by rows; between blocks perhaps each rank its tokens."""
    stream = Shard(1) if sequence_parallel else Replicate()
    whole = PrepareModuleInput(input_layouts=(stream,), desired_input_layouts=(Replicate(),))
    attention = {f"attention.{name}": ColwiseParallel() for name in "qkv"} | {"attention.out": RowwiseParallel(output_layouts=stream)}
    mlp = {f"mlp.{name}": ColwiseParallel() for name in ("gate", "up")} | {"mlp.down": RowwiseParallel(output_layouts=stream)}
    by_heads = {f"attention.{name}_norm": SequenceParallel(sequence_dim=2, use_local_output=True) for name in "qk"}
    plan: dict[str, Any] = {"attention": whole, **attention, **by_heads, "mlp": whole, **mlp}
    plan |= {"up": ColwiseParallel(), "down": RowwiseParallel()}  # of a plain MLP
    embedding: dict[str, Any] = {"word": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream)}
    head: dict[str, Any] = {"word": ColwiseParallel(input_layouts=stream, output_layouts=Replicate())}
    if sequence_parallel:
        embedding["position"] = head["norm"] = plan["norm1"] = plan["norm2"] = SequenceParallel(use_local_output=True)
    for name, block in chain.items():
        styles = {"embedding": embedding, "head": head}.get(name, plan)
        if isinstance(block, Units):  # by columns and by rows in turn; labels by rows or not at all
            by_columns = {} if block.is_head else {block.path: ColwiseParallel()}
            styles = {block.path: RowwiseParallel()} if block.place % 2 else by_columns
        there = dict(block.named_modules())
        parallelize_module(block, mesh, {path: style for path, style in styles.items() if path in there})


def shard(chain: Chain, mesh: DeviceMesh, *, reshard: bool, together: Iterable[str], dtype: torch.dtype) -> None:
    """FSDP: ranks of a group hold a part each of every weight, gradient and optimizer state; `together`: blocks that share a weight."""
    own = [axis for axis in REPLICAS if mesh[axis].size() > 1]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    options: dict[str, Any] = {"mesh": mesh[REPLICAS if "dp_replicate" in own else "dp"], "mp_policy": policy}
    for name, block in chain.items():
        if name not in together:
            fully_shard(block, reshard_after_forward=reshard, **options)
    fully_shard(chain, **options)
    if dist.get_backend() == "gloo":  # which sums, but makes no averages
        chain.set_force_sum_reduction_for_comms(True)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def place_gradients(parameters: list[nn.Parameter]) -> None:
    """Leave each rank the part of a gradient that belongs to its part of the weight; DTensor gives some whole, as that of a table."""
    for parameter in parameters:
        if isinstance(parameter, DTensor) and parameter.grad.placements != parameter.placements:
            parameter.grad = parameter.grad.redistribute(placements=parameter.placements)


def average_gradients(parameters: list[nn.Parameter], mesh: DeviceMesh, *, to_master: bool) -> None:
    """Data parallelism: the mean of all replicas' gradients for each of them, or for the first alone, which is the master."""
    for axis in (axis for axis in REPLICAS if mesh[axis].size() > 1):
        group = mesh[axis].get_group()
        for bucket in buckets_of([local(parameter.grad) for parameter in parameters]):
            flat = torch.cat([gradient.flatten() for gradient in bucket]).div_(group.size())
            if to_master:
                dist.reduce(flat, group=group, group_dst=0)
            else:
                dist.all_reduce(flat, group=group)
            spread(flat, bucket)


def share_weights(parameters: list[nn.Parameter], mesh: DeviceMesh) -> None:
    """The master's weights for all replicas."""
    for bucket in buckets_of([local(parameter.data) for parameter in parameters]):
        flat = torch.cat([weight.flatten() for weight in bucket])
        dist.broadcast(flat, group=mesh["dp"].get_group(), group_src=0)
        spread(flat, bucket)


def buckets_of(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors that go in one message: a message for each would start as often as there are weights."""
    bucket, size = [], 0
    for tensor in tensors:
        bucket.append(tensor)
        size += tensor.nbytes
        if size >= BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def spread(flat: Tensor, bucket: list[Tensor]) -> None:
    """Put the parts of a bucket back."""
    for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
        tensor.copy_(part.view_as(tensor))


def ends_of(mesh: DeviceMesh) -> dist.ProcessGroup | None:
    """The first and the last stage of this rank's pipeline, which share a tied table; None for the others."""
    pipelines = mesh.mesh.movedim(mesh.mesh_dim_names.index("pp"), -1).flatten(0, -2)
    pairs = [sorted((line[0], line[-1])) for line in pipelines.tolist()]
    group, _ = dist.new_subgroups_by_enumeration(pairs)
    return group if dist.get_rank() in {rank for pair in pairs for rank in pair} else None


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that lie on the same mesh, which one call may handle together."""
    found: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(parameter.device_mesh if isinstance(parameter, DTensor) else None, []).append(parameter)
    return list(found.values())


def clip_gradients(parameters: list[nn.Parameter], counted: list[nn.Parameter], max_norm: float, mesh: DeviceMesh) -> None:
    """Shorten all gradients to max_norm where they are longer together; `counted` are those of this rank that no other stage counts."""
    square = torch.zeros((), device=mesh.device_type)
    for group in by_mesh(counted):
        norm = get_total_norm([parameter.grad for parameter in group])
        square += (norm.full_tensor() if isinstance(norm, DTensor) else norm) ** 2
    if mesh["pp"].size() > 1:
        dist.all_reduce(square, group=mesh["pp"].get_group())
    for group in by_mesh(parameters):
        clip_grads_with_norm_(group, max_norm, square.sqrt())
