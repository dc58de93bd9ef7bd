"""Low-rank adapters: beside a frozen matrix two thin ones, x A B, whose scaled product is added to its result.

Placed as Megatron-Bridge does: of a layer that tensor parallelism cuts by columns, A is cut along the rank, its result gathered, and B cut
by columns; of one cut by rows, A is cut by rows, its result summed, and B cut by columns, of which the ranks that share out a sequence make
their own tokens by an all-to-all (there `a2a_experimental`; else it gathers and slices).  Backward adds up and shares out in one what is an
all-reduce and a slice there.
Source: Hu et al. 2022 (arXiv:2106.09685), section 4.1; NVIDIA-NeMo/Megatron-Bridge, src/megatron/bridge/peft/utils.py
(ParallelLinearAdapter) and lora_layers.py; huggingface/peft, src/peft/tuners/lora/layer.py (Linear.forward), for dropout of what enters A.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.dims import MASK
from parsim.model.op import Block, Op

ALL: Final = "all-linear"  # of peft
# What a target names: linear layers that share A, as the fused ones of Megatron do.
TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    **{"q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",), "o_proj": ("out",)},
    **{"gate_proj": ("gate",), "up_proj": ("up",), "down_proj": ("down",)},
    **{"linear_qkv": ("q", "k", "v"), "linear_proj": ("out",), "linear_fc1": ("gate", "up"), "linear_fc2": ("down",)},
}
SINGLE: Final = tuple(name for name in TARGETS if name.endswith("_proj") and not name.startswith("linear"))
LINEAR_WEIGHTS: Final = frozenset(f"{stem}.weight" for stems in TARGETS.values() for stem in stems)
_BY_ROWS: Final = ("out", "down")
_ADAPTER: Final = "_lora_"


class Adapters(Struct, frozen=True):
    """The adapters of all layers."""

    targets: tuple[str, ...]
    scale: float  # of their results
    dropout: float  # of what enters them

    def group_of(self, stem: str) -> str:
        """What the first matrix of the adapter of a linear layer is called after."""
        return next("_".join(TARGETS[each]) for each in self.targets if stem in TARGETS[each])


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
    for target in adapters.targets:
        bases = [ops[name] for stem in TARGETS[target] if (name := f"{stem}_gemm") in ops]
        if not bases:
            continue
        stems = [op.name.removesuffix("_gemm") for op in bases]
        group = adapters.group_of(stems[0])
        inside = [*_down(bases[0], group, adapters, by_rows=stems[0] in _BY_ROWS)]
        last = bases[-1].name
        weights |= dict.fromkeys((f"{group}_lora_a.weight", *(f"{stem}_lora_b.weight" for stem in stems)), "normal")
        for base, stem in zip(bases, stems, strict=True):
            summed = next(op for op in block.ops if op.inputs[:1] == base.outputs) if stem in _BY_ROWS else base  # what makes the sum whole
            last = summed.name if stem in _BY_ROWS else last
            ops[summed.name] = replace(summed, outputs=(f"{stem}_frozen",))
            inside += _up(base, summed, group, stem, adapters.scale)
        behind[last] = inside
    return replace(block, ops=tuple(op for name in ops for op in (ops[name], *behind.get(name, ()))), weights=weights)


def _down(base: Op, group: str, adapters: Adapters, *, by_rows: bool) -> Iterator[Op]:
    """x A, in all its ranks."""
    (x_dims, w_dims), _ = base.terms
    (x, _), rows = base.inputs, [dim for dim in w_dims if dim in x_dims]
    entering, whole = " ".join(x_dims), " ".join(dim for dim in x_dims if dim not in rows)
    if adapters.dropout:
        mask = f"{group}_lora_mask"
        yield Op(mask, f"-> {entering}", (), (mask,), "draw", (MASK,), tag=base.tag)
        dropped, drop = (f"{group}_lora_in",), (("p", adapters.dropout),)
        expr = f"{entering}, {entering} -> {entering}"
        yield Op(f"{group}_lora_dropout", expr, (x, mask), dropped, "dropout", attributes=drop, tag=base.tag)
        (x,) = dropped
    inputs, rank = (x, f"{group}_lora_a.weight"), "b" if by_rows else "a"
    out = f"{group}_lora" if by_rows else f"{group}_lora_parts"
    yield Op(f"{group}_lora_a_gemm", f"{entering}, {' '.join(rows)} {rank} -> {whole} {rank}", inputs, (out,), tag=base.tag)
    if not by_rows:
        yield Op(f"{group}_lora_gather", f"{whole} a -> {whole} b", (out,), (f"{group}_lora",), "relabel", tag=base.tag)


def _up(base: Op, summed: Op, group: str, stem: str, scale: float) -> Iterator[Op]:
    """What is added to the result of the frozen matrix, where that is whole."""
    by_rows, (result,) = summed is not base, base.terms[1]
    columns = [dim for dim in base.terms[0][1] if dim in result]
    tokens = " ".join(dim for dim in result if dim not in columns)
    named = "d" if by_rows else " ".join(columns)
    name, inputs = f"{stem}_lora_b", (f"{group}_lora", f"{stem}_lora_b.weight")
    yield Op(f"{name}_gemm", f"{tokens} b, b {named} -> {tokens} {named}", inputs, (f"{name}_gemm",), tag=base.tag)
    x, dims = f"{name}_gemm", " ".join(summed.terms[1][0])
    if by_rows:
        yield Op(f"{name}_leave", f"{tokens} d -> {dims}", (x,), (f"{name}_left",), "relabel", tag=base.tag)
        x = f"{name}_left"
    yield Op(f"{name}_scale", f"{dims} -> {dims}", (x,), (f"{name}_scaled",), "scale", attributes=(("scale", scale),), tag=base.tag)
    added = (f"{stem}_frozen", f"{name}_scaled")
    yield Op(f"{name}_add", f"{dims}, {dims} -> {dims}", added, summed.outputs, "add", in_place=True, tag=base.tag)
