"""Other names of values that people use: key -> value -> its names in the words of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# What Megatron-Bridge, Transformer Engine and torchao call precision recipes.
_PRECISIONS: Final = {
    "fp8": "float8 e4m3 hybrid",
    "fp8_current": "fp8_cs fp8_tensorwise float8_tensorwise float8_current_scaling bf16_with_fp8_current_scaling_mixed",
    "fp8_rowwise": "rowwise float8_rowwise axiswise",
    "fp8_rowwise_gw_hp": "rowwise_with_gw_hp lw_axiswise_with_gw_hp",
    "fp8_delayed": "fp8_ds delayed_scaling bf16_with_fp8_delayed_scaling_mixed bf16_with_fp8_mixed",
    "fp8_blockwise": "fp8_sc fp8_block fp8_subchannel bf16_with_fp8_subchannel_scaling_mixed",
    "mxfp8": "fp8_mx bf16_with_mxfp8_mixed",
    "nvfp4": "fp4 bf16_with_nvfp4_mixed",
}
# What has values by name -> the value -> its other names.
VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "dtype": {"bf16": "bfloat16", "fp16": "float16 half", "fp32": "float32 float single", "tf32": "tensorfloat32", **_PRECISIONS},
    "activation": {"gelu": "gelu_new gelu_fast gelu_tanh gelu_pytorch_tanh", "squared_relu": "relu2 relu_squared"},
    "positions": {"rotary": "rope rotary_embedding", "learned": "absolute learned_absolute learnable"},
    "norm": {"layer_norm": "ln", "rms_norm": "rms"},
    "context_kind": {
        "ring": "p2p ring_attention alltoall",
        "all_gather": "allgather kv_all_gather",
        "ulysses": "a2a all_to_all deepspeed_ulysses",
        "ulysses_ring": "a2a+p2p a2a_p2p usp hybrid_cp_algo hierarchical",
    },
    "recompute": {"none": "no off", "full": "all", "selective": "sel"},
    "schedule": {
        "interleaved_1f1b": "interleaved",
        "zero_bubble_h1": "zb zb_h1 zb1p",
        "zero_bubble_h2": "zb_h2 zbh2",
        "zero_bubble_v": "zbv zb_v zbv_zero_bubble",
        "dual_pipe": "dualpipe",
        "dual_pipe_v": "dualpipev",
        "v_half": "vhalf",
        "v_min": "vmin",
        "gpipe": "afab all_forward_all_backward fill_drain",
        "breadth_first": "looped_bfs",
        "1f1b": "pipedream_flush one_f_one_b",
    },
    "optimizer": {
        "adamw": "adam adamw_torch adamw_torch_fused adamw_fused fused_adam fused_adamw cpu_adam deepspeed_cpu_adam",
        "precision_aware_adamw": "precision_aware_adam precision_aware",
        "adamw_8bit": "adam_8bit adam8bit adamw8bit adamw_bnb_8bit",
        "paged_adamw_8bit": "paged_adam_8bit paged_adamw8bit",
        "paged_adamw": "paged_adamw_32bit paged_adam paged_adam_32bit paged_adamw32bit",
        "sgd_momentum": "momentum",
    },
    "lora_target": {
        **{"q_proj": "q wq query", "k_proj": "k wk key", "v_proj": "v wv value", "o_proj": "o out_proj output_proj"},
        **{"gate_proj": "w1 wi_0", "up_proj": "w3 wi wi_1", "down_proj": "w2"},
        "linear_qkv": "c_attn query_key_value qkv_proj wqkv",
    },
    "stack": {"megatron-core": "mcore megatron_lm"},
    "model": {
        "deepseek-v3": "deepseek deepseek_v3.1 deepseek_v3_base deepseek_r1 deepseek_r1_zero",
        "kimi-k2": "kimi_k2_base kimi_k2_thinking",
        "moonlight-16b-a3b": "moonlight moonlight_16b",
        "deepseek-v2": "deepseek_coder_v2",
        "deepseek-v2-lite": "deepseek_coder_v2_lite",
        "llama3-8b": "llama3.1_8b",
        "llama3-70b": "llama3.1_70b llama3.3_70b",
        "llama3.1-405b": "llama3_405b",
        "gpt3-175b": "gpt3 gpt_175b",
        "gpt2-small": "gpt2",
        "gpt2-xl": "gpt2_1.5b",
        "mistral-7b": "mistral_7b_v0.1 mistral_7b_instruct_v0.1",
        "mixtral-8x7b": "mixtral_8x7b_v0.1 mixtral_8x7b_instruct_v0.1",
        "mixtral-8x22b": "mixtral_8x22b_v0.1 mixtral_8x22b_instruct_v0.1",
    },
}
