"""MaxText's mesh: an axis for each way to split, inside a slice (ici) and between slices (dcn); a node of GPUs is a slice.

Source: AI-Hypercomputer/maxtext, commit e591f30c, src/maxtext/configs/base.yml (logical_axis_rules, ici_ and dcn_ keys).
"""

from __future__ import annotations

from math import gcd, prod
from typing import Any, Final

from parsim.targets.entries import Keys
from parsim.targets.figures import FiguresRow, spec_of
from parsim.targets.maxtext.models import has_experts, read_row
from parsim.targets.starting import processes_of
from parsim.targets.target import KeyValue, Setup

# From the axis whose ranks are neighbours.
ORDER: Final = ("tensor_sequence", "context_usp_ulysses", "context", "expert", "fsdp", "data", "pipeline")
_USUAL: Final = {"ici_fsdp": -1, "dcn_data": -1}
_OTHERS: Final = ("diloco", "sequence", "context_autoregressive", "autoregressive")  # that nothing is written to
_STRATEGY, _BALANCE = "context_parallel_strategy", "context_parallel_load_balance"
KINDS: Final = {  # context_kind: strategy, and whether each rank has a chunk from either end
    "all_gather": ("all_gather", True),
    "contiguous": ("all_gather", False),
    "ring": ("ring", True),
    "ulysses": ("ulysses", False),
    "ulysses_ring": ("usp", True),
}
_OVER_DATA, _ONCE = "shard_optimizer_over_data", "pipeline_fsdp_ag_once"


