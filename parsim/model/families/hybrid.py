"""Models whose layers are of several kinds, each between a norm and a residual add: a Mamba-2 mixer, attention, an MLP or experts.

A pattern names them, a letter a layer, as Megatron Core's hybrid models and Nemotron-H do; of one letter M it is Mamba-2.
Source: Dao and Gu 2024 (arXiv:2405.21060); Waleffe et al. 2024 (arXiv:2406.07887); NVIDIA 2025 (Nemotron-H, arXiv:2504.03624), section 2.1;
NVIDIA/Megatron-LM, megatron/core/ssm/mamba_hybrid_layer_allocation.py, for the letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Final, Self

from msgspec.structs import asdict, replace

from parsim.model.blocks import LAYER_NORM, RESIDUAL_SCALE, in_region, transformer_layer
from parsim.model.ends import embedding, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.form import LayerForm
from parsim.model.mamba import AGAIN, WEIGHTS, mixer
from parsim.model.norms import norm, norm_weights
from parsim.model.op import Block, Layout, Op
from parsim.model.spec import MOST_LAYERS, figure
from parsim.model.transformer import TransformerArchitecture, TransformerSpec
from parsim.model.tuning import BOTTOM, FROZEN

MAMBA, ATTENTION, DENSE, EXPERTS = "M", "*", "-", "E"
MAMBA_AND, ATTENTION_AND = "m", "a"  # a layer of two halves, of which the second is of experts, where there are some, or an MLP
HALVES: Final = {MAMBA_AND: MAMBA, ATTENTION_AND: ATTENTION}  # and the first
_BLOCKS: Final = {
    **{MAMBA: "mamba_layer", ATTENTION: "attention_layer", DENSE: "mlp_layer", EXPERTS: "expert_layer"},
    **{MAMBA_AND: "mamba_mlp_layer", ATTENTION_AND: "attention_mlp_layer"},
}
_SCAN_FLOPS: Final = 7  # a token, channel and element of a state: NVIDIA/Megatron-LM, megatron/training/training.py (mamba_layer_flops)
_NOT_BUILT: Final = (
    *(
        "bias",
        "qkv_bias",
        "head_bias",
        "parallel_block",
        "norm_last",
        "norm_after",
        "sandwich_norm",
        "unnormed_first",
        "embedding_norm",
        "unnormed_embedding",
        "embedding_size",
    ),
    *("num_token_types", "position_offset", "sliding_window", "attention_chunk", "full_attention_every", "unturned_every"),
    *("attention_sinks", "kv_lora_rank", "dropout", "num_dense_layers"),
    *("full_head_dim", "full_kv_heads", "full_rotary_dim", "keys_as_values", "values_normed", "layer_scale", "experts_beside_mlp"),
)


class HybridArchitecture(TransformerArchitecture, frozen=True, kw_only=True):
    """Which ops the blocks of a hybrid have."""

    family: ClassVar[str] = "hybrid"
    letters: tuple[str, ...]  # each kind of layer once, in the order in which they first come
    loads: tuple[tuple[str, int], ...]  # the loads of each kind that has experts, in the same order
    conv_width: int


class HybridSpec(TransformerSpec, frozen=True, kw_only=True):
    """A model of Mamba-2 layers, perhaps with layers of attention, of an MLP and of experts among them.

    >>> HybridSpec.of(
    ...     name="tiny", pattern="MM*-", hidden_size=8, num_heads=2, vocab_size=64, max_positions=16, mamba_heads=4, mamba_head_dim=4
    ... ).layout
    (('embedding', 1), ('mamba_layer', 2), ('attention_layer', 1), ('mlp_layer', 1), ('head', 1))
    """

    pattern: str = figure(
        "a letter a layer, M for Mamba-2, * attention, - an MLP, E experts, m and a for Mamba-2 and attention with an MLP or experts "
        "behind them in one layer; again and again, where there are more layers",
        aliases=("hybrid_override_pattern", "hybrid_layer_pattern", "layers_block_type"),
    )
    num_layers: int = figure(
        "the number of layers; that of the letters of the pattern where left out", most=MOST_LAYERS, rule=lambda row: len(row["pattern"])
    )
    num_heads: int = figure("the number of query heads, where the pattern has attention", 1)
    mamba_heads: int = figure("the heads of a Mamba-2 layer; 2 hidden_size / mamba_head_dim where left out", rule=lambda row: _heads(row))
    mamba_head_dim: int = figure("the width of such a head", 64)
    mamba_groups: int = figure("the groups of such heads, each of which shares B and C", 1)
    state_size: int = figure("the width of the state of an element of such a head", 128, aliases=("ssm_state_size", "d_state"))
    conv_width: int = figure("the tokens that its convolution sees, the present one among them", 4, most=64)
    scan_chunk: int = figure("the tokens of a chunk of its scan", 256, aliases=("chunk_size",))
    activation: str = figure(
        "the nonlinearity of the MLP", "squared_relu", legal=("gelu", "relu", "squared_relu", "swiglu", "geglu", "clamped_swiglu")
    )
    norm: str = figure("what normalises the input of each layer and of the head", "rms_norm", legal=("rms_norm", "layer_norm"))
    positions: str = figure("what tells positions apart in attention", "none", legal=("none", "rotary"))
    bias: bool = figure("whether linear layers have biases, which is not built", False)
    qkv_bias: bool = figure("whether those of queries, keys and values do, which is not built", False)
    dropout: float = figure("the share of elements dropped, which is not built above 0", 0.0)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        if unknown := next((letter for letter in self.pattern if letter not in _BLOCKS), "" if self.pattern else "no letter"):
            has = repr(unknown) if self.pattern else unknown
            return f"pattern = {self.pattern!r} has {has}; a layer is one of {' '.join(_BLOCKS)}"
        if self.num_layers % len(self.pattern):
            return f"pattern has {len(self.pattern)} letters, of which num_layers = {self.num_layers} is no multiple"
        if asked := next((name for name in _NOT_BUILT if getattr(self, name)), ""):
            return f"{asked} = {getattr(self, asked)} is not built in hybrid models; leave it out"
        if not self.causal or self.head != "next_token" or self.expert_layer_every != 1:
            return "a hybrid model has causal = true and head = next_token, and its pattern says where experts are; leave these out"
        if self.mamba_heads % self.mamba_groups:
            return f"mamba_groups = {self.mamba_groups} does not divide mamba_heads = {self.mamba_heads}"
        if self.mtp_layers and (self.pattern[-1] != EXPERTS or ATTENTION not in self.pattern):
            return "mtp_layers = 1 is built of attention and experts, behind a last layer of experts"
        kinds = {*self.pattern}
        if (not self.num_experts and EXPERTS in kinds) or (self.num_experts and kinds.isdisjoint((EXPERTS, *HALVES))):
            return f"pattern has {'E' if EXPERTS in self.pattern else 'no E'}, but num_experts = {self.num_experts}"
        return super().misfit(stated)

    @property
    def letters(self) -> str:
        """The letter of each layer."""
        return self.pattern * (self.num_layers // len(self.pattern))

    @property
    def has_dense(self) -> bool:
        """Whether a layer is an MLP."""
        return DENSE in self.pattern or (not self.num_experts and not {*self.pattern}.isdisjoint(HALVES))

    def has_experts(self, layer: int) -> bool:
        """Whether a layer is of experts, or a half of it."""
        letter = self.pattern[layer % len(self.pattern)]
        return letter == EXPERTS or (self.num_experts > 0 and letter in HALVES)

    def has_half(self, letter: str) -> bool:
        """Whether a layer, or the first half of one, is of this kind."""
        return letter in {HALVES.get(each, each) for each in self.pattern}

    @property
    def layout(self) -> Layout:
        """Layers of one kind, in runs."""
        names = (_name(each, self.load_row(layer) if self.has_experts(layer) else 0) for layer, each in enumerate(self.letters))
        runs = ((name, len([*run])) for name, run in groupby(names))
        return self.tuning.with_marks((("embedding", 1), *runs, ("head", 1)))

    @property
    def architecture(self) -> HybridArchitecture:
        """What decides which ops there are."""
        later = LayerForm(experts=True, loads=self.load_row(self.num_layers - 1)) if self.mtp_layers else None
        base = {**asdict(super().architecture), "layers": (), "later": later}
        kinds = tuple(dict.fromkeys(self.letters))
        loaded = ((each, self.load_row(layer)) for layer, each in enumerate(self.letters) if self.has_experts(layer))
        loads, width = tuple(dict.fromkeys(loaded)), self.conv_width * self.has_half(MAMBA)
        return HybridArchitecture(**base, letters=kinds, loads=loads, conv_width=width)

    @property
    def extents(self) -> dict[str, int]:
        """Those of a transformer, as far as layers have them, and those of Mamba-2."""
        has_heads = self.has_half(ATTENTION) or self.mtp_layers
        others = {dim: extent for dim, extent in super().extents.items() if has_heads or dim not in "KARC"}
        if not self.has_half(MAMBA):
            return others
        heads, width, state = self.mamba_heads // self.mamba_groups, self.mamba_head_dim, self.state_size
        own = {"g": self.mamba_groups, "h": heads, "p": width, "m": state, "f": heads * width + 2 * state}
        return {**others, **own, "k": self.conv_width, "c": self.scan_chunk}

    @property
    def whole_because(self) -> str:
        """A state goes from token to token, where there are Mamba-2 layers."""
        return "whose Mamba layers hand a state on from token to token" if self.has_half(MAMBA) else ""

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """Those of attention, whose mask leaves half, and of the scan, as Megatron-LM counts it."""
        names = [name for name, copies in self.layout[1:-1] for _ in range(copies)]
        passes = [1 if name.startswith(BOTTOM + FROZEN) else 3 for name in names]
        halves = [HALVES.get(each, each) for each in self.letters]
        count = {letter: sum(own for own, each in zip(passes, halves, strict=True) if each == letter) for letter in _BLOCKS}
        attention = 4 * self.num_heads * self.head_dim * sequence_length * (count[ATTENTION] + 3 * self.mtp_layers)
        scan = _SCAN_FLOPS * self.mamba_heads * self.mamba_head_dim * self.state_size * count[MAMBA]
        return attention + scan, attention // 2 + scan

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Two Mamba heads a group, and a group a rank."""
        own = {"mamba_heads": 2 * tensor_parallel, "mamba_groups": tensor_parallel, "mamba_head_dim": 3, "state_size": 4, "scan_chunk": 3}
        return {**super().small_figures(tensor_parallel), **own}

    def small(self, num_layers: int, tensor_parallel: int) -> Self:
        """A likeness with layers of all kinds, if it has as many."""
        kinds = "".join(dict.fromkeys(self.letters))
        pattern = (kinds * num_layers)[:num_layers]
        pattern = pattern[:-1] + EXPERTS if self.mtp_layers else pattern
        has_experts = [each == EXPERTS or each in HALVES for each in pattern]
        own: dict[str, Any] = {"load_shares": self.small_shares(sum(has_experts))} if self.num_experts else {}
        if self.num_experts and not any(has_experts):
            own = dict.fromkeys(("num_experts", "shared_ffn_hidden_size", "load_seed"), 0) | {"load_shares": ()}
        found = super().small(num_layers, tensor_parallel)
        return replace(found, pattern=pattern, num_dense_layers=0, expert_layer_every=1, **own)


