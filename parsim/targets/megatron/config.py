"""Names of Megatron Core's config classes, dotted as Megatron-Bridge has them, for the flags of Megatron-LM, both ways.

Source: NVIDIA-NeMo/Megatron-Bridge, tag v0.3.1 and 067f987d (0.7.0 of August 2026): src/megatron/bridge/training/config.py and
mixed_precision.py, scripts/translate_mlm_to_bridge.py; megatron/core/transformer/transformer_config.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from parsim.targets.target import KeyValue

_SAME: Final[Mapping[str, str]] = {
    "model": """
        tensor_model_parallel_size pipeline_model_parallel_size pipeline_model_parallel_layout context_parallel_size
        sequence_parallel hierarchical_context_parallel_sizes expert_model_parallel_size expert_tensor_parallel_size num_layers
        hidden_size ffn_hidden_size num_attention_heads num_query_groups kv_channels max_position_embeddings position_embedding_type
        rotary_percent normalization make_vocab_size_divisible_by add_bias_linear add_qkv_bias qk_layernorm multi_latent_attention
        q_lora_rank kv_lora_rank qk_head_dim qk_pos_emb_head_dim v_head_dim moe_router_topk moe_ffn_hidden_size
        moe_shared_expert_intermediate_size moe_shared_expert_gate moe_layer_freq moe_router_score_function moe_router_pre_softmax
        moe_router_num_groups moe_router_group_topk moe_router_topk_scaling_factor moe_router_enable_expert_bias
        moe_router_bias_update_rate moe_expert_capacity_factor moe_token_drop_policy moe_pad_expert_input_to_capacity
        moe_latent_size moe_grouped_gemm moe_token_dispatcher_type mtp_num_layers mtp_loss_scaling_factor window_attn_skip_freq
        softmax_type attention_dropout hidden_dropout recompute_granularity recompute_method recompute_num_layers recompute_modules
        gradient_accumulation_fusion account_for_embedding_in_pipeline_split account_for_loss_in_pipeline_split
        overlap_moe_expert_parallel_comm delay_wgrad_compute glu_linear_offset activation_func_clamp_value
        moe_router_load_balancing_type moe_aux_loss_coeff cp_comm_type window_size layernorm_zero_centered_gamma
        num_layers_per_virtual_pipeline_stage transformer_impl hybrid_layer_pattern hybrid_override_pattern mtp_hybrid_override_pattern
        mamba_num_heads mamba_head_dim mamba_num_groups mamba_state_dim mamba_chunk_size is_hybrid_model use_mamba_mem_eff_path
    """,
    "ddp": """
        use_distributed_optimizer overlap_grad_reduce overlap_param_gather use_megatron_fsdp data_parallel_sharding_strategy
        num_distributed_optimizer_instances
    """,
    "optimizer": """
        optimizer sgd_momentum use_precision_aware_optimizer exp_avg_dtype exp_avg_sq_dtype optimizer_cpu_offload lr min_lr adam_beta1
        adam_beta2 adam_eps weight_decay clip_grad
    """,
    "scheduler": "start_weight_decay end_weight_decay lr_decay_style lr_warmup_iters",
    "train": "micro_batch_size global_batch_size train_iters train_samples",
    "dist": "use_tp_pp_dp_mapping use_torch_fsdp2",
    "checkpoint": "ckpt_format",
    "tokenizer": "tokenizer_type vocab_size",
}
_OTHER: Final = {
    "bias_gelu_fusion": "model.bias_activation_fusion",
    "num_experts": "model.num_moe_experts",
    "num_virtual_stages_per_pipeline_rank": "model.virtual_pipeline_model_parallel_size",
    "decoder_first_pipeline_num_layers": "model.num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "model.num_layers_in_last_pipeline_stage",
    "seq_length": "model.seq_length",
    "accumulate_allreduce_grads_in_fp32": (_IN_FLOAT32 := "ddp.grad_reduce_in_fp32"),
    "first_last_layers_bf16": "mixed_precision.first_last_layers_bf16",
    "num_layers_at_start_in_bf16": "mixed_precision.num_layers_at_start_in_bf16",
    "num_layers_at_end_in_bf16": "mixed_precision.num_layers_at_end_in_bf16",
    "fp8_format": "mixed_precision.fp8",
    "fp8_recipe": "mixed_precision.fp8_recipe",
    "fp4_format": "mixed_precision.fp4",
    "fp4_recipe": "mixed_precision.fp4_recipe",
}
NAMES: Final = {**{name: f"{part}.{name}" for part, names in _SAME.items() for name in names.split()}, **_OTHER}
_BACK: Final = {  # where the classes of some release or other have a name, too
    **{dotted: name for name, dotted in NAMES.items()},
    **{
        "dataset.seq_length": "seq_length",
        "dataset.sequence_length": "seq_length",
        (_SHARDED := "optimizer.use_distributed_optimizer"): "",
        (_REDUCED := "mixed_precision.grad_reduce_in_fp32"): "",
        "model.should_pad_vocab": "",
    },
    **{f"comm_overlap.{name}": name for name in ("overlap_moe_expert_parallel_comm", "delay_wgrad_compute")},
    **{f"comm_overlap.{name}": name for name in ("overlap_grad_reduce", "overlap_param_gather")},
    **{f"mixed_precision.{name}": name for name in ("bf16", "fp16")},
    **{"dist.use_megatron_fsdp": "use_megatron_fsdp", "model.bf16": "bf16", "model.fp16": "fp16", "model.fp8": "fp8_format"},
    **{"model.fp8_recipe": "fp8_recipe", "model.fp4": "fp4_format", "model.fp4_recipe": "fp4_recipe"},
}
_EIGHT: Final[Mapping[str, Mapping[str, KeyValue]]] = {  # by the middle of the name of a mixed precision
    "": {},
    "with_fp8_delayed_scaling": {"fp8_format": "hybrid", "fp8_recipe": "delayed"},
    "with_fp8_current_scaling": {"fp8_format": "hybrid", "fp8_recipe": "tensorwise"},
    "with_fp8_subchannel_scaling": {"fp8_format": "e4m3", "fp8_recipe": "blockwise"},
    "with_mxfp8": {"fp8_format": "e4m3", "fp8_recipe": "mxfp8"},
    "with_nvfp4": {"fp4_format": "e2m1", "fp4_recipe": "nvfp4"},
}
_WITH_ENDS: Final = "with_fp8_current_scaling"  # whose name keeps the first and the last layer in bf16, too
_NARROW: Final = ("fp8_format", "fp8_recipe", "fp4_format", "fp4_recipe")
_ENDS: Final = {"first_last_layers_bf16": True, "num_layers_at_start_in_bf16": 1, "num_layers_at_end_in_bf16": 1}
_SILU: Final = ("silu", "swiglu")
_SQUARED: Final = ("squared_relu", "squaredrelu")
_QUICK: Final = ("quick_gelu",)


def to_config(keys: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
    """Dotted names and values for the keys of flags, in their order.

    >>> to_config({"tensor_model_parallel_size": 8, "swiglu": True, "bf16": True, "fp8_format": "e4m3", "fp8_recipe": "mxfp8"})
    {'model.tensor_model_parallel_size': 8, 'model.gated_linear_unit': True, 'model.activation_func': 'silu', \
'mixed_precision': 'bf16_with_mxfp8_mixed'}
    """
    found: dict[str, KeyValue] = {}
    for key, value in keys.items():
        if key in _NARROW or key in ("group_query_attention", "WORLD_SIZE", "mock_data", "grad_reduce_in_bf16"):
            continue
        if key in ("bf16", "fp16"):
            own = {name: keys[name] for name in _NARROW if name in keys}
            middle = next(middle for middle, narrow in _EIGHT.items() if narrow == own)
            found["mixed_precision"] = "_".join(each for each in (key, middle, "mixed") if each)
            if middle == _WITH_ENDS and "first_last_layers_bf16" not in keys:
                found[NAMES["first_last_layers_bf16"]] = False
        elif key == "swiglu":
            found |= {"model.gated_linear_unit": True, "model.activation_func": _SILU[0]}
        elif key == "squared_relu":
            found["model.activation_func"] = _SQUARED[0]
        elif key == "quick_geglu":
            found |= {"model.gated_linear_unit": True, "model.activation_func": _QUICK[0]}
        elif key == "untie_embeddings_and_output_weights":
            found["model.share_embeddings_and_output_weights"] = False
        elif key == "window_size":
            found["model.window_size"] = [int(each) for each in str(value).split(",")]
        elif key in ("cp_comm_type", "moe_router_load_balancing_type", "moe_aux_loss_coeff"):
            found[NAMES[key]] = value[0] if isinstance(value, list) else value
        else:
            found[NAMES[key]] = value
    if "grad_reduce_in_bf16" in keys:
        found[_IN_FLOAT32] = False
    if "mixed_precision" in found:
        found |= {_REDUCED: found[_IN_FLOAT32]} if _IN_FLOAT32 in found else {}
    else:
        found["mixed_precision"] = None
    return found


def from_config(config: Mapping[str, KeyValue]) -> dict[str, KeyValue]:
    """The keys of flags that dotted names say; what nobody knows keeps its own name, and what is null is left out.

    >>> from_config({"model.num_moe_experts": 8, "model.activation_func": "silu", "model.gated_linear_unit": True, "rng.seed": 1})
    {'num_experts': 8, 'swiglu': True, 'rng.seed': 1}
    """
    found: dict[str, KeyValue] = {}
    activation, gated = str(config.get("model.activation_func", "gelu")), config.get("model.gated_linear_unit")
    for name, value in _settle(config).items():
        if value is None or (key := _BACK.get(name, name)) == "":
            continue
        if name == "mixed_precision":
            found |= _precision(value)
        elif name in ("model.activation_func", "model.gated_linear_unit"):
            found |= _activation(activation, gated is True)
        elif name == "model.share_embeddings_and_output_weights":
            found |= {} if value else {"untie_embeddings_and_output_weights": True}
        elif name == "model.vocab_size":
            found["padded_vocab_size"] = value
        elif key == "num_query_groups":
            found |= {"num_query_groups": value, "group_query_attention": True}
        elif key not in found or name == NAMES.get(key):
            found[key] = value
    return _with_vocabulary(found)


def _settle(config: Mapping[str, KeyValue]) -> Mapping[str, KeyValue]:
    """The configuration once it is validated: of two switches that say the same, one counts for both.

    Source: NVIDIA-NeMo/Megatron-Bridge@067f987d and tag v0.3.1, src/megatron/bridge/training/config.py
    (_validate_and_sync_distributed_optimizer_settings: either turns the distributed optimizer on) and mixed_precision.py (setup: what a
    mixed precision says, in which gradients are reduced in float32 but for fp16, overwrites what ddp says).
    """
    found = {**config}
    if config.get(_SHARDED) is True:
        found[NAMES["use_distributed_optimizer"]] = True
    if config.get("mixed_precision") is not None or any(name.startswith("mixed_precision.") for name in config):
        wide = not str(config.get("mixed_precision")).startswith("fp16")
        found[_IN_FLOAT32] = config.get(_REDUCED, wide)
    return found


def _with_vocabulary(found: dict[str, KeyValue]) -> dict[str, KeyValue]:
    """What the model itself says of its vocabulary, in place of what a tokenizer does."""
    if "padded_vocab_size" not in found:
        return found
    own = {"vocab_size": found.pop("padded_vocab_size")}
    return {key: value for key, value in found.items() if key != "tokenizer_type"} | own


def _activation(name: str, gated: bool) -> dict[str, KeyValue]:
    short = name.rsplit(".", 1)[-1]
    if short in _SILU and (gated or short == "swiglu"):
        return {"swiglu": True}
    if short in _SQUARED and not gated:
        return {"squared_relu": True}
    if short in _QUICK and gated:
        return {"quick_geglu": True}
    return {} if short == "gelu" and not gated else {"model.activation_func": name}


_OWN: Final[Mapping[str, tuple[str, int, int]]] = {  # of some models: the middle of the name, and layers at start and end in bf16
    "nemotron_h_bf16_with_fp8_current_scaling_mixed": (_WITH_ENDS, 2, 2),
    "nanov2_bf16_with_fp8_current_scaling_mixed": ("with_fp8_subchannel_scaling", 2, 2),
    "nemotron_3_super_bf16_with_nvfp4_mixed": ("with_nvfp4", 0, 14),
}


def _precision(value: KeyValue) -> dict[str, KeyValue]:
    """The keys of a mixed precision, by its name; some that scale currently keep the first and last layers in bf16."""
    text = str(value).replace("-", "_")
    if text in _OWN:
        middle, *counts = _OWN[text]
        return {"bf16": True, **_EIGHT[middle], **_ENDS, **dict(zip([*_ENDS][1:], counts, strict=True))}
    for middle, narrow in _EIGHT.items():
        for wide in ("bf16", "fp16"):
            if text == "_".join(each for each in (wide, middle, "mixed") if each):
                ends: dict[str, Any] = _ENDS if middle == _WITH_ENDS else {}
                return {wide: True, **narrow, **ends}
    return {"mixed_precision": value}
