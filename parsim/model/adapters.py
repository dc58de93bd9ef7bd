"""Low-rank adapters: beside a frozen matrix two thin ones, x A B, whose scaled product is added to its result.

Placed as Megatron-Bridge does: of a layer that tensor parallelism cuts by columns, A is cut along the rank, its result gathered, and B cut
by columns; of one cut by rows, A is cut by rows, its result summed, and B cut by columns, of which the ranks that share out a sequence make
their own tokens by an all-to-all (there `a2a_experimental`; else it gathers and slices).  Backward adds up and shares out in one what is an
all-reduce and a slice there.  Beside the narrow vectors of latent attention, which lie whole on every rank, both are whole.

Each expert has adapters of its own (there `share_expert_adapters = false`; torchtune has no others), or all of a layer share one, whose
gradient is a sum over the ranks of experts, too.  Expert tensor parallelism cuts them as tensor parallelism others, but beside the last
matrix: x A is shared out along the rank as it is summed, and B cut by its rows, so that its results are parts of the sums that the tokens
take home (there B is cut by columns, and each rank gathers what it multiplied of its own part of x A, which is not the sum).
Source: Hu et al. 2022 (arXiv:2106.09685), section 4.1; NVIDIA-NeMo/Megatron-Bridge@067f987df, src/megatron/bridge/peft/utils.py
(ParallelLinearAdapter, GroupedExpertLinearAdapter) and lora_layers.py; huggingface/peft, src/peft/tuners/lora/layer.py (Linear.forward),
for dropout of what enters A; pytorch/torchtune, torchtune/modules/moe/experts.py (LoRAGroupedExperts).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import MASK
from parsim.model.op import OF_PARTS, Block, Op, OpAttributes

ALL: Final = "all-linear"  # of peft
# What a target names: linear layers that share A, as the fused ones of Megatron do; of an MLP also those of experts, and of shared ones.
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    **{"q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "o_proj": ("out",)},
    **{"q_a_proj": ("q_down",), "q_b_proj": ("q",), "kv_a_proj_with_mqa": ("kv_down", "k_shared"), "kv_b_proj": ("k", "v")},
    **{"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)},
    **{"linear_qkv": ("q", "k", "v"), "linear_proj": ("out",), "linear_fc1": ("gate", "up"), "linear_fc2": ("down",)},
    **{"linear_q_proj": ("q",), "linear_q_down_proj": ("q_down",), "linear_q_up_proj": ("q",)},
    **{"linear_kv_down_proj": ("kv_down", "k_shared"), "linear_kv_up_proj": ("k", "v")},
}
SINGLE: Final = tuple(name for name in TARGETS if not name.startswith("linear"))
EXPERTS: Final = "experts_"
CROSS: Final = "cross_"  # before the names of what attends to the memory of an encoder
_PREFIXES: Final = ("", "shared_", EXPERTS, CROSS)
LATENTS: Final = ("expert_latent_down", "expert_latent_up")  # to vectors that go to experts, and back
LINEAR_WEIGHTS: Final = frozenset(
    f"{each}.weight" for each in (*LATENTS, *(prefix + stem for stems in TARGETS.values() for stem in stems for prefix in _PREFIXES))
)
_BY_ROWS: Final = ("out", "down", "shared_down", f"{CROSS}out")
_WHOLE: Final = ("q_down", "kv_down", "k_shared")  # on the residual stream
_ADAPTER: Final = "_lora_"
_OF_HEADS: Final = ("k_proj", "v_proj", "linear_qkv")  # that latent attention lacks
_OF_QUERIES: Final = ("q_proj", "linear_q_proj")  # that it lacks where queries are latent, too
_OF_LATENT_QUERIES: Final = ("q_a_proj", "q_b_proj", "linear_q_down_proj", "linear_q_up_proj")


class Adapters(Struct, frozen=True):
    """The adapters of all layers."""

    targets: tuple[str, ...]
    scale: float  # of their results
    dropout: float  # of what enters them
    shared: bool = False  # all experts of a layer have one


def stems_in(ops: Collection[str], target: str) -> list[tuple[str, ...]]:
    """The linear layers that a target names of a block with ops of these names, those that share A together.

    >>> stems_in({"up_gemm", "experts_up_gemm", "experts_gate_gemm"}, "linear_fc1")
    [('up',), ('experts_gate', 'experts_up')]
    >>> stems_in({"kv_down_gemm", "k_shared_gemm", "q_gemm", "k_gemm", "v_gemm"}, "k_proj")
    []
    """
    is_latent, has_latent_queries = "kv_down_gemm" in ops, "q_down_gemm" in ops
    lacking = (*(_OF_HEADS * is_latent), *(_OF_QUERIES * has_latent_queries), *(_OF_LATENT_QUERIES * (not has_latent_queries)))
    if target in lacking or (target in ("kv_b_proj", "linear_kv_up_proj", "linear_q_proj") and not is_latent):
        return []
    prefixes = (of for of in _PREFIXES if of != CROSS or target != "linear_qkv")  # there queries read what keys and values do not
    found = (tuple(f"{of}{stem}" for stem in TARGETS[target] if f"{of}{stem}_gemm" in ops) for of in prefixes)
    return [stems for stems in found if stems]


def each_target(names: Sequence[str]) -> tuple[str, ...]:
    """The targets that names mean; of all-linear also those that a model may lack."""
    return tuple(dict.fromkeys(each for name in names for each in (SINGLE if name == ALL else [name])))


def is_adapter(weight: str) -> bool:
    """Whether a weight is of an adapter, which no recipe makes narrow."""
    return _ADAPTER in weight


def with_adapters(block: Block, adapters: Adapters) -> Block:
    """The block with adapters beside those of its linear layers that are targets."""
    ops, weights = {op.name: op for op in block.ops}, dict(block.weights)
    behind: dict[str, list[Op]] = {}
    for stems in (stems for target in adapters.targets for stems in stems_in(ops, target)):
        group, bases = "_".join(stems), [ops[f"{stem}_gemm"] for stem in stems]
        weights |= dict.fromkeys((f"{group}_lora_a.weight", *(f"{stem}_lora_b.weight" for stem in stems)), "normal")
        if adapters.shared:
            bases = [replace(base, **_of_all_experts(base)) for base in bases]
        inside = [*_down(bases[0], group, adapters, *_ranks(stems[0]))]
        for base, stem in zip(bases, stems, strict=True):
            summed = ops[_whole_sum(base, ops.values()).name if stem in _BY_ROWS else base.name]  # what makes the sum whole
            ops[summed.name] = replace(summed, outputs=(f"{stem}_frozen",))
            inside += _up(base, summed, group, stem, adapters.scale)
            if stem in _WHOLE or stem == stems[-1]:  # others stand together, so that their input gradients add up
                behind[summed.name] = [*inside, *behind.get(summed.name, ())]
                inside = []
    return replace(block, ops=_in_order([op for name in ops for op in (ops[name], *behind.get(name, ()))]), weights=weights)


def _in_order(ops: Sequence[Op]) -> tuple[Op, ...]:
    """The same where each stands behind what makes its inputs: a bias between two that share their A waits for the sum of the first."""
    to_come = {name for op in ops for name in op.outputs}
    found, late = list[Op](), list[Op]()
    for op in ops:
        late.append(op)
        while ready := next((each for each in late if not to_come & {*each.inputs}), None):
            late.remove(ready)
            found.append(ready)
            to_come -= {*ready.outputs}
    return (*found, *late)


def _whole_sum(base: Op, ops: Iterable[Op]) -> Op:
    """What makes the partial sums of a layer cut by rows whole: what takes them, or takes what they are joined into."""
    user = next(op for op in ops if base.outputs[0] in op.inputs)
    return user if user.kind == "relabel" else _whole_sum(user, ops)


def _ranks(stem: str) -> tuple[str, str]:
    """The dims of an adapter's rank: as A makes it, of which ranks that cut its columns make some each, and as B sums over it."""
    if stem.startswith(EXPERTS):
        return ("b", "be") if stem == f"{EXPERTS}down" else ("be", "b")
    return ("b", "b") if stem in (*_BY_ROWS, *_WHOLE) else ("a", "b")


