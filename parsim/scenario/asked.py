"""What people ask for, in the words of Megatron-LM, DeepSpeed, Hugging Face, torchtitan and of papers -> what a scenario calls it.

A name is a word of SPELLED (section -> key) or of VALUES (key -> value, in named_values.py), or stands in SAID with a sentence: where its
figure is said otherwise, or that it is not built and what to use.  Case, dashes and underscores do not count; a * stands for any end, and
of words that fit the longest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Final

from parsim import catalog
from parsim.catalog.spelling import squeeze
from parsim.errors import did_you_mean
from parsim.model import families
from parsim.parallel.plan import KEYS
from parsim.scenario.named_values import VALUES
from parsim.scenario.sentences import sentence
from parsim.scenario.unbuilt import MIXED, UNBUILT

SPELLED: Final[Mapping[str, Mapping[str, str]]] = {
    "plans": {
        "data_parallel": "dp ddp replicas num_replicas",
        "tensor_parallel": "tensor tp mp model_parallel tensor_model_parallel",
        "pipeline_parallel": "pipeline pp pipe_parallel pipeline_model_parallel num_stages pipeline_stages",
        "virtual_pipeline": "vpp vp virtual_pipeline_parallel virtual_pipeline_model_parallel virtual_stages num_model_chunks",
        "sequence_parallel": "sp",
        "context_parallel": "cp ring_attention ulysses ulysses_sequence_parallel ds_sequence_parallel sequence_parallel_size",
        "context_group": "hierarchical_context_parallel_sizes ulysses_degree ulysses_degree_in_cp context_parallel_ulysses_degree",
        "context_kind": "cp_comm_type context_parallel_type context_parallel_rotate_method ring_attention_type",
        "expert_parallel": "ep ep_size expert_model_parallel expert_model_parallel_size",
        "expert_tensor_parallel": "etp etp_size expert_tensor_model_parallel expert_tensor_parallel_size",
        "micro_batch": "mbs micro_batch_size train_micro_batch_size_per_gpu micro_batch_per_gpu per_device_train_batch_size "
        "per_device_batch_size local_batch_size device_batch_size pipeline_parallel_microbatch_size",
        "schedule": "pipeline_schedule pipeline_parallel_schedule",
        "recompute": "recomputation recompute_granularity recompute_activations activation_checkpoint activation_checkpointing "
        "gradient_checkpointing checkpoint_activations activation_recomputation remat remat_policy ac_mode",
        "recompute_every": "recompute_interval",
        "recompute_modules": "checkpoint_modules recompute_submodules",
        "layers_per_stage": "pipeline_split stage_layers pipeline_model_parallel_layout num_layers_per_stage",
        "rank_order": "axis_order parallel_order",
        "optimizer": "optim optimizer_type optimizer_name",
        "optimizer_in_backward": "optimizer_in_bwd optimizer_in_backward_pass optim_in_bwd fused_backward fused_backward_pass "
        "apply_optimizer_in_backward",
        "parameter_servers": "num_ps ps num_servers num_parameter_servers ps_replicas server_shards num_shards",
        "zero_stage": "zero zero_optimization_stage fsdp_stage",
        "reshard_after_forward": "fsdp_reshard_after_forward",
        "zero_group": "hsdp shard_group mics_shard_size data_parallel_shard dp_shard fsdp_group",
        "offload_optimizer": "optimizer_offload optimizer_cpu_offload cpu_offload_optimizer offload_optimizer_device",
    },
    "batch": {
        "global_batch": "gbs bs batch_size global_batch_size train_batch_size total_batch_size",
        "sequence_length": "seq_length seq_len max_seq_length max_seq_len max_length block_size context_length context_len",
        "source_length": "max_source_length source_sequence_length encoder_seq_length encoder_sequence_length src_length",
        "packing": "packed packed_sequence packed_sequence_size packed_sequence_specs sequence_packing use_packing packing_strategy "
        "padding padding_free pad_to_max_length reset_attention_mask",
        "lengths": "sequence_lengths seq_lens document_lengths length_distribution cu_seqlens variable_seq_lengths",
        "dtype": "precision data_type torch_dtype param_dtype compute_dtype mixed_precision mixed_precision_param",
    },
    "cluster": {
        "node": "gpu gpu_type gpu_name device device_type accelerator machine instance instance_type hardware node_type",
        "num_nodes": "nnodes node_count num_hosts num_machines num_instances num_slices",
        "num_devices": "gpus num_gpus n_gpus devices num_accelerators world_size num_ranks total_gpus gpu_count",
        "fabric": "network networking interconnect inter_node inter_node_link nic nics",
        "num_sites": "sites site datacenters datacentres num_datacenters num_datacentres num_dcs regions num_regions num_clusters",
        "site_link": "inter_site inter_site_link wan wan_link dci long_haul inter_dc inter_dc_link site_network between_sites",
        "price_per_device_hour": "price_per_gpu_hour gpu_hour_price usd_per_gpu_hour price_per_hour",
    },
    "model": {
        "num_layers": "layers n_layer n_layers num_hidden_layers depth num_blocks",
        "hidden_size": "hidden hidden_dim d_model dim n_embd embed_dim embedding_dim model_dim",
        "ffn_hidden_size": "ffn ffn_dim ffn_size ffn_hidden d_ff intermediate_size n_inner mlp_dim mlp_hidden_size",
        "num_heads": "heads n_head n_heads num_attention_heads",
        "num_kv_heads": "kv_heads n_kv_heads n_head_kv num_key_value_heads num_query_groups",
        "head_dim": "head_size d_head d_kv kv_channels attention_head_size",
        "vocab_size": "vocab vocabulary vocabulary_size padded_vocab_size",
        "max_positions": "max_position_embeddings n_positions n_ctx max_seq_len max_seq_length context_length context_len",
        "activation": "hidden_act hidden_activation activation_function activation_func mlp_activation",
        "norm": "normalization norm_type",
        "positions": "position_embedding position_embedding_type positional_encoding position_encoding pos_emb",
        "bias": "use_bias linear_bias add_bias_linear",
        "qkv_bias": "add_qkv_bias",
        "tied_embedding": "tie_word_embeddings tied_word_embeddings tie_embeddings tied_embeddings weight_tying share_embeddings",
        "dropout": "dropout_rate",
        "sliding_window": "window window_size",
        "attention_chunk": "attention_chunk_size",
        "unturned_every": "no_rope_layer_interval no_rope_freq nope_every",
        "full_attention_every": "sliding_window_pattern window_attn_skip_freq",
        "attention_sinks": "sinks attention_sink softmax_offset",
        "causal": "is_causal",
        "norm_last": "post_norm",
        "attn_logit_softcapping": "attn_logit_softcap attention_softcap attention_logit_softcap",
        "final_logit_softcapping": "final_logit_softcap output_logit_softcap",
        "sandwich_norm": "peri_ln sandwich_norms",
        "parallel_block": "parallel_attn parallel_attention use_parallel_residual parallel_residual parallel_mlp",
        "tied_norm": "parallel_block_tied_norm gpt_j_tied",
        "embedding_norm": "embedding_layernorm word_embeddings_layernorm embed_norm",
        "head_bias": "lm_head_bias output_bias",
        "num_token_types": "type_vocab_size",
        "qk_norm": "qk_layernorm use_qk_norm query_key_norm",
        "num_experts": "num_local_experts n_routed_experts num_routed_experts n_experts moe_num_experts",
        "experts_per_token": "top_k num_experts_per_tok num_experts_per_token moe_router_topk router_topk n_active_experts",
        "expert_ffn_hidden_size": "moe_intermediate_size moe_ffn_hidden_size expert_intermediate_size",
        "shared_ffn_hidden_size": "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_expert_ffn_hidden_size",
        "expert_groups": "n_group n_expert_groups num_expert_groups moe_router_num_groups",
        "groups_per_token": "topk_group n_limited_groups num_limited_groups moe_router_group_topk",
        "num_dense_layers": "first_k_dense_replace",
        "mtp_layers": "mtp_num_layers num_nextn_predict_layers",
        "encoder_layers": "num_encoder_layers n_encoder_layers encoder_num_layers",
        "mtp_loss_weight": "mtp_loss_scaling_factor",
        "gate_scale": "routed_scaling_factor moe_router_topk_scaling_factor route_scale routing_scaling_factor",
        "gates": "scoring_func moe_router_score_function score_func",
        "balance_coefficient": "aux_loss_coef* aux_loss_alpha router_aux_loss_coef moe_aux_loss_coeff* load_balance_coeff",
        "steer_rate": "moe_router_bias_update_rate bias_update_speed load_balancing_bias_rate router_bias_update_rate",
        "capacity_factor": "expert_capacity_factor moe_expert_capacity_factor moe_capacity_factor expert_capacity",
        "drop_policy": "moe_token_drop_policy token_drop_policy",
        "pad_to_capacity": "moe_pad_expert_input_to_capacity pad_expert_input_to_capacity drop_pad drop_and_pad",
        "load_shares": "expert_loads tokens_per_expert expert_shares load_per_expert",
        "load_seed": "load_by_layer router_seed",
        "expert_layer_every": "moe_layer_freq decoder_sparse_step interleave_moe_layer_step",
    },
    "stack": {
        "attention": "flash_attention use_flash_attn flash_attn attn_implementation attention_backend attn_impl attention_impl",
        "gradient_dtype": "grad_dtype accumulate_allreduce_grads_in_fp32 grad_reduce_in_fp32 mixed_precision_reduce",
        "gradient_overlap": "overlap_grad_reduce overlap_comm",
        "tensor_overlap": "tp_comm_overlap async_tensor_parallel enable_async_tensor_parallel",
        "vocab_multiple": "make_vocab_size_divisible_by vocab_padding",
        "loss_chunks": "",
    },
    "data": {"name": "dataset dataset_name", "validation_split": "split validation"},
    "training": {
        "epochs": "num_epochs num_train_epochs",
        "learning_rate": "lr",
        **{"beta1": "adam_beta1", "beta2": "adam_beta2", "eps": "epsilon adam_eps adam_epsilon", "weight_decay": "decay wd"},
        "max_norm": "clip clip_grad grad_clip gradient_clipping max_grad_norm",
        "momentum": "",
        "total_tokens": "train_tokens training_tokens num_tokens",
    },
    "tuning": {
        "freeze": "frozen frozen_layers freeze_layers freeze_modules freeze_backbone",
        "lora_rank": "r lora_r lora_dim adapter_dim",
        "lora_alpha": "alpha",
        "quantization": "quantize_base bnb_4bit_quant_type quant_type",
        "double_quantization": "bnb_4bit_use_double_quant double_quant use_double_quant",
        "lora_dropout": "adapter_dropout",
        "lora_targets": "target_modules lora_target_modules lora_target lora_attn_modules",
    },
    "measured": {"step_time": "time step iteration_time time_per_step", "peak_memory": "memory peak max_memory"},
    "": {
        "model": "architecture",
        "cluster": "system",
        "stack": "software framework library",
        "plans": "plan parallelism strategy strategies",
        "seed": "random_seed",
    },
}

SAID: Final[Mapping[str, str]] = {
    "of experts that all tokens pass give the width together: shared_ffn_hidden_size": "n_shared_experts num_shared_experts shared_expert*",
    "routers are said by gates, gate_scale, expert_groups and load_skew or load_shares, and what is dropped comes last": (
        "moe* expert_* router* aux_loss* z_loss* norm_topk_prob topk_method"
    ),
    "of adapters those of LoRA are built, for all plans: tuning: {lora_rank: 16, lora_targets: all-linear}": (
        "dora* peft* adapter adapters adapter_type lora qlora"
    ),
    "of quantized weights a frozen base in nf4 is built, for all plans: tuning: {lora_rank: 16, quantization: nf4}": (
        "quantized* quantised* load_in_4bit load_in_8bit bnb*"
    ),
    "inference is not built: only training steps are predicted": (
        "mode inference* serving* prompt* output_length output_len max_new_tokens generation* decode decode_len* decode_tokens decoding* "
        "prefill* kv_cache* use_cache num_requests concurrency max_batch_size input_length input_len"
    ),
    MIXED: (
        "node_groups node_kinds node_types[] accelerators[] accelerator[] accelerator_types gpu_types gpus[] devices[] hetero* mixed_nodes"
    ),
    "devices of a node follow from it; where fewer are used, give num_devices of the cluster": (
        "devices_per_node gpus_per_node num_gpus_per_node n_gpus_per_node nproc_per_node"
    ),
    "a file with `scenario` and `over` is a sweep: use `parsim sweep`": "scenario over combine",
    "the tokens of a step are global_batch x sequence_length: give these two": (
        "tokens tokens_per_step tokens_per_batch batch_tokens global_batch_tokens"
    ),
    "give training.total_tokens: steps x global_batch x sequence_length": (
        "max_steps total_steps train_iters train_samples training_steps num_steps steps"
    ),
    "give it as cluster.price_per_device_hour, of one device in USD": "price* cost* *_per_hour dollars usd",
    "it is a limit of the planner: parsim plan SCENARIO --limit, or parsim size SCENARIO --within or --budget": "budget* days deadline*",
    "gradient accumulation follows: a replica runs global_batch / (data_parallel x micro_batch) micro-batches": (
        "gradient_accumulation gradient_accumulation_steps grad_accum grad_accum_steps accumulation_steps num_microbatches "
        "num_micro_batches accumulate_grad_batches ga gas"
    ),
    "it is zero_stage of a plan: 1 shards the optimizer (Megatron's distributed optimizer), 2 also gradients, 3 also parameters (FSDP)": (
        "fsdp use_fsdp fsdp2 fully_shard* zero_optimization deepspeed use_distributed_optimizer distributed_optimizer sharding_strategy "
        "data_parallel_sharding_strategy use_torch_fsdp2 use_megatron_fsdp zero_1 zero_2 zero_3"
    ),
    "it is data_parallel / zero_group of a plan: give zero_group, the ranks that shard among themselves, with zero_stage = 3 (HSDP)": (
        "data_parallel_replicate dp_replicate hybrid_shard num_distributed_optimizer_instances"
    ),
    "secondary shards and quantized collectives (ZeRO++) are not built: use zero_group": "zero_hpz* zero_quantized* hpz*",
    "it is a figure of the node: node: {base: NAME, name: mine, host_memory_capacity: BYTES, source: mine}": (
        "host_memory_capacity host_memory host_ram ram cpu_memory cpu_ram system_memory"
    ),
    "parameters and activations on the host are not built: use offload_optimizer, or recompute": (
        "offload_param* param_offload offload_activation* activation_offload* cpu_offload* offload fsdp_offload* "
        "fine_grained_activation_offload*"
    ),
    "give layers_per_stage of a plan, which lists the encoder's layers and behind them the decoder's: a stage may hold some of both": (
        "pipeline_model_parallel_split_rank encoder_pipeline_model_parallel_size encoder_pipeline_parallel*"
    ),
    "give layers_per_stage of a plan, which lists the layers of each stage": (
        "decoder_first_pipeline_num_layers decoder_last_pipeline_num_layers num_layers_in_*_pipeline_stage pipeline_parallel_*_less_layers "
        "account_for_*_in_pipeline_split"
    ),
    "it is virtual_pipeline of a plan: layers / (pipeline_parallel x layers in a chunk)": (
        "num_layers_per_virtual_pipeline_stage num_layers_per_virtual_stage pipeline_parallel_layers_per_stage"
    ),
    "it is recompute_every of a plan, or recompute_modules": "recompute_num_layers recompute_method checkpoint_num_layers recompute_layers",
    "of torchtitan, op is recompute: selective with stack: torchtitan, and n is recompute: full with recompute_every: n": (
        "selective_ac_option ac_option"
    ),
    "it is the dtype of batch, such as bf16 or fp8": "bf16 fp16 fp32 tf32 bfloat16 float16 float32 half use_bf16 use_fp16",
    "it is loss_chunks of the stack, the chunks of tokens that take their gradients one after another, as those of Liger and torchtitan: "
    "stack: {base: NAME, loss_chunks: 8}": (
        "num_loss_chunks chunked_loss* chunked_lm_head* loss_chunk* linear_cross_entropy* fused_linear_cross_entropy* fused_ce* liger* "
        "use_liger*"
    ),
    "whole logits that are widened chunk by chunk (torchtune's CEWithChunkedOutputLoss) are not built; loss_chunks keeps one chunk's": (
        "num_output_chunks chunked_cross_entropy* chunked_ce* ce_chunk*"
    ),
    "a loss without logits is not built; loss_chunks of a stack keeps those of one chunk": "cut_cross_entropy* cce use_cce",
    "Megatron's --cross-entropy-loss-fusion is stack: megatron-core-fused-loss": "fused_cross_entropy* cross_entropy_*fusion*",
    "it is narrow_parameters of the stack, the precisions whose weights are kept and gathered narrow: "
    "stack: {base: NAME, narrow_parameters: [fp8_current]}": "fp8_param fp8_params fp8_param_gather enable_fsdp_float8_all_gather",
    "it is num_layers_at_start_in_bf16 and num_layers_at_end_in_bf16 of batch": "first_last_layers_bf16",
    "attention in 8 bits is not built: linear layers alone multiply low precisions": (
        "fp8_dot_product_attention fp8_multi_head_attention fp8_dpa fp8_mha fp8_attention*"
    ),
    "it is the dtype of batch: fp8, as the stack means it, or a recipe by its name, such as fp8_current; norms, attention, embedding and "
    "head stay in bf16": "fp8* float8* mxfp8* nvfp4* fp4* enable_fp8* te_fp8*",
    "integers of 8 bits are not built: use dtype fp8": "int8*",
    "compiled and captured programs are not built: a stack's fusions say what is fused": (
        "compile torch_compile cuda_graph* enable_cuda_graph use_cuda_graph*"
    ),
    "windows are sliding_window, and full_attention_every of a model's layers without one": (
        "attention_window* use_sliding_window local_attention* layer_types max_window_layers"
    ),
    "it is a way of positions: positions = alibi": "alibi* use_alibi",
    "it is rotary_dim, the elements of a head that are turned": "rotary_percent rotary_pct partial_rotary_factor",
    "soft caps are two figures: attn_logit_softcapping and final_logit_softcapping": "logit_softcap* softcap*",
    "latent attention (MLA) is asked for by its widths: kv_lora_rank and others": "mla multi_latent_attention",
    "a model of family encoder_decoder has num_layers in all, of which encoder_layers are the encoder's": (
        "num_decoder_layers decoder_layers cross_attention* add_cross_attention is_encoder_decoder"
    ),
    "images are read by models of family vit, with num_patches and patch_size, and before a text by those of family vision_language, with "
    "vision_layers and vision_hidden_size, too; sounds are not built": ("vision* image_size audio* text_config"),
    "Mamba-2 layers are those of family: hybrid, with pattern, mamba_heads and state_size; linear attention is not built": (
        "mamba* ssm* hybrid_* linear_attention* full_attention_interval"
    ),
    "it changes no matmul, and nothing that is predicted: leave it out": (
        "rope_theta rope_scaling rotary_base rms_norm_eps layer_norm_eps norm_eps layernorm_epsilon "
        "layer_norm_epsilon initializer_range init_method_std bos_token_id eos_token_id pad_token_id transformers_version architectures"
    ),
    "an inline model says what it has by activation, norm, positions and bias; model: hf:PATH reads a config.json": "model_type",
    "it is the optimizer of a plan: paged_adamw or paged_adamw_8bit": "paged paged_optimizer* use_paged_optimizer*",
    "gradients go where the optimizer is: give offload_optimizer": "offload_grad*",
    "logits stay sharded where the stack says so: stack: {base: NAME, gather_logits: false}": "loss_parallel* disable_loss_parallel",
    "of gated MLPs three are built: activation = swiglu, geglu or gpt-oss's clamped_swiglu": (
        "swiglu use_swiglu geglu use_geglu glu gated gated_mlp gated_linear_unit"
    ),
    "say tied_embedding = false": "untie_embeddings_and_output_weights untie_embeddings",
    "say bias = false": "disable_bias_linear no_bias",
    "bias is that of all linear layers, qkv_bias that of queries, keys and values; out_bias = false leaves out attention's last, "
    "mlp_bias = false those of MLPs": "attention_bias attn_bias",
    "one dropout is built, for embeddings, attention scores and what each branch adds: give dropout; scores_dropped and "
    "embedding_dropped = false leave it out there": (
        "hidden_dropout attention_dropout resid_pdrop embd_pdrop attn_pdrop hidden_dropout_prob attention_probs_dropout_prob"
    ),
    "the memory of a device is hbm_capacity of its accelerator: node: {base: NAME, accelerator: {base: NAME, hbm_capacity: 80 GiB}}": (
        "memory gpu_memory gpu_mem device_memory memory_per_gpu memory_per_device memory_capacity vram hbm hbm_size hbm_capacity"
    ),
    "it is a figure of the fabric or of its nic, or of the node's link: fabric: {base: NAME, ...}": (
        "bandwidth *_bandwidth latency oversubscription topology"
    ),
    "gradients are kept and summed as the stack says: stack: {base: NAME, gradient_dtype: fp32 or compute}": "fp32_grad* grads_in_fp32",
    "it follows from the stack: leave it out": "overlap_param_gather reduce_bucket_size allgather_bucket_size bucket_cap_mb",
}

# What follows an unknown name of a kind for which nothing is meant: how to have it none the less.
_WAYS: Final[Mapping[str, str]] = {
    "model": "; model: hf:PATH reads a config.json",
    "node": "; num_devices of the cluster uses a part of a larger one",
}


def about_key(section: str, key: str, own: Iterable[str], *, nested: bool = False) -> str:
    """What follows "unknown key" in a message: the key meant in this section or in another, that it is not built, or "".

    `nested`: the value is a list or a mapping.

    >>> about_key("batch", "micro-batch-size", ["global_batch"])
    '; give it as plans.NAME.micro_batch'
    """
    word = squeeze(key)
    slips = get_close_matches(key, own := [*own], 1, _SLIP)
    for name in (f"{word}[]" if nested else word, word, *_stems(word)):
        homes = dict(_homes().get(name, {}))
        if (meant := homes.pop(section, "")) in own:
            return f" (did you mean '{meant}'?)"
        if slips and not homes:
            return f" (did you mean '{slips[0]}'?)"
        if said := sentence(SAID, name):
            return f": {said}"
        homes = {place: meant for place, meant in homes.items() if place not in _OWN or name == squeeze(meant)}
        if homes:
            place, meant = next(iter(homes.items()))
            return f"; give it as {_PLACES.get(place, f'{place}.')}{meant}"
    return ""


def about_value(kind: str, name: str, legal: Iterable[str]) -> str:
    """What follows a wrong value or unknown name in a message: the one meant, that it is not built, or "".

    >>> about_value("activation", "reglu", ["gelu", "swiglu"]), about_value("activation", "gelu_new", ["gelu"])
    (', which is a gate that is not built: swiglu and geglu are', " (did you mean 'gelu'?)")
    """
    known, own = list(legal), name.rpartition("/")[2]  # without the organisation
    bare = re.sub(r"^meta[-_]|[-_](hf|instruct|chat|base|it|pt)$", "", own, flags=re.IGNORECASE)
    for word in dict.fromkeys(map(squeeze, (own, bare))):
        alike = [each for each in known if squeeze(each) == word]
        spelled = [value for value, words in VALUES.get(kind, {}).items() if value in known and word in map(squeeze, words.split())]
        if alike or spelled:
            return f" (did you mean '{(alike or spelled)[0]}'?)"
        if said := lack_of(kind, word):
            near_rows = (catalog.hint(f"{kind}s", each) for each in (own, bare) if said.startswith("has no row"))
            return next(filter(None, near_rows), f", which {said}")
    rows = kind if kind in catalog.kinds() else f"{kind}s"
    near = catalog.hint(rows, name) if rows in catalog.kinds() else did_you_mean(name, known)
    return near or (_nodes_with(own) if kind == "node" else "") or _WAYS.get(kind, "")


def _nodes_with(name: str) -> str:
    """The nodes that have an accelerator of this name; "" where none has."""
    meant = catalog.rows_meant("accelerators", name)
    nodes = catalog.rows_with("nodes", "accelerator", meant) if meant else []
    return f", which is an accelerator; nodes that have it: {', '.join(nodes)}" if nodes else ""


def lack_of(kind: str, name: str) -> str:
    """What is said of a value that exists elsewhere and not here, or "".

    >>> lack_of("model", "falcon_h1")
    'is not built: state-space layers'
    """
    return sentence(UNBUILT.get(kind, {}), squeeze(name))


_SLIP: Final = 0.9  # so alike is a key of its own with a letter wrong, rather than another's word
_OWN: Final = ("measured", "data")  # sections whose short words mean something else in another
_PLACES: Final = {"": "", "plans": "plans.NAME.", "measured": "measured.NAME.", "stack": "stack: {base: NAME, ...}, key "}


def _stems(name: str) -> list[str]:
    """The name without what says that it is a number."""
    return [name.removesuffix(end) for end in ("size", "degree", "s") if name.endswith(end)]


@cache
def _homes() -> Mapping[str, Mapping[str, str]]:
    """Squeezed name -> section -> key: every key under its own name and under those of the table."""
    figures = {figure for name in families.names() for figure in families.family(name).spec.figures()}
    own = {"plans": KEYS, "model": sorted(figures)}
    homes: dict[str, dict[str, str]] = {}
    for section, keys in SPELLED.items():
        for key in dict.fromkeys((*keys, *own.get(section, ()))):
            for word in (*keys.get(key, "").split(), *([key] if key != "name" else [])):
                homes.setdefault(squeeze(word), {}).setdefault(section, key)
    return homes
