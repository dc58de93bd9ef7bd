"""Configs of Hugging Face as they are published, shortened, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# A file of published/ is one model: its config but for what no reader looks at, its parameters and where they are stated.
PUBLISHED = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "published").glob("*.json"))}

# What the released files say, shortened to the keys that matter: meta-llama/Meta-Llama-3-8B, mistralai/Mistral-7B-v0.1,
# Qwen/Qwen2.5-7B, openai-community/gpt2, google-bert/bert-base-uncased; Nemotron-4 15B is in the keys of transformers'
# configuration_nemotron.py.
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "max_position_embeddings": 32768, "sliding_window": 4096, "vocab_size": 32000}
QWEN = {
    **LLAMA,
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
GPT2 = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "model_type": "gpt2",
    "n_embd": 768,
    "n_head": 12,
    "n_inner": None,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "vocab_size": 50257,
}
NEMOTRON = {
    **LLAMA,
    "model_type": "nemotron",
    "hidden_act": "relu2",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "max_position_embeddings": 4096,
    "num_attention_heads": 48,
    "partial_rotary_factor": 1.0,  # theirs say 0.5, which is not read
    "vocab_size": 256000,
}
BERT = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 30522,
}
POOLER = 768 * 768 + 768
MIXTRAL = {**MISTRAL, "model_type": "mixtral", "num_experts_per_tok": 2, "num_local_experts": 8, "sliding_window": None}
GPT_OSS = {  # as released, but for what no reader looks at
    **{
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "hidden_act": "silu",
        "attention_bias": True,
        "attention_dropout": 0.0,
    },
    **{"hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64},
    **{"num_hidden_layers": 24, "layer_types": ["sliding_attention", "full_attention"] * 12, "sliding_window": 128, "vocab_size": 201088},
    **{"num_local_experts": 32, "num_experts_per_tok": 4, "experts_per_token": 4, "swiglu_limit": 7.0, "tie_word_embeddings": False},
    "max_position_embeddings": 131072,
    "quantization_config": {
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
        "quant_method": "mxfp4",
    },
}
LLAMA4 = {  # as released, but for what no reader looks at
    "model_type": "llama4",
    "architectures": ["Llama4ForConditionalGeneration"],
    "vision_config": {"hidden_size": 1408, "model_type": "llama4_vision_model"},
    "text_config": {
        **{"attention_bias": False, "attention_chunk_size": 8192, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu"},
        **{"hidden_size": 5120, "interleave_moe_layer_step": 1, "intermediate_size": 8192, "intermediate_size_mlp": 16384},
        **{"max_position_embeddings": 10485760, "model_type": "llama4_text", "no_rope_layers": [1, 1, 1, 0] * 12, "use_qk_norm": True},
        **{"num_attention_heads": 40, "num_experts_per_tok": 1, "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 16},
        **{"tie_word_embeddings": False, "vocab_size": 202048},
    },
}
MAVERICK = {
    **LLAMA4["text_config"],  # type: ignore[dict-item]
    **{"interleave_moe_layer_step": 2, "max_position_embeddings": 1048576, "no_rope_layers": [], "num_local_experts": 128},
    **{"moe_layers": [*range(1, 48, 2)], "use_qk_norm": False},
}
QWEN_EXPERTS = {
    **{**LLAMA, "model_type": "qwen3_moe", "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144},
    **{"max_position_embeddings": 40960, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True, "num_experts": 128},
    **{"num_attention_heads": 32, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936},
}
QWEN_3 = {**LLAMA, "model_type": "qwen3", "head_dim": 128, "intermediate_size": 12288, "max_position_embeddings": 40960}
# The keys of deepseek-ai/DeepSeek-V2-Lite and moonshotai/Moonlight-16B-A3B and Kimi-K2-Base.
LITE: dict[str, Any] = {
    **{key: value for key, value in LLAMA.items() if key not in ("architectures", "rope_theta")},
    **{
        "model_type": "deepseek_v2",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
    },
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128},
    **{"qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6},
    **{
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "vocab_size": 102400,
        "max_position_embeddings": 163840,
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
    },
}
MOONLIGHT = {
    **LITE,
    **{"model_type": "deepseek_v3", "intermediate_size": 11264, "vocab_size": 163840, "max_position_embeddings": 8192},
    **{"scoring_func": "sigmoid", "topk_method": "noaux_tc", "norm_topk_prob": True, "routed_scaling_factor": 2.446},
}
KIMI = {
    **{**MOONLIGHT, "model_type": "kimi_k2", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048},
    **{"num_hidden_layers": 61, "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536, "n_routed_experts": 384},
    **{"n_shared_experts": 1, "num_experts_per_tok": 8, "max_position_embeddings": 131072},
    "routed_scaling_factor": 2.827,
}
CONFIGS = {
    **{"bert-base": BERT, "llama3-8b": LLAMA, "mistral-7b": MISTRAL, "qwen2.5-7b": QWEN, "gpt2-small": GPT2, "nemotron-4-15b": NEMOTRON},
    **{"mixtral-8x7b": MIXTRAL, "qwen3-30b-a3b": QWEN_EXPERTS, "gpt-oss-20b": GPT_OSS},
    **{"llama4-scout": LLAMA4, "llama4-maverick": MAVERICK},
    **{"deepseek-v2-lite": LITE, "moonlight-16b-a3b": MOONLIGHT, "kimi-k2": KIMI},
    "qwen3-8b": {**QWEN_3, "num_hidden_layers": 36, "vocab_size": 151936},
}


def files(folder: Path, config: object, name: str = "config.json") -> Path:
    """A scenario beside its config."""
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / name).write_text(config if isinstance(config, str) else json.dumps(config))
    path = folder / "scenario.yaml"
    path.write_text(
        f"model: hf:models/{name}\n"
        "cluster: {node: dgx-a100-80gb}\n"
        "batch: {global_batch: 8, sequence_length: 64}\n"
        "plans: {a: {tensor_parallel: 4, sequence_parallel: true}}\n"
    )
    return path