def _of_all_experts(base: Op) -> dict[str, Any]:
    """What of a linear layer of experts is another where one matrix serves them all."""
    (x, w), (y,) = base.terms
    return {"expr": f"{' '.join(x)}, {' '.join(dim for dim in w if dim != 'E')} -> {' '.join(y)}", "kind": "einsum", "attributes": ()}


def _down(base: Op, group: str, adapters: Adapters, made: str, summed: str) -> Iterator[Op]:
    """x A, as B takes it."""
    (x_dims, w_dims), _ = base.terms
    (x, _), rows = base.inputs, [dim for dim in w_dims if dim in x_dims]
    experts = [dim for dim in w_dims if dim == "E"]
    entering, whole = " ".join(x_dims), " ".join(dim for dim in x_dims if dim not in rows)
    if adapters.dropout:
        mask = f"{group}_lora_mask"
        yield Op(mask, f"-> {entering}", (), (mask,), "draw", (MASK,), tag=base.tag)
        dropped, drop = (f"{group}_lora_in",), (("p", adapters.dropout),)
        expr = f"{entering}, {entering} -> {entering}"
        yield Op(f"{group}_lora_dropout", expr, (x, mask), dropped, "dropout", attributes=drop, tag=base.tag)
        (x,) = dropped
    is_moved = made != summed
    out, expr = f"{group}_lora{'_parts' * is_moved}", f"{entering}, {' '.join((*experts, *rows))} {made} -> {whole} {made}"
    yield Op(f"{group}_lora_a_gemm", expr, (x, f"{group}_lora_a.weight"), (out,), base.kind, attributes=base.attributes, tag=base.tag)
    if is_moved:
        yield Op(f"{group}_lora_gather", f"{whole} {made} -> {whole} {summed}", (out,), (f"{group}_lora",), "relabel", tag=base.tag)


