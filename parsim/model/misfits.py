"""What does not fit together in the figures of a transformer, by what they are of."""

from __future__ import annotations

from typing import Any

TransformerLike = Any  # a TransformerSpec, whose module asks these


def misfit_of_parts(model: TransformerLike) -> str:
    """What does not fit in the figures of latent attention, windows, blocks and positions; "" where all do."""
    return _latent_misfit(model) or _heads_misfit(model) or _window_misfit(model) or _blocks_misfit(model) or _positions_misfit(model)


def _heads_misfit(model: TransformerLike) -> str:
    """What does not fit in the figures of heads of layers with full attention, and of values."""
    own = ("full_head_dim", "full_kv_heads", "full_rotary_dim", "keys_as_values")
    stated = next((name for name in own if getattr(model, name)), "")
    if stated and not model.full_attention_every:
        return f"{stated} = {getattr(model, stated)} is of layers that see all tokens among others with a window: give full_attention_every"
    if stated and (found := next((name for name in ("mtp_layers", "kv_lora_rank") if getattr(model, name)), "")):
        return f"{stated} = {getattr(model, stated)} is not built with {found}; leave one out"
    if model.positions == "alibi" and model.has_full_heads:
        return "full_head_dim, full_kv_heads and full_rotary_dim are not built with positions = alibi; leave them out"
    kv_heads, width = model.heads_of(full=True)
    if model.full_kv_heads and model.num_heads % kv_heads:
        return f"full_kv_heads = {kv_heads} does not divide num_heads = {model.num_heads}"
    if model.full_rotary_dim and (model.positions != "rotary" or model.full_rotary_dim > width):
        return f"full_rotary_dim = {model.full_rotary_dim} goes with positions = rotary, and heads as wide at least"
    if model.positions == "rotary" and model.has_full_heads and (model.full_rotary_dim or width) % 2:
        return f"positions = rotary turns pairs of elements, but heads of layers with full attention have {model.full_rotary_dim or width}"
    if model.values_normed and model.kv_lora_rank:
        return "values_normed = true is not built with latent attention (MLA)"
    if model.keys_as_values and not (model.values_normed and model.qk_norm):
        return "keys_as_values = true goes with values_normed = true and qk_norm = true"
    return ""


def _blocks_misfit(model: TransformerLike) -> str:
    """What does not fit in the figures of norms, of an MLP beside attention, and of the head."""
    if model.qk_norm_by_head and not (model.qk_norm and model.qk_norm_weights):
        return "qk_norm_by_head = true goes with qk_norm = true and qk_norm_weights = true"
    if model.qk_norm_whole and (not (model.qk_norm and model.qk_norm_weights) or model.qk_norm_by_head):
        return "qk_norm_whole = true goes with qk_norm = true and qk_norm_weights = true, without qk_norm_by_head"
    if model.norm == "rms_norm" and not model.norm_bias:
        return "norm_bias = false is of norm = layer_norm; one of rms_norm has no shift: leave it out"
    if model.tied_norm and not model.parallel_block:
        return "tied_norm = true goes with parallel_block = true"
    if model.experts_beside_mlp and (model.norm != "rms_norm" or not model.sandwich_norm or (model.bias and model.mlp_bias)):
        return "experts_beside_mlp = true goes with norm = rms_norm, sandwich_norm = true and bias = false"
    alone = ("shared_ffn_hidden_size", "mtp_layers", "gates_on_input", "parallel_block", "dropout")
    if model.experts_beside_mlp and (found := next((name for name in alone if getattr(model, name)), "")):
        return f"experts_beside_mlp = true is not built with {found}; leave one out"
    if model.activation == "xielu" and (model.num_experts or model.head == "masked_token"):
        return "activation = xielu is built without experts, and with another head than masked_token"
    if model.unnormed_embedding and (not model.norm_last or model.embedding_norm):
        return "unnormed_embedding = true goes with norm_last = true, and without embedding_norm"
    if model.embedding_size and (model.head != "next_token" or model.mtp_layers):
        return f"embedding_size = {model.embedding_size} goes with head = next_token and mtp_layers = 0"
    unbuilt = ("norm_last", "norm_after", "sandwich_norm", "kv_lora_rank", "num_experts", "mtp_layers")
    if model.parallel_block and (found := next((name for name in unbuilt if getattr(model, name)), "")):
        return f"parallel_block = true is not built with {found}; leave one out"
    if (model.head_bias or model.logit_scale != 1.0) and (model.head != "next_token" or model.mtp_layers):
        return "head_bias and logit_scale go with head = next_token and mtp_layers = 0"
    return "" if model.logit_scale else "logit_scale = 0.0 leaves nothing of the logits; 1 scales nothing"


