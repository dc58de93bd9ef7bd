"""How the figures of a decoder are said to Megatron Core, and read of what it is told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from parsim.model.transformer import TransformerSpec
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.target import KeyValue, Setup

# Of what tokens do, not of a model: launchers take tokens as they come.
ASSUMED: Final = ("load_skew", "load_seed", "load_shares")
_NORMS: Final = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}
_CLAMPED: Final[dict[str, KeyValue]] = {"quick_geglu": True, "glu_linear_offset": 1.0, "activation_func_clamp_value": 7.0}  # of gpt-oss
_WINDOW: Final = re.compile(r"\(?\s*(\d{1,9})\s*,\s*(-?\d{1,9})\s*\)?")
_VOCABULARIES: Final = {"GPT2BPETokenizer": 50257}  # Radford et al. 2019; of other tokenizers their files say it
_MLA: Final = {
    "kv_lora_rank": ("kv_lora_rank", 32),
    "qk_nope_head_dim": ("qk_head_dim", 128),
    "qk_rope_head_dim": ("qk_pos_emb_head_dim", 64),
    "v_head_dim": ("v_head_dim", 128),
}


def entries() -> tuple[Entry, ...]:
    """Those of a model, but for its experts."""
    return (
        same("model.num_layers", "num_layers"),
        same("model.hidden_size", "hidden_size"),
        same("model.num_heads", "num_attention_heads"),
        Entry(("model.max_positions",), _write_longest, _read_longest),
        Entry(("model.ffn_hidden_size", "model.activation"), _write_mlp, _read_mlp),
        Entry(("model.num_kv_heads", "model.head_dim"), _write_heads, _read_heads),
        Entry(tuple(f"model.{name}" for name in (*_MLA, "q_lora_rank")), _write_latent, _read_latent),
        Entry(("model.vocab_size",), _write_vocabulary, _read_vocabulary),
        Entry(("model.positions", "model.rotary_dim"), _write_positions, _read_positions),
        Entry(("model.norm", "model.qk_norm"), _write_norms, _read_norms),
        Entry(("model.bias", "model.qkv_bias"), _write_biases, _read_biases),
        Entry(("model.tied_embedding",), _write_tie, _read_tie),
        Entry(("model.dropout", "model.scores_dropped"), _write_dropout, _read_dropout),
        Entry(("model.mtp_layers", "model.mtp_loss_weight"), _write_later, _read_later),
        Entry(("model.sliding_window", "model.full_attention_every"), _write_window, _read_window),
        Entry(("model.attention_sinks",), _write_sinks, _read_sinks),
    )


def spec(setup: Setup) -> TransformerSpec:
    """The model, which is a transformer: launchers refuse all others first."""
    assert isinstance(setup.model, TransformerSpec)
    return setup.model


def _write_longest(setup: Setup) -> dict[str, KeyValue]:
    return {"max_position_embeddings": spec(setup).max_positions}


def _read_longest(keys: Keys) -> dict[str, Any]:
    """Where nobody says it, which the classes allow: as long as sequences are, as the classes have it, too."""
    longest = keys.like("max_position_embeddings", keys.like("seq_length", 0))
    return {"model.max_positions": longest} if longest else {}


def _write_mlp(setup: Setup) -> dict[str, KeyValue]:
    model, keys = spec(setup), dict[str, KeyValue]({"ffn_hidden_size": spec(setup).ffn_hidden_size})
    named: dict[str, dict[str, KeyValue]] = {
        "swiglu": {"swiglu": True},
        "squared_relu": {"squared_relu": True, "bias_gelu_fusion": False},
        "clamped_swiglu": _CLAMPED,
    }
    return {**keys, **named.get(model.activation, {})}


def _read_mlp(keys: Keys) -> dict[str, Any]:
    gated, hidden = keys.like("swiglu", False), keys.like("hidden_size", 0)
    found: dict[str, Any] = {"model.activation": "gelu"}
    if gated:
        found["model.activation"] = "swiglu"
    elif keys.like("squared_relu", False):
        keys.take("bias_gelu_fusion")  # which there is none for
        found["model.activation"] = "squared_relu"
    elif keys.like("quick_geglu", False):
        found["model.activation"] = "clamped_swiglu" if all(keys.take(name) == value for name, value in _CLAMPED.items()) else "geglu"
    usual = int(4 * hidden * 2 / 3) // 64 * 64 if gated else 4 * hidden  # arguments.py (validate_args)
    width = keys.like("ffn_hidden_size", usual)
    return {**found, **({"model.ffn_hidden_size": width} if width else {})}


def _write_heads(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if model.kv_lora_rank:
        return {}
    groups: dict[str, KeyValue] = {"group_query_attention": True, "num_query_groups": model.num_kv_heads}
    return {"kv_channels": model.head_dim, **(groups if model.num_kv_heads != model.num_heads else {})}


def _read_heads(keys: Keys) -> dict[str, Any]:
    heads, hidden, asked = keys.like("num_attention_heads", 0), keys.like("hidden_size", 0), keys.like("group_query_attention", False)
    groups, width = keys.of_type(int, "num_query_groups"), keys.of_type(int, "kv_channels")
    if groups is not None and not asked and groups != heads:
        keys.leave("num_query_groups", "without --group-query-attention each query head has its own keys")
    if keys.like("multi_latent_attention", False):
        return {"model.num_kv_heads": heads}
    found: dict[str, Any] = {"model.num_kv_heads": (groups or 1) if asked else heads, "model.head_dim": width or hidden // max(heads, 1)}
    return {figure: value for figure, value in found.items() if value}


def _write_latent(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if not model.kv_lora_rank or model.num_kv_heads != model.num_heads:
        return {}
    own: dict[str, KeyValue] = {name: getattr(model, figure) for figure, (name, _) in _MLA.items()}
    own["kv_channels"] = model.v_head_dim  # of no use there, but else its parser asks for heads that divide hidden_size
    return {"multi_latent_attention": True, **own, **({"q_lora_rank": model.q_lora_rank} if model.q_lora_rank else {})}


def _read_latent(keys: Keys) -> dict[str, Any]:
    if not keys.like("multi_latent_attention", False):
        return {}
    found = {f"model.{figure}": keys.like(name, usual) for figure, (name, usual) in _MLA.items()}
    head = found["model.qk_nope_head_dim"] + found["model.qk_rope_head_dim"]
    keys.take("kv_channels")
    return {**found, "model.q_lora_rank": keys.like("q_lora_rank", 0), "model.head_dim": head}


def _write_vocabulary(setup: Setup) -> dict[str, KeyValue]:
    """A NullTokenizer adds a token to what it is told."""
    return {"tokenizer_type": "NullTokenizer", "vocab_size": spec(setup).vocab_size - 1}


def _read_vocabulary(keys: Keys) -> dict[str, Any]:
    kind, count = keys.of_type(str, "tokenizer_type", ""), keys.of_type(int, "vocab_size")
    if count is not None:
        return {"model.vocab_size": count + (kind == "NullTokenizer")}
    if kind in _VOCABULARIES:
        return {"model.vocab_size": _VOCABULARIES[kind]}
    if kind:
        keys.leave("tokenizer_type", "its files say how many tokens it has: state model.vocab_size")
    return {}


def _write_positions(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if model.positions != "rotary":
        return {"position_embedding_type": "learned_absolute"} if model.positions == "learned" else {}
    turned = model.qk_rope_head_dim or model.head_dim
    share = {"rotary_percent": model.rotary_dim / turned} if 0 < model.rotary_dim < turned else {}
    return {"position_embedding_type": "rope", **share}


def _read_positions(keys: Keys) -> dict[str, Any]:
    kind, share = keys.of_type(str, "position_embedding_type", "learned_absolute"), keys.of_type(float, "rotary_percent", 1.0) or 1.0
    if keys.like("use_rotary_position_embeddings", False) or kind in ("rope", "yarn", "mrope"):
        width = keys.like("kv_channels", keys.like("hidden_size", 0) // max(1, keys.like("num_attention_heads", 1)))
        partly = share < 1 and not keys.like("multi_latent_attention", False)
        return {"model.positions": "rotary", **({"model.rotary_dim": round(width * share)} if partly else {})}
    if kind == "none":
        return {"model.positions": "none"}
    if kind != "learned_absolute":
        keys.leave("position_embedding_type", "not built: learned or turned positions are")
    return {"model.positions": "learned"}


def _write_norms(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    return {"normalization": _NORMS[model.norm], **({"qk_layernorm": True} if model.qk_norm and model.norm == "rms_norm" else {})}


def _read_norms(keys: Keys) -> dict[str, Any]:
    kind, asked = keys.of_type(str, "normalization", "LayerNorm"), keys.like("qk_layernorm", False)
    keys.take("layernorm_zero_centered_gamma"), keys.take("apply_layernorm_1p"), keys.take("norm_epsilon")  # of no cost
    norm = next((name for name, said in _NORMS.items() if said == kind), "layer_norm")
    if asked and norm == "layer_norm":
        keys.leave("qk_layernorm", "an RMSNorm behind queries and keys is built")
    latent = keys.like("multi_latent_attention", False)  # whose norms stand behind the low ranks, whatever it says
    return {"model.norm": norm, "model.qk_norm": asked and norm == "rms_norm" and not latent}


def _write_biases(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    own: dict[str, KeyValue] = {"add_qkv_bias": True} if model.qkv_bias and not model.bias else {}
    return {**own, **({} if model.bias else {"add_bias_linear": False})}


def _read_biases(keys: Keys) -> dict[str, Any]:
    linear, qkv = keys.like("add_bias_linear", True), keys.like("add_qkv_bias", False)
    return {"model.bias": linear, "model.qkv_bias": linear or qkv}


def _write_tie(setup: Setup) -> dict[str, KeyValue]:
    return {} if spec(setup).tied_embedding else {"untie_embeddings_and_output_weights": True}


def _read_tie(keys: Keys) -> dict[str, Any]:
    return {"model.tied_embedding": not keys.like("untie_embeddings_and_output_weights", False)}


def _write_dropout(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    return {"hidden_dropout": model.dropout, "attention_dropout": model.dropout if model.scores_dropped else 0.0}


def _read_dropout(keys: Keys) -> dict[str, Any]:
    stream, scores = (keys.of_type(float, f"{name}_dropout", 0.1) or 0.0 for name in ("hidden", "attention"))
    if scores not in (0.0, stream):
        keys.leave("attention_dropout", f"of scores either {stream} is dropped, as elsewhere, or nothing")
    return {"model.dropout": stream, "model.scores_dropped": scores > 0 or stream == 0}


def _write_later(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    return {"mtp_num_layers": model.mtp_layers, "mtp_loss_scaling_factor": model.mtp_loss_weight} if model.mtp_layers else {}


def _read_later(keys: Keys) -> dict[str, Any]:
    count, weight = keys.like("mtp_num_layers", 0), keys.of_type(float, "mtp_loss_scaling_factor", 0.1)
    return {"model.mtp_layers": count, "model.mtp_loss_weight": weight} if count else {}


def _write_window(setup: Setup) -> dict[str, KeyValue]:
    """Megatron Core counts the tokens before the one that sees them."""
    model = spec(setup)
    if not model.sliding_window:
        return {}
    skips: dict[str, KeyValue] = {"window_attn_skip_freq": model.full_attention_every} if model.full_attention_every else {}
    return {"window_size": f"{model.sliding_window - 1},0", **skips}


def _read_window(keys: Keys) -> dict[str, Any]:
    said, every = keys.take("window_size"), keys.take("window_attn_skip_freq")
    if said is None:
        return {}
    text = ",".join(map(str, said)) if isinstance(said, Sequence) and not isinstance(said, str) else str(said)
    if not (found := _WINDOW.fullmatch(text)) or int(found[2]) not in (0, -1):
        keys.leave("window_size", "a window of tokens before the one that sees them is built")
        return {}
    if every is not None and type(every) is not int:
        keys.leave("window_attn_skip_freq", "a whole number is read")
        every = None
    return {"model.sliding_window": int(found[1]) + 1, **({"model.full_attention_every": every} if every else {})}


def _write_sinks(setup: Setup) -> dict[str, KeyValue]:
    return {"softmax_type": "learnable"} if spec(setup).attention_sinks else {}


def _read_sinks(keys: Keys) -> dict[str, Any]:
    kind = keys.of_type(str, "softmax_type", "vanilla")
    if kind not in ("vanilla", "learnable"):
        keys.leave("softmax_type", "not built: vanilla and learnable are")
    return {"model.attention_sinks": kind == "learnable"}