def _up(base: Op, summed: Op, group: str, stem: str, scale: float) -> Iterator[Op]:
    """What is added to the result of the frozen matrix, where that is whole."""
    by_rows, (result,), (_, rank) = stem in _BY_ROWS, base.terms[1], _ranks(stem)
    columns = [dim for dim in base.terms[0][1] if dim in result]
    experts = "E " if "E" in base.terms[0][1] else ""
    tokens = " ".join(dim for dim in result if dim not in columns)
    named = "d" if by_rows else " ".join(columns)
    name, inputs = f"{stem}_lora_b", (f"{group}_lora", f"{stem}_lora_b.weight")
    expr, told = f"{tokens} {rank}, {experts}{rank} {named} -> {tokens} {named}", base.attributes
    yield Op(f"{name}_gemm", expr, inputs, (f"{name}_gemm",), base.kind, attributes=told, tag=base.tag)
    x, dims = f"{name}_gemm", " ".join(summed.terms[1][0])
    if by_rows:
        yield Op(f"{name}_leave", f"{tokens} d -> {dims}", (x,), (f"{name}_left",), "relabel", tag=base.tag)
        x = f"{name}_left"
    scaled: OpAttributes = (("scale", scale), *(((OF_PARTS, 1),) if rank == "be" else ()))
    yield Op(f"{name}_scale", f"{dims} -> {dims}", (x,), (f"{name}_scaled",), "scale", attributes=scaled, tag=base.tag)
    added = (f"{stem}_frozen", f"{name}_scaled")
    yield Op(f"{name}_add", f"{dims}, {dims} -> {dims}", added, summed.outputs, "add", in_place=True, tag=base.tag)