def _positions_misfit(model: TransformerLike) -> str:
    """What does not fit in the figures of positions."""
    if model.rotary_dim and (model.positions != "rotary" or model.kv_lora_rank):
        return f"rotary_dim = {model.rotary_dim} goes with positions = rotary, and not with latent attention"
    if model.rotary_dim > model.head_dim:
        return f"rotary_dim = {model.rotary_dim} is more than head_dim = {model.head_dim}; 0 turns all"
    turned = "rotary_dim" if model.rotary_dim else "head_dim"
    if model.positions == "rotary" and getattr(model, turned) % 2:
        return f"positions = rotary turns pairs of elements, but {turned} = {getattr(model, turned)} is odd"
    if model.position_offset and model.positions != "learned":
        return f"position_offset = {model.position_offset} goes with positions = learned"
    return "" if model.causal or model.positions != "alibi" else "positions = alibi is built with causal = true"


def _window_misfit(model: TransformerLike) -> str:
    """What does not fit in the figures of windows."""
    if model.full_attention_every and not model.window_length:
        return f"full_attention_every = {model.full_attention_every} goes with sliding_window or attention_chunk, which are 0"
    if model.sliding_window and model.attention_chunk:
        return "sliding_window and attention_chunk are two ways to see less; give one of them"
    if model.unturned_every and (model.positions != "rotary" or model.kv_lora_rank):
        return f"unturned_every = {model.unturned_every} goes with positions = rotary, and not with latent attention"
    if model.attention_chunk and not model.causal:
        return "attention_chunk is built with causal = true"
    if model.full_attention_from > model.full_attention_every:
        return f"full_attention_from = {model.full_attention_from} is above full_attention_every = {model.full_attention_every}"
    return ""


def _latent_misfit(model: TransformerLike) -> str:
    """What does not fit in the figures of latent attention."""
    widths = {name: getattr(model, name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}
    if not model.kv_lora_rank:
        stated = next((name for name in ("q_lora_rank", *widths) if getattr(model, name)), "")
        return f"{stated} = {getattr(model, stated)} is of latent attention (MLA), which kv_lora_rank asks for" if stated else ""
    if lacking := next((name for name, width in widths.items() if not width), ""):
        return f"kv_lora_rank = {model.kv_lora_rank} makes attention latent (MLA), which needs {lacking}"
    if model.qk_rope_head_dim % 2:
        return f"latent attention turns pairs of elements, but qk_rope_head_dim = {model.qk_rope_head_dim} is odd"
    if model.head_dim != model.qk_nope_head_dim + model.qk_rope_head_dim:
        return f"head_dim = {model.head_dim} is not qk_nope_head_dim + qk_rope_head_dim; leave it out"
    if model.num_kv_heads != model.num_heads:
        return f"num_kv_heads = {model.num_kv_heads}, but latent attention has one for each of num_heads = {model.num_heads}; leave it out"
    if model.positions != "rotary" or model.qk_norm or model.qkv_bias or model.attention_sinks:
        return "latent attention (MLA) is built with positions = rotary, and without qkv_bias, qk_norm and attention_sinks"
    return ""
