"""The figures of a transformer: a decoder-only language model, or an encoder.  Its ops stand in blocks.py and ends.py.

Source: the symbols of Korthikanti et al. 2022 (arXiv:2205.05198), table 1: L, h, a, v; the rest from the model's own paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from parsim.model import alibi
from parsim.model.form import LayerForm
from parsim.model.full_heads import HeadsSpec
from parsim.model.misfits import misfit_of_parts
from parsim.model.spec import MOST_LAYERS, Architecture, Layout, figure
from parsim.model.tuning import BOTTOM, FROZEN
from parsim.model.window import Window

_LATER_WEIGHT = 0.1  # DeepSeek-AI 2024 (arXiv:2412.19437), section 4.2: of the last 4.8 of 14.8 T tokens, 0.3 before
GATE_STEPS = {"swiglu": "silu", "geglu": "gelu"}  # what makes the gate, where frameworks multiply in a step of its own
POSITIONS = ("learned", "rotary", "alibi")
ACTIVATIONS = ("gelu", "relu", "squared_relu", "swiglu", "geglu", "clamped_swiglu", "xielu")
_NARROW = ("kv_lora_rank", "q_lora_rank", "embedding_size", "expert_latent_size")  # widths beside that of the stream
_LABELLED = ("text", "token")  # heads whose matrix is their own


def _head_dim(row: Mapping[str, Any]) -> int:
    """hidden_size / num_heads; of keys with latent attention each head's own part and that which all share."""
    if row.get("kv_lora_rank"):
        return int(row.get("qk_nope_head_dim", 0) + row.get("qk_rope_head_dim", 0))
    return int(row["hidden_size"] // row["num_heads"])


class TransformerArchitecture(Architecture, frozen=True, kw_only=True):
    """Which ops the blocks of a transformer have."""

    family: ClassVar[str] = "transformer"
    norm: str
    positions: str
    qkv_bias: bool
    out_bias: bool = True  # where there are biases
    mlp_bias: bool = True  # as well
    norm_bias: bool = True
    head_bias: bool = False
    causal: bool = True
    norm_last: bool = False
    sandwich_norm: bool = False
    norm_after: bool = False
    norm_in_float32: bool = False
    scales_embedding: bool = False
    scales_residual: bool = False
    caps_scores: bool = False
    caps_logits: bool = False
    embedding_norm: bool = False
    unnormed_embedding: bool = False
    projects_embedding: bool = False  # embeddings have a width of their own
    parallel_block: bool = False
    tied_norm: bool = False
    partly_turned: bool = False
    scores_dropped: bool = True  # where there is dropout
    embedding_dropped: bool = True
    scaled_logits: bool = False
    scores_scaled: bool = True
    full_heads: bool = False  # layers with full attention have dims of heads of their own
    full_partly_turned: bool = False
    keys_as_values: bool = False  # there
    values_normed: bool = False
    scales_layer: bool = False
    experts_beside_mlp: bool = False
    expert_latent: bool = False
    dropped_inside: bool = False  # also behind the MLP's activation, and behind the last norm
    token_types: bool = False
    head: str = "next_token"
    qk_norm: bool = False
    qk_norm_weights: bool = True
    qk_norm_by_head: bool = False
    qk_norm_whole: bool = False
    layers: tuple[LayerForm, ...] = (LayerForm(),)  # each once, in the order in which they first come
    window: str = ""  # what a layer that is not full sees: the last tokens, or those of its chunk; "": all
    sinks: bool = False
    shared_experts: bool = False
    shared_expert_gate: bool = False
    gates: str = "softmax"
    gates_on_input: bool = False
    capacity: bool = False
    balance_loss: bool = False
    steers: bool = False  # routers have biases that follow loads
    latent: bool = False
    query_latent: bool = False
    later: LayerForm | None = None  # of the layer in a module that predicts a later token

    @property
    def biases_out(self) -> bool:
        """Whether attention's last linear layer has a bias."""
        return self.bias and self.out_bias

    @property
    def biases_mlp(self) -> bool:
        """Whether the linear layers of MLP, router and experts have biases."""
        return self.bias and self.mlp_bias

    @property
    def scales_experts(self) -> bool:
        """Whether a factor of each expert multiplies its gates."""
        return self.experts_beside_mlp

    @property
    def norms_embedding(self) -> bool:
        """Whether a norm stands behind the embedding."""
        return self.embedding_norm or (self.norm_last and not self.unnormed_embedding)

    @property
    def scales_head(self) -> bool:
        """Whether what enters the head is scaled, in place of the logits."""
        return False

    @property
    def norms_first(self) -> bool:
        """Whether attention and MLP read what a norm gives."""
        return not (self.norm_last or self.norm_after)

    @property
    def norms_branches(self) -> bool:
        """Whether what they give is normalised before it is added."""
        return self.sandwich_norm or self.norm_after

    @property
    def norms(self) -> tuple[str, ...]:
        """Those of a layer on the residual stream."""
        ends = (*("",) * (not self.norm_after), *("_behind",) * self.norms_branches)
        return tuple(f"{name}{end}" for name in ("norm1", *("norm2",) * (not self.tied_norm)) for end in ends)


class TransformerSpec(HeadsSpec, frozen=True, kw_only=True):
    """A decoder-only language model, or an encoder.

    >>> TransformerSpec(
    ...     name="tiny", num_layers=2, hidden_size=8, ffn_hidden_size=32, num_heads=2,
    ...     num_kv_heads=2, head_dim=4, vocab_size=64, max_positions=16
    ... ).extents["R"]
    1
    """

    num_layers: int = figure("the number of layers", most=MOST_LAYERS)
    hidden_size: int = figure("the width of the residual stream")
    ffn_hidden_size: int = figure("the width of the MLP; 4 x hidden_size where left out", rule=lambda row: 4 * row["hidden_size"])
    num_heads: int = figure("the number of query heads")
    num_kv_heads: int = figure("the number of key and value heads; num_heads where left out", rule=lambda row: row["num_heads"])
    head_dim: int = figure("the width of a head; hidden_size / num_heads where left out", rule=_head_dim)
    vocab_size: int = figure("the number of tokens, before padding")
    max_positions: int = figure("the longest sequence, which is the rows of a learned position table")
    activation: str = figure("the nonlinearity of the MLP", "gelu", legal=ACTIVATIONS)
    norm: str = figure("what normalises the input of attention, MLP and head", "layer_norm", legal=("layer_norm", "rms_norm"))
    norm_bias: bool = figure("whether norms with a mean have a shift beside their scale (the bias of a LayerNorm)", True)
    positions: str = figure("a position table, turned queries and keys, or scores lowered by distance", "learned", legal=POSITIONS)
    position_offset: int = figure("rows of a position table before that of the first token", 0, zero=True, most=1_000)
    rotary_dim: int = figure("with positions = rotary the elements of a head that are turned; 0: all", 0, zero=True)
    bias: bool = figure("whether the linear layers of attention output, MLP, router and experts have biases", True)
    qkv_bias: bool = figure(
        "whether those of queries, keys and values do; as bias where left out", True, rule=lambda row: row.get("bias", True)
    )
    out_bias: bool = figure("with bias = true whether that of attention's output does", True)
    mlp_bias: bool = figure("with bias = true whether those of MLP, router and experts do", True)
    head_bias: bool = figure("whether logits of the next token have a bias", False)
    parallel_block: bool = figure("whether the MLP stands beside attention: both read the stream, and one sum adds both to it", False)
    tied_norm: bool = figure("with parallel_block whether attention and MLP read one norm, not each its own", False)
    qk_norm: bool = figure("whether an RMSNorm of its own stands behind each head's queries and keys", False)
    qk_norm_weights: bool = figure("whether that norm has weights; without, it stands where positions turn queries and keys only", True)
    qk_norm_by_head: bool = figure(
        "whether each head has weights of its own there, and the norm a mean (a LayerNorm without a shift)", False
    )
    qk_norm_whole: bool = figure("whether one norm is over all heads of a token at once, with as many weights, not each head's", False)
    tied_embedding: bool = figure("whether input and output embedding are one", True)
    causal: bool = figure("whether a token sees only those before it; false makes an encoder", True)
    norm_last: bool = figure("whether norms stand behind the residual adds and the embedding, with none before the head", False)
    sandwich_norm: bool = figure("whether norms stand behind attention and MLP, too, before their residual adds", False)
    norm_after: bool = figure("whether norms stand there only, with none before attention and MLP", False)
    norm_in_float32: bool = figure("whether RMSNorms that no kernel fuses multiply by their weights in float32, too, as Gemma's do", False)
    embedding_scale: float = figure("what embeddings are multiplied by", 1.0, most=1_000_000)
    residual_scale: float = figure("what attention and MLP give is multiplied by before it is added", 1.0, most=1_000)
    attn_logit_softcapping: float = figure("c, where scores of attention become c tanh(score / c); 0: they do not", 0.0, most=1_000_000)
    final_logit_softcapping: float = figure("c, where the logits of the head become c tanh(logit / c); 0: they do not", 0.0, most=1_000_000)
    unnormed_first: bool = figure("whether the first layer has no norm before attention", False)
    embedding_norm: bool = figure("whether a norm stands behind the embedding, also where norms come first", False)
    unnormed_embedding: bool = figure("whether none stands there although norms come last", False)
    embedding_size: int = figure("the width of embeddings, where a matrix makes the stream of them; 0: hidden_size", 0, zero=True)
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
    full_attention_from: int = figure("the first layer that does, of those; 0: the full_attention_every-th", 0, zero=True)
    unturned_every: int = figure("of layers with rotary positions each so many-th turns nothing (NoPE); 0: all turn", 0, zero=True)
    attention_sinks: bool = figure("whether each head's softmax has a learned sink beside the keys", False)
    dropout: float = figure("the share of elements dropped; 0 leaves dropout out", 0.1)
    scores_dropped: bool = figure("whether that is also dropped of attention scores, where these are stored", True)
    embedding_dropped: bool = figure("whether that is also dropped behind the embedding", True)
    logit_scale: float = figure("what logits are multiplied by", 1.0, most=1_000)
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
        if found := misfit_of_parts(self):
            return found
        if stated.get("head_dim") is None and not self.kv_lora_rank and self.hidden_size % self.num_heads:
            return f"num_heads = {self.num_heads} does not divide hidden_size = {self.hidden_size}; give head_dim, or another num_heads"
        if self.num_heads % self.num_kv_heads:
            return f"num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}"
        if self.head in _LABELLED and self.tied_embedding:
            return f"head = {self.head} has no output embedding to tie: set tied_embedding = false"
        if self.norm_last and self.head == "next_token" and self.tied_embedding and not self.has_encoder and not self.embedding_size:
            return "norm_last = true, head = next_token and tied_embedding = true leave the head no weight of its own; untie it"
        if self.unnormed_first and (self.norm_last or self.norm_after or self.parallel_block):
            return "unnormed_first goes with norms before attention, and an MLP behind it"
        if self.norm_last + self.norm_after + self.sandwich_norm > 1:
            return "norm_last, norm_after and sandwich_norm are three places of norms; give one"
        if not self.embedding_scale:
            return "embedding_scale = 0.0 leaves nothing of embeddings; 1 scales nothing"
        if not self.residual_scale:
            return "residual_scale = 0.0 leaves nothing of attention and MLP; 1 scales nothing"
        if self.final_logit_softcapping and self.head in _LABELLED:
            return f"final_logit_softcapping goes with a head that has the vocabulary, not with head = {self.head}"
        if self.bias and self.mlp_bias and (self.shared_ffn_hidden_size or self.gates_on_input):
            return "bias = true with shared_ffn_hidden_size or gates_on_input is not built; set mlp_bias = false, or bias"
        return self.experts_misfit()

    @property
    def window_length(self) -> int:
        """The tokens of a window or chunk; 0: no layer has one."""
        return self.sliding_window or self.attention_chunk

    def window_of(self, layer: int) -> int:
        """The tokens that a token sees in a layer, or those of its chunk; 0: all."""
        return 0 if self.form(layer).full else self.window_length

    def form(self, layer: int) -> LayerForm:
        """What a layer has of its own."""
        every, place = self.full_attention_every, layer + 1
        is_full = every > 0 and (place - self.full_attention_from) % every == 0
        is_unturned = self.unturned_every > 0 and place % self.unturned_every == 0
        return LayerForm(self.has_experts(layer), is_full, is_unturned, self.unnormed_first and layer == 0, self.load_row(layer))

    @cached_property
    def layout(self) -> Layout:
        """Layers of one form, in runs."""
        kinds = groupby(self.form(layer).name for layer in range(self.num_layers))
        return self.tuning.with_marks((("embedding", 1), *((name, len([*run])) for name, run in kinds), ("head", 1)))

    @cached_property
    def architecture(self) -> TransformerArchitecture:
        """What decides which ops there are."""
        stated = ((name, getattr(self, name, None)) for name in TransformerArchitecture.__struct_fields__)
        found: dict[str, Any] = {name: value for name, value in stated if isinstance(value, bool | str)}  # they decide by themselves
        found |= {"partly_turned": 0 < self.rotary_dim < self.head_dim, "scaled_logits": self.logit_scale != 1.0}
        found |= {"dropout": self.dropout > 0, "token_types": self.num_token_types > 0, "tied": self.tied_embedding}
        found |= {"projects_embedding": self.embedding_size > 0, "expert_latent": self.expert_latent_size > 0}
        found |= {"layers": tuple(dict.fromkeys(map(self.form, range(self.num_layers))))}
        found |= {"window": "sliding" if self.sliding_window else "chunked" if self.attention_chunk else ""}
        found |= {"sinks": self.attention_sinks, "shared_experts": self.shared_ffn_hidden_size > 0}
        found |= {"later": self.form(self.num_layers - 1) if self.mtp_layers else None}
        found |= {"capacity": self.capacity_factor > 0, "balance_loss": self.balance_coefficient > 0}
        found |= {"steers": self.steer_rate > 0, "scales_embedding": self.embedding_scale != 1, "scales_residual": self.residual_scale != 1}
        found |= {"caps_scores": self.attn_logit_softcapping > 0, "caps_logits": self.final_logit_softcapping > 0}
        found |= {"latent": self.kv_lora_rank > 0, "query_latent": self.q_lora_rank > 0, "scales_layer": self.layer_scale > 0}
        found |= {"full_heads": self.has_full_heads, "full_partly_turned": 0 < self.full_rotary_dim < self.heads_of(full=True)[1]}
        return TransformerArchitecture(**found, tuned=self.tuning.form(self.layout))

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides; the vocabulary is not padded."""
        heads = {"K": self.num_kv_heads, "A": self.num_kv_heads, "R": self.num_heads // self.num_kv_heads, "C": self.head_dim}
        widths = {"j": self.embedding_size} if self.embedding_size else {}
        widths |= {"o": 1} if self.activation == "xielu" else {}
        widths |= {"D": self.hidden_size, "H": self.hidden_size, **({"F": self.ffn_hidden_size} if self.has_dense else {})}
        if self.num_experts:
            widths |= {"E": self.num_experts, "N": self.num_experts, "J": self.expert_ffn_hidden_size}
            own = {"L": self.shared_ffn_hidden_size, "y": self.expert_latent_size}
            widths |= {dim: extent for dim, extent in own.items() if extent}
        return {
            **heads,
            **self.full_extents(self.num_heads),
            **self._latent_extents,
            **({**self.tuning.extents, "d": self.hidden_size} if self.tuning.lora_rank else {}),
            **widths,
            "V": self.vocab_size,
            "W": self.vocab_size,
            "U": self.num_token_types,
            "Y": self.num_labels,
            "P": self.max_positions + self.position_offset,
            **({"w": self.window_length} if self.window_length else {}),
            **({"r": self.rotary_dim} if self.rotary_dim else {}),
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

    @property
    def slopes(self) -> tuple[float, ...]:
        """Those of ALiBi."""
        return alibi.slopes(self.num_heads) if self.positions == "alibi" else ()

    def sequence_fault(self, sequence_length: int) -> str:
        """A learned position table has a row for each token."""
        if self.positions == "learned" and sequence_length > self.max_positions:
            most = self.max_positions
            return f'sequence_length = {sequence_length} is above max_positions = {most} of model "{self.name}"; at most {most}'
        return ""

    def attention_flops_per_token(self, sequence_length: int, source_length: int) -> tuple[int, int]:
        """FLOPs of scores and mix, forward and, where a layer asks for gradients, backward; a causal mask leaves half of the pairs."""
        names = [name for name, copies in self.layout[1:-1] for _ in range(copies)]
        passes = [1 if name.startswith(BOTTOM + FROZEN) else 3 for name in names]
        passes[-1] += 3 * self.mtp_layers
        windows = (Window(self.window_of(layer), self.attention_chunk > 0, not self.causal) for layer in range(self.num_layers))
        widths = map(self._key_and_value, range(self.num_layers))
        products = sum(each * width * window.pairs(sequence_length) for each, width, window in zip(passes, widths, windows, strict=True))
        whole = 2 * self.num_heads * products // sequence_length
        return whole, whole // 2 if self.causal else whole

    def _key_and_value(self, layer: int) -> int:
        """The widths of a key and of a value of a layer, together."""
        _, width = self.heads_of(full=self.form(layer).full)
        return width + (self.v_head_dim if self.kv_lora_rank else width)

    def small_figures(self, tensor_parallel: int) -> dict[str, Any]:
        """Two heads a rank, which share keys where they did before."""
        heads = 2 * tensor_parallel
        kv_heads = heads // 2 if self.num_kv_heads < self.num_heads else heads
        found = {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": 4, "vocab_size": 30, "max_positions": 8 * tensor_parallel}
        if self.rotary_dim:
            found["rotary_dim"] = 2 if self.rotary_dim < self.head_dim else 4
        own = {"embedding_size": 6, "full_head_dim": 6, "full_kv_heads": kv_heads, "full_rotary_dim": 2}
        found |= {name: value for name, value in own.items() if getattr(self, name)}
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
        windows["full_attention_from"] = min(self.full_attention_from, num_layers - 1)
        marks = {name: min(getattr(self, name), num_layers) * (num_layers > 1) for name in ("full_attention_every", "unturned_every")}
        found = replace(found, num_dense_layers=dense, expert_layer_every=every, **windows, **marks)
        return replace(found, load_shares=self.small_shares(sum(map(found.has_experts, range(num_layers)))))

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of the residual stream, and of the narrow vectors of latent attention."""
        return (*super().widths, *(name for name in _NARROW if getattr(self, name)))