def _heads(row: Mapping[str, Any]) -> int:
    return max(1, 2 * int(row["hidden_size"]) // int(row.get("mamba_head_dim", 64)))


def blocks(kind: HybridArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """The embedding, a layer of each kind, and the head."""
    made = (each for letter in kind.letters for each in _layers(letter, kind, attention, fusions))
    later = transformer_layer(kind.later, kind, attention=attention, fusions=fusions) if kind.later else None
    last = head(kind, fusions=fusions, later=later)
    return by_name(embedding(kind, fusions=fusions), *made, replace(last, loads=kind.later.loads) if kind.later else last)


def _layers(letter: str, kind: HybridArchitecture, attention: str, fusions: tuple[str, ...]) -> list[Block]:
    """The layer of a letter; of experts one for each of their loads."""
    one, rows = _layer(letter, kind, attention, fusions), [row for each, row in kind.loads if each == letter]
    return [replace(one, name=_name(letter, row), loads=row, like=_name(letter, rows[0])) for row in rows] or [one]


def _name(letter: str, loads: int) -> str:
    return f"{f'loads{loads}_' if loads else ''}{_BLOCKS[letter]}"


def _layer(letter: str, kind: HybridArchitecture, attention: str, fusions: tuple[str, ...]) -> Block:
    if letter == MAMBA:
        return _mamba_layer(kind, fusions)
    has_experts = letter == EXPERTS or letter in dict(kind.loads)
    whole = transformer_layer(LayerForm(experts=has_experts), kind, attention=attention, fusions=fusions)
    if letter == ATTENTION_AND:
        return replace(whole, name=_BLOCKS[letter])
    end = 1 + next(place for place, op in enumerate(whole.ops) if "x1" in op.outputs)
    if letter == MAMBA_AND:
        first = _mamba_layer(kind, fusions)
        ops = (*(_with_names(op, {"y": "x1"}) for op in first.ops), *whole.ops[end:])
        return _of_ops(replace(first, name=_BLOCKS[letter], weights={**whole.weights, **first.weights}), ops)
    ops = whole.ops[:end] if letter == ATTENTION else whole.ops[end:]
    own = tuple(_with_names(op, {"x1": "y" if letter == ATTENTION else "x"}) for op in ops)
    return _of_ops(replace(whole, name=_BLOCKS[letter]), own)


def _of_ops(block: Block, ops: Sequence[Op]) -> Block:
    """The block with these of its ops, and the weights that they read."""
    read = {name for op in ops for name in op.inputs}
    return replace(block, ops=tuple(ops), weights={name: initial for name, initial in block.weights.items() if name in read})


def _with_names(op: Op, names: Mapping[str, str]) -> Op:
    """The op with other names for what lies between the halves of a layer."""
    inputs, outputs = (tuple(names.get(each, each) for each in side) for side in (op.inputs, op.outputs))
    return replace(op, inputs=inputs, outputs=outputs)


def _mamba_layer(kind: HybridArchitecture, fusions: tuple[str, ...]) -> Block:
    scales = kind.scales_residual
    ops = (
        *in_region("" if "norm_gemm" in fusions else LAYER_NORM, norm("norm1", "x", kind, fusions)),
        Op("enter_mixer", "B T D -> B S D", ("norm1",), ("mixer_in",), "relabel"),
        *mixer("mixer_in", kind.conv_width),
        *(
            Op("mixer_scale", "B T D -> B T D", ("mixer_out",), ("mixer_scaled",), "scale", attributes=RESIDUAL_SCALE)
            for _ in range(scales)
        ),
        Op("mixer_add", "B T D, B T D -> B T D", ("mixer_scaled" if scales else "mixer_out", "x"), ("y",), "add", in_place=True),
    )
    return Block(_BLOCKS[MAMBA], ops, {**norm_weights("norm1", kind), **WEIGHTS}, again=AGAIN)


FAMILIES.register("hybrid", Family(HybridSpec, blocks))
