"""The figures of a transformer: a decoder-only language model, or an encoder.  Its ops stand in blocks.py and ends.py.

Source: the symbols of Korthikanti et al. 2022 (arXiv:2205.05198), table 1: L, h, a, v; the rest from the model's own paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, ClassVar, NamedTuple, Self

from msgspec.structs import replace

from parsim.model.routing import RoutedSpec
from parsim.model.spec import Architecture, Layout, figure
from parsim.model.window import Window

_LATER_WEIGHT = 0.1  # DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2: of the last 4.8 of 14.8 T tokens, 0.3 before
_LABELLED = ("text", "token")  # heads whose matrix is their own


def _head_dim(row: Mapping[str, Any]) -> int:
    """hidden_size / num_heads; of keys with latent attention each head's own part and that which all share."""
    if row.get("kv_lora_rank"):
        return int(row.get("qk_nope_head_dim", 0) + row.get("qk_rope_head_dim", 0))
    return int(row["hidden_size"] // row["num_heads"])


class LayerForm(NamedTuple):
    """What a layer has that others of its model may not have."""

    experts: bool = False  # in place of a dense MLP
    full: bool = False  # attention to all tokens, in a model whose other layers have a window
    unturned: bool = False  # queries and keys without positions, in a model whose other layers turn them

    @property
    def name(self) -> str:
        """That of its block."""
        return f"{'full_' * self.full}{'unturned_' * self.unturned}{'expert_' * self.experts}layer"


class TransformerArchitecture(Architecture, frozen=True, kw_only=True):
    """Which ops the blocks of a transformer have."""

    family: ClassVar[str] = "transformer"
    norm: str
    positions: str
    qkv_bias: bool
    causal: bool = True
    norm_last: bool = False
    token_types: bool = False
    head: str = "next_token"
    qk_norm: bool = False
    qk_norm_weights: bool = True
    layers: tuple[LayerForm, ...] = (LayerForm(),)  # each once, in the order in which they first come
    window: str = ""  # what a layer that is not full sees: the last tokens, or those of its chunk; "": all
    sinks: bool = False
    shared_experts: bool = False
    gates: str = "softmax"
    gates_on_input: bool = False
    capacity: bool = False
    balance_loss: bool = False
    steers: bool = False  # routers have biases that follow loads
    latent: bool = False
    query_latent: bool = False
    later: LayerForm | None = None  # of the layer in a module that predicts a later token

    @property
    def embedding_norm(self) -> bool:
        """Whether a norm stands behind the embedding."""
        return self.norm_last


class TransformerSpec(RoutedSpec, frozen=True, kw_only=True):
    """A decoder-only language model, or an encoder.

    >>> TransformerSpec(
    ...     name="tiny", num_layers=2, hidden_size=8, ffn_hidden_size=32, num_heads=2,
    ...     num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
    ... ).extents["R"]
    1
    """

    num_layers: int = figure("the number of layers")
    hidden_size: int = figure("the width of the residual stream")
    ffn_hidden_size: int = figure("the width of the MLP; 4 x hidden_size where left out", rule=lambda row: 4 * row["hidden_size"])
    num_heads: int = figure("the number of query heads")
    num_kv_heads: int = figure("the number of key and value heads; num_heads where left out", rule=lambda row: row["num_heads"])
    head_dim: int = figure("the width of a head; hidden_size / num_heads where left out", rule=_head_dim)
    vocab_size: int = figure("the number of tokens, before padding")
    max_positions: int = figure("the longest sequence, which is the rows of a learned position table")
    activation: str = figure("the nonlinearity of the MLP", "gelu", legal=("gelu", "relu", "squared_relu", "swiglu", "clamped_swiglu"))
    norm: str = figure("what normalises the input of attention, MLP and head", "layer_norm", legal=("layer_norm", "rms_norm"))
    positions: str = figure("a position table, or queries and keys turned by position", "learned", legal=("learned", "rotary"))
    bias: bool = figure("whether the linear layers of attention output, MLP, router and experts have biases", True)
    qkv_bias: bool = figure(
        "whether those of queries, keys and values do; as bias where left out", True, rule=lambda row: row.get("bias", True)
    )
    qk_norm: bool = figure("whether an RMSNorm of its own stands behind each head's queries and keys", False)
    qk_norm_weights: bool = figure("whether that norm has weights; without, it stands where positions turn queries and keys only", True)
    tied_embedding: bool = figure("whether input and output embedding are one", True)
    causal: bool = figure("whether a token sees only those before it; false makes an encoder", True)
    norm_last: bool = figure("whether norms stand behind the residual adds and the embedding, with none before the head", False)
    num_token_types: int = figure("the rows of a token type table; 0 leaves it out", 0, zero=True, most=1_000_000)
    head: str = figure(
        "logits alone, with a dense layer before and a bias behind, or a label each text or token",
        "next_token",
        legal=("next_token", "masked_token", *_LABELLED),
    )
    num_labels: int = figure("the number of labels that a text or token may have", 2)
    sliding_window: int = figure(
        "the tokens that a token sees, itself among them; all where left out or null", 0, zero=True, rule=lambda row: 0
    )
    attention_chunk: int = figure("the tokens of a chunk, of which a token sees those before it; 0: there are no chunks", 0, zero=True)
    full_attention_every: int = figure("with either each so many-th layer sees all tokens nevertheless; 0: none does", 0, zero=True)
    unturned_every: int = figure("of layers with rotary positions each so many-th turns nothing (NoPE); 0: all turn", 0, zero=True)
    attention_sinks: bool = figure("whether each head's softmax has a learned sink beside the keys", False)
    dropout: float = figure("the share of elements dropped; 0 leaves dropout out", 0.1)
    kv_lora_rank: int = figure("the width of what keys and values of latent attention (MLA) grow from; 0: no such attention", 0, zero=True)
    q_lora_rank: int = figure("the same of its queries; 0 or null: they grow from the residual stream", 0, zero=True, rule=lambda row: 0)
    qk_nope_head_dim: int = figure("with kv_lora_rank the width of what is a head's own of a key", 0, zero=True)
    qk_rope_head_dim: int = figure(
        "with kv_lora_rank the width of what all heads share of a key, which is turned by position", 0, zero=True
    )
    v_head_dim: int = figure("with kv_lora_rank the width of a value", 0, zero=True)
    mtp_layers: int = figure("modules behind the layers that predict a later token (MTP): 0 or 1", 0, zero=True, most=1)
    mtp_loss_weight: float = figure("what the loss of such a module is multiplied by", _LATER_WEIGHT)

    def misfit(self, stated: Mapping[str, Any]) -> str:
        """What does not fit in the figures; "" where all do."""
        if self.mtp_layers and (self.head != "next_token" or self.norm_last):
            return f"mtp_layers = {self.mtp_layers} goes with head = next_token and norm_last = false"
        if self.mtp_loss_weight != _LATER_WEIGHT and not self.mtp_layers:
            return f"mtp_loss_weight = {self.mtp_loss_weight} goes with mtp_layers, which is 0"
        if self.mtp_layers and self.steer_rate:
            return "steer_rate is not built with mtp_layers; leave one out"
        if found := self._latent_misfit() or self._window_misfit():
            return found
        if stated.get("head_dim") is None and not self.kv_lora_rank and self.hidden_size % self.num_heads:
            return f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}; give head_dim, or another num_heads"
        if self.num_heads % self.num_kv_heads:
            return f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}"
        if self.positions == "rotary" and self.head_dim % 2:
            return f"positions = rotary turns pairs of elements, but head_dim = {self.head_dim} is odd"
        if self.head in _LABELLED and self.tied_embedding:
            return f"head = {self.head} has no output embedding to tie: set tied_embedding = false"
        if self.norm_last and self.head == "next_token" and self.tied_embedding and not self.has_encoder:
            return "norm_last = true, head = next_token and tied_embedding = true leave the head no weight of its own; untie it"
        if self.norm_last and self.shared_ffn_hidden_size:
            return "norm_last = true with shared_ffn_hidden_size is not built; set norm_last = false"
        if self.bias and (self.shared_ffn_hidden_size or self.gates_on_input):
            return "bias = true with shared_ffn_hidden_size or gates_on_input is not built; set bias = false"
        return self.experts_misfit()

    def _window_misfit(self) -> str:
        """What does not fit in the figures of windows."""
        if self.full_attention_every and not self._window:
            return f"full_attention_every = {self.full_attention_every} goes with sliding_window or attention_chunk, which are 0"
        if self.sliding_window and self.attention_chunk:
            return "sliding_window and attention_chunk are two ways to see less; give one of them"
        if self.unturned_every and (self.positions != "rotary" or self.kv_lora_rank):
            return f"unturned_every = {self.unturned_every} goes with positions = rotary, and not with latent attention"
        return "sliding_window and attention_chunk are built with causal = true" if self._window and not self.causal else ""

    def _latent_misfit(self) -> str:
        """What does not fit in the figures of latent attention."""
        widths = {name: getattr(self, name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
        if not self.kv_lora_rank:
            stated = next((name for name in ("q_lora_rank", *widths) if getattr(self, name)), "")
            return f"{stated} = {getattr(self, stated)} is of latent attention (MLA), which kv_lora_rank asks for" if stated else ""
        if lacking := next((name for name, width in widths.items() if not width), ""):
            return f"kv_lora_rank = {self.kv_lora_rank} makes attention latent (MLA), which needs {lacking}"
        if self.qk_rope_head_dim % 2:
            return f"latent attention turns pairs of elements, but qk_rope_head_dim = {self.qk_rope_head_dim} is odd"
        if self.head_dim != self.qk_nope_head_dim + self.qk_rope_head_dim:
            return f"head_dim = {self.head_dim} is not qk_nope_head_dim + qk_rope_head_dim; leave it out"
        if self.num_kv_heads != self.num_heads:
            return (
                f"num_kv_heads = {self.num_kv_heads}, but latent attention has one for each of num_heads = {self.num_heads}; leave it out"
            )
        if self.positions != "rotary" or self.qk_norm or self.qkv_bias or self.attention_sinks:
            return "latent attention (MLA) is built with positions = rotary, and without qkv_bias, qk_norm and attention_sinks"
        return ""

    @property
    def _window(self) -> int:
        return self.sliding_window or self.attention_chunk

    def window_of(self, layer: int) -> int:
        """The tokens that a token sees in a layer, or those of its chunk; 0: all."""
        return 0 if self.form(layer).full else self._window

    def form(self, layer: int) -> LayerForm:
        """What a layer has of its own."""
        is_full, is_unturned = (every > 0 and (layer + 1) % every == 0 for every in (self.full_attention_every, self.unturned_every))
        return LayerForm(self.has_experts(layer), is_full, is_unturned)

    @property
    def layout(self) -> Layout:
        """Layers of one form, in runs."""
        kinds = groupby(self.form(layer).name for layer in range(self.num_layers))
        return ("embedding", 1), *((name, len([*run])) for name, run in kinds), ("head", 1)

    @property
    def architecture(self) -> TransformerArchitecture:
        """What decides which ops there are."""
        same = ("norm", "positions", "activation", "bias", "qkv_bias", "causal", "norm_last", "head", "qk_norm", "gates", "gates_on_input")
        found: dict[str, Any] = {name: getattr(self, name) for name in same}
        found |= {"dropout": self.dropout > 0, "token_types": self.num_token_types > 0, "tied": self.tied_embedding}
        found |= {"layers": tuple(dict.fromkeys(map(self.form, range(self.num_layers)))), "qk_norm_weights": self.qk_norm_weights}
        found |= {"window": "sliding" if self.sliding_window else "chunked" if self.attention_chunk else ""}
        found |= {"sinks": self.attention_sinks, "shared_experts": self.shared_ffn_hidden_size > 0}
        found |= {"later": self.form(self.num_layers - 1) if self.mtp_layers else None}
        found |= {"capacity": self.capacity_factor > 0, "balance_loss": self.balance_coefficient > 0}
        found |= {"steers": self.steer_rate > 0}
        found |= {"latent": self.kv_lora_rank > 0, "query_latent": self.q_lora_rank > 0}
        return TransformerArchitecture(**found)

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides; the vocabulary is not padded."""
        heads = {"K": self.num_kv_heads, "A": self.num_kv_heads, "R": self.num_heads // self.num_kv_heads, "C": self.head_dim}
        widths = {"D": self.hidden_size, "H": self.hidden_size, **({"F": self.ffn_hidden_size} if self.has_dense else {})}
        if self.num_experts:
            widths |= {"E": self.num_experts, "N": self.num_experts, "J": self.expert_ffn_hidden_size}
            widths |= {"L": self.shared_ffn_hidden_size} if self.shared_ffn_hidden_size else {}
        return {
            **heads,
            **self._latent_extents,
            **widths,
            "V": self.vocab_size,
            "W": self.vocab_size,
            "U": self.num_token_types,
            "Y": self.num_labels,
            "P": self.max_positions,
            **({"w": self._window} if self._window else {}),
        }

    @property
    def later_loss_weight(self) -> float:
        """As stated."""
        return self.mtp_loss_weight

    @property
    def _latent_extents(self) -> dict[str, int]:
        named = {
            "l": self.kv_lora_rank,
            "q": self.q_lora_rank,
            "n": self.qk_nope_head_dim,
            "r": self.qk_rope_head_dim,
            "v": self.v_head_dim,
        }
        return {dim: extent for dim, extent in named.items() if extent}

    @property
    def active_extents(self) -> dict[str, int]:
        """The same, with as many experts as a token chooses."""
        return {**self.extents, "E": self.experts_per_token}

    def sequence_fault(self, sequence_length: int) -> str:
        """A learned position table has a row for each token."""
        if self.positions == "learned" and sequence_length > self.max_positions:
            most = self.max_positions
            return f'sequence_length = {sequence_length} is above max_positions = {most} of model "{self.name}"; at most {most}'
        return ""

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """FLOPs of scores and mix, forward and backward; a causal mask leaves half of the pairs that are counted."""
        widths = self.head_dim + (self.v_head_dim if self.kv_lora_rank else self.head_dim)
        layers = [*range(self.num_layers), *[self.num_layers - 1] * self.mtp_layers]
        pairs = sum(Window(self.window_of(layer), self.attention_chunk > 0).pairs(sequence_length) for layer in layers)
        whole = 6 * self.num_heads * widths * pairs // sequence_length
        return whole, whole // 2 if self.causal else whole

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Two heads a rank, which share keys where they did before."""
        heads = 2 * tensor_parallel
        kv_heads = heads // 2 if self.num_kv_heads < self.num_heads else heads
        found = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 4, "vocab_size": 30, "max_positions": 8 * tensor_parallel}
        if self.kv_lora_rank:
            found |= {"num_kv_heads": heads, "kv_lora_rank": 6, "q_lora_rank": 8 * (self.q_lora_rank > 0)}
            found |= {"qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 3}
        return found | self.small_experts(heads)

    def small(self, num_layers: int, tensor_parallel: int) -> Self:
        """A likeness in which a layer at least has experts, where this one has some."""
        dense = min(self.num_dense_layers, 1, num_layers - 1)
        found = super().small(num_layers, tensor_parallel)
        every = min(self.expert_layer_every, num_layers - dense)
        windows = {name: min(getattr(self, name), 3) for name in ("sliding_window", "attention_chunk")}
        marks = {name: min(getattr(self, name), num_layers) * (num_layers > 1) for name in ("full_attention_every", "unturned_every")}
        return replace(found, num_dense_layers=dense, expert_layer_every=every, **windows, **marks)

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of the residual stream, and of the narrow vectors of latent attention."""
        return (*super().widths, *(name for name in ("kv_lora_rank", "q_lora_rank") if getattr(self, name)))