def sizes_of(setup: Setup) -> dict[str, int]:
    """Ranks of each axis.

    Weights are sharded over fsdp, expert and context; what tensor_sequence cuts is the sequence on the stream beside heads and widths.
    """
    plan = setup.plan
    group = (plan.zero_group or plan.data_parallel) if plan.zero_stage == 3 else plan.expert_parallel
    inner = plan.context_group or 1
    return {
        "tensor_sequence": plan.tensor_parallel,
        "context_usp_ulysses": inner,
        "context": plan.context_parallel // inner,
        "expert": plan.expert_parallel,
        "fsdp": max(group // plan.expert_parallel, 1),
        "data": plan.data_parallel // max(group, 1),
        "pipeline": plan.pipeline_parallel,
    }


def split(setup: Setup) -> dict[str, tuple[int, int]] | None:
    """Ranks of each axis inside a slice and between slices, neighbours first; None: no slice holds whole ranks of each."""
    room, found = processes_of(setup).per_node, {}
    for axis in ORDER:
        size = sizes_of(setup)[axis]
        inside = gcd(size, room)
        if inside not in (size, room):
            return None
        room, found[axis] = room // inside, (inside, size // inside)
    return found


def write(setup: Setup) -> dict[str, KeyValue]:
    """All degrees, ZeRO, and how attention reaches other parts of a sequence."""
    plan = setup.plan
    keys: dict[str, KeyValue] = {}
    for axis, (inside, between) in (split(setup) or {}).items():
        keys |= {f"ici_{axis}_parallelism": inside, f"dcn_{axis}_parallelism": between}
    if plan.zero_stage == 1:
        keys[_OVER_DATA] = True
    if plan.context_parallel > 1 and plan.context_kind in KINDS:
        keys[_STRATEGY], keys[_BALANCE] = KINDS[plan.context_kind]
        if keys[_STRATEGY] in ("ulysses", "usp") or (keys[_STRATEGY] == "ring" and on_tpu(setup)):
            keys |= {"attention": "flash", "use_tokamax_splash": True}
    if plan.pipeline_parallel > 1 and plan.zero_stage == 3:
        keeps = setup.stack.pipeline_keeps_parameters if plan.reshard_after_forward is None else not plan.reshard_after_forward
        keys[_ONCE] = keeps
    return keys


def on_tpu(setup: Setup) -> bool:
    """Whether the devices are TPUs."""
    return all(each.node.accelerator.name.startswith("tpu") for each in setup.cluster.kinds)


def ranks(keys: Keys, axis: str) -> int:
    """Ranks of an axis on one slice, and on all where that is said; 0: what remains, which the number of devices says."""
    inside, between = (_degree(keys, f"{where}_{axis}") for where in ("ici", "dcn"))
    slices = next((said for key in ("num_slices", "compile_topology_num_slices") if (said := keys.like(key, -1)) > 0), 1)
    return 0 if inside == -1 else int(inside * (slices if between == -1 else between))


def _degree(keys: Keys, axis: str) -> int:
    key = f"{axis}_parallelism"
    return -1 if keys.take(key) == -1 else int(keys.like(key, _USUAL.get(axis, 1)))


def read(keys: Keys) -> dict[str, Any]:
    """The degrees of a plan, and its ZeRO."""
    for axis in _OTHERS:
        for key in (f"ici_{axis}_parallelism", f"dcn_{axis}_parallelism"):
            if keys.like(key, 1) not in (1, None):
                keys.leave(key, "parsim has no such axis")
    tensor, sequence = ranks(keys, "tensor"), ranks(keys, "tensor_sequence")
    if tensor > 1:
        keys.leave("ici_tensor_parallelism", "it cuts hidden_size on the stream; parsim cuts the sequence there, which is as many bytes")
    expert, inner, context = ranks(keys, "expert"), ranks(keys, "context_usp_ulysses"), ranks(keys, "context")
    if (both := ranks(keys, "fsdp_transpose")) != 1:
        keys.leave("ici_fsdp_transpose_parallelism", "it shards another dim of a weight than axis fsdp; parsim has one axis for both")
    group, copies = ranks(keys, "fsdp") * both * expert, ranks(keys, "data")
    shards = group != 1 or context * inner != 1
    found: dict[str, Any] = {
        "plan.tensor_parallel": tensor * sequence,
        "plan.sequence_parallel": tensor * sequence > 1,
        "plan.context_parallel": context * inner,
        "plan.context_group": inner if inner > 1 else None,
        "plan.pipeline_parallel": ranks(keys, "pipeline"),
        "plan.zero_stage": 3 if shards else int(bool(keys.like(_OVER_DATA, False))),
        **_experts(keys, expert, tensor * sequence),
        **_kind(keys),
    }
    if group and copies:
        found |= {"plan.data_parallel": group * copies, "plan.zero_group": group if shards and copies > 1 else None}
    elif copies > 1:
        keys.leave("ici_data_parallelism", "how many replicas shard, the number of devices says: state data_parallel and zero_group")
    once = keys.like(_ONCE, False) or keys.like("pipeline_fsdp_ag_per_repeat", False)
    found["plan.reshard_after_forward"] = False if shards and once and found["plan.pipeline_parallel"] > 1 else None
    if shards and found["plan.pipeline_parallel"] > 1 and not once:
        found["plan.reshard_after_forward"] = True
    if any(found[name] == 0 for name in ("plan.tensor_parallel", "plan.context_parallel", "plan.pipeline_parallel")):
        keys.leave("ici_tensor_parallelism", "what remains of the devices, whose number is not said")
    return {field: value for field, value in found.items() if value not in (None, 0) or field == "plan.zero_stage"}


def _experts(keys: Keys, expert: int, tensor: int) -> dict[str, Any]:
    """Tensor parallelism cuts experts as it cuts all else; without experts their axis is one more of FSDP."""
    row = read_row(keys)
    if row is None or not has_experts(row):
        return {}
    return {"plan.expert_parallel": expert, "plan.expert_tensor_parallel": tensor}


def _kind(keys: Keys) -> dict[str, Any]:
    found = str(keys.like(_STRATEGY, "all_gather")), bool(keys.like(_BALANCE, True))
    named = next((ours for ours, theirs in KINDS.items() if theirs == found), None)
    return {"plan.context_kind": named or next((ours for ours, theirs in KINDS.items() if theirs[0] == found[0]), "all_gather")}


def num_layers(row: FiguresRow) -> int:
    """Layers of a model."""
    return spec_of(row).num_layers


def num_devices(setup: Setup) -> int:
    """Those that the axes multiply to."""
    return prod(sizes_of(setup).values())
