"""What people ask for in other words gets the key, the section, or that it is not built; a hint keeps the meaning."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from parsim import catalog, scenario
from parsim.catalog.spelling import squeeze
from parsim.errors import ScenarioError, nearest
from parsim.model import families
from parsim.model.adapters import TARGETS
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.plan import KEYS
from parsim.parallel.precision import FP8, RECIPES
from parsim.scenario import asked, named_values
from parsim.scenario.document import (
    BatchSection,
    ClusterSection,
    DataSection,
    MeasuredSection,
    PlanSection,
    Sections,
    TrainingSection,
    TuningSection,
)
from parsim.scenario.rows import StackRow
from parsim.scenario.unbuilt import MIXED

GOOD: dict[str, Any] = {
    "model": {"base": "tiny-gpt"},
    "cluster": {"node": "dgx-a100-80gb"},
    "batch": {"global_batch": 8, "sequence_length": 16},
    "stack": {"base": "torchtitan"},
    "plans": {"a": {}},
    "training": {},
}


def faults_of(section: str, **keys: object) -> list[str]:
    """What is said of a good scenario with keys more in a section, without the place."""
    document = deepcopy(GOOD)
    document["measured"] = {"a": {"step_time": "1 s"}}
    target = document if not section else document[section]["a"] if section in ("plans", "measured") else document[section]
    target.update(keys)
    try:
        scenario.from_mapping(document)
    except ScenarioError as error:
        return [fault.message for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        *(("plans", key, "tensor_parallel") for key in ("tp", "TP", "tp_size", "tensor_model_parallel_size", "--tensor-parallel-degree")),
        *(
            ("plans", key, "context_parallel")
            for key in ("cp", "context_parallel_size", "ulysses_sequence_parallel_size", "sequence_parallel_size")
        ),
        *(("plans", key, "zero_stage") for key in ("zero", "zero_optimization_stage")),
        *(("plans", key, "recompute") for key in ("gradient_checkpointing", "recompute-granularity", "activation_checkpointing")),
        *(("plans", key, "micro_batch") for key in ("micro_batch_size", "per_device_train_batch_size", "train_micro_batch_size_per_gpu")),
        *(("batch", key, "sequence_length") for key in ("seq_len", "seq-length", "max_seq_length", "seqlen")),
        *(("batch", key, "global_batch") for key in ("gbs", "train_batch_size", "globalBatchSize")),
        *(("cluster", key, "node") for key in ("gpu", "accelerator", "instance_type")),
        *(("model", key, "num_layers") for key in ("num_hidden_layers", "n_layer", "layers", "num-layers")),
        *(("model", key, "num_kv_heads") for key in ("num_key_value_heads", "num_query_groups")),
        *(("training", key, "learning_rate") for key in ("lr", "learning-rate")),
        ("stack", "overlap_grad_reduce", "gradient_overlap"),
        *(("plans", key, "pipeline_parallel") for key in ("pipeline", "pipelines")),
        *(("model", key, "max_positions") for key in ("max_seq_len", "context_length")),
        ("cluster", "num_slices", "num_nodes"),
        ("measured", "memory", "peak_memory"),
        ("", "strategy", "plans"),
    ],
)
def test_a_short_or_foreign_name_gets_its_key(section: str, key: str, meant: str) -> None:
    assert faults_of(section, **{key: 1}) == [f"unknown key (did you mean '{meant}'?)"]


@pytest.mark.parametrize(
    ("section", "key", "place"),
    [
        ("batch", "micro_batch_size", "plans.NAME.micro_batch"),
        ("batch", "micro_batch", "plans.NAME.micro_batch"),
        ("model", "micro_batch_size", "plans.NAME.micro_batch"),
        ("", "tensor_parallel", "plans.NAME.tensor_parallel"),
        ("cluster", "tp", "plans.NAME.tensor_parallel"),
        ("plans", "seq_len", "batch.sequence_length"),
        ("plans", "global_batch", "batch.global_batch"),
        ("plans", "dtype", "batch.dtype"),
        ("plans", "num_layers", "model.num_layers"),
        ("plans", "stack", "stack"),
        ("plans", "use_flash_attn", "stack: {base: NAME, ...}, key attention"),
        ("", "lr", "training.learning_rate"),
        ("", "num_nodes", "cluster.num_nodes"),
        ("batch", "training_tokens", "training.total_tokens"),
        ("plans", "freeze", "tuning.freeze"),
        ("plans", "lora_rank", "tuning.lora_rank"),
    ],
)
def test_a_key_in_another_section_gets_its_section(section: str, key: str, place: str) -> None:
    assert faults_of(section, **{key: 1}) == [f"unknown key; give it as {place}"]


@pytest.mark.parametrize(
    ("section", "keys", "said"),
    [
        ("model", ("n_shared_experts",), "give the width together: shared_ffn_hidden_size"),
        ("model", ("norm_topk_prob", "moe_router_load_balancing_type"), "routers are said by gates"),
        ("plans", ("lora", "peft"), "of adapters those of LoRA are built"),
        ("plans", ("load_in_4bit", "bnb_config"), "a frozen base in nf4 is built"),
        ("batch", ("mode", "prompt_length", "output_length", "max_new_tokens"), "inference is not built"),
        ("training", ("train_iters", "max_steps"), "give training.total_tokens: steps x global_batch x sequence_length"),
        ("training", ("cost_per_hour", "price"), "give it as cluster.price_per_device_hour"),
        ("batch", ("budget", "days"), "it is a limit of the planner"),
        ("batch", ("tokens", "tokens_per_step"), "the tokens of a step are global_batch x sequence_length"),
        ("batch", ("gradient_accumulation_steps", "ga"), "gradient accumulation follows"),
        ("cluster", ("gpus_per_node", "devices_per_node"), "devices of a node follow from it"),
        ("plans", ("fsdp", "use_distributed_optimizer", "zero_optimization", "zero1", "zero_3"), "it is zero_stage of a plan"),
        ("plans", ("dp_replicate",), "it is data_parallel / zero_group of a plan"),
        (
            "plans",
            ("decoder_first_pipeline_num_layers", "num_layers_in_first_pipeline_stage", "account_for_loss_in_pipeline_split"),
            "give layers_per_stage of a plan",
        ),
        ("cluster", ("memory", "gpu_memory", "hbm_capacity"), "the memory of a device is hbm_capacity of its accelerator"),
        ("cluster", ("bandwidth", "inter_node_bandwidth", "topology", "oversubscription"), "it is a figure of the fabric or of its nic"),
        ("model", ("attention_bias", "attn_bias"), "out_bias = false leaves out attention's last"),
        ("model", ("attention_dropout", "resid_pdrop", "hidden_dropout"), "one dropout is built"),
        ("plans", ("paged",), "it is the optimizer of a plan"),
        ("plans", ("offload_gradients",), "gradients go where the optimizer is"),
        ("plans", ("loss_parallel",), "logits stay sharded where the stack says so"),
        ("plans", ("fused_ce", "use_liger_kernel", "chunked_loss"), "it is loss_chunks of the stack"),
        ("plans", ("num_output_chunks",), "whole logits that are widened chunk by chunk"),
        ("plans", ("cross_entropy_fusion_impl",), "is stack: megatron-core-fused-loss"),
        ("model", ("geglu", "glu", "gated"), "of gated MLPs three are built: activation = swiglu, geglu or"),
        (
            "plans",
            ("offload_param", "offload_parameters", "cpu_offload", "offload_activations"),
            "parameters and activations on the host are not built",
        ),
        ("cluster", ("host_memory_capacity", "cpu_memory", "ram"), "it is a figure of the node"),
        ("model", ("layer_types", "attention_window", "use_sliding_window"), "windows are sliding_window, and full_attention_every"),
        ("model", ("alibi",), "positions = alibi"),
        ("model", ("multi_latent_attention",), "latent attention (MLA) is asked for by its widths: kv_lora_rank and others"),
        ("", ("fp8", "float8"), "it is the dtype of batch: fp8, as the stack means it"),
        ("stack", ("fp8_param_gather", "fp8_param"), "it is narrow_parameters of the stack"),
        ("batch", ("first_last_layers_bf16",), "it is num_layers_at_start_in_bf16"),
        ("batch", ("fp8_dot_product_attention", "fp8_mha"), "attention in 8 bits is not built"),
        ("", ("int8",), "integers of 8 bits are not built"),
    ],
)
def test_what_is_not_built_says_so_by_name(section: str, keys: tuple[str, ...], said: str) -> None:
    for key in keys:
        (fault,) = faults_of(section, **{key: 8})
        assert fault.startswith("unknown key: ") and said in fault and "did you mean" not in fault


def test_nodes_of_several_kinds_are_no_number_of_nodes() -> None:
    mixed, many = faults_of("cluster", node_groups=[{"node": "dgx-a100-80gb", "count": 1}]), faults_of("cluster", nodes=2)
    assert mixed == [f"unknown key: {MIXED}"]
    assert many == [f"must be a list, not 2: {MIXED}; how many equal nodes there are is num_nodes"]


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("model", "activation", "reglu", ", which is a gate that is not built: swiglu and geglu are; legal: gelu"),
        ("model", "activation", "GeGLU", " (did you mean 'geglu'?)"),
        ("model", "activation", "gelu_new", " (did you mean 'gelu'?)"),
        ("model", "positions", "xpos", ", which is not built; legal: learned, rotary, alibi"),
        ("model", "positions", "rope", " (did you mean 'rotary'?)"),
        ("model", "norm", "RMSNorm", " (did you mean 'rms_norm'?)"),
        ("batch", "dtype", "bfloat16", " (did you mean 'bf16'?)"),
        ("batch", "dtype", "fp8_e4m3", ", which is no precision that is built: fp8 is what the stack means by it"),
        ("batch", "dtype", "fp8_cs", " (did you mean 'fp8_current'?)"),
        ("batch", "dtype", "fp6", ", which is no precision that is built"),
        ("batch", "dtype", "fp64", ", which is not built; known"),
        ("batch", "dtype", "float64", ", which is not built; known"),
        ("batch", "dtype", "fp61", "; known"),
        ("", "stack", "fsdp", ", which is no stack but a way to shard"),
        *(("", "stack", name, ", which has no row: start one of your own") for name in ("accelerate", "neox", "colossalai")),
        ("", "stack", "megatron-2023", " (releases of megatron: 2022, 2021); known"),
        ("cluster", "node", "trn1.2xlarge", "; num_devices of the cluster uses a part of a larger one; known"),
        ("plans", "optimizer", "adam", " (did you mean 'adamw'?)"),
        ("plans", "optimizer", "sgd", ", which is not built"),
        ("plans", "schedule", "Interleaved1F1B", " (did you mean 'interleaved_1f1b'?)"),
        ("plans", "schedule", "DualPipe", " (did you mean 'dual_pipe'?)"),
        ("plans", "schedule", "chimera", ", which is not built"),
    ],
)
def test_a_value_is_meant_or_is_not_built(section: str, key: str, value: str, said: str) -> None:
    (fault,) = faults_of(section, **{key: value})
    assert f"'{value}'{said}" in fault


def test_targets_of_adapters_by_the_names_of_other_models_are_meant() -> None:
    meant = {**{name: f"{name}_proj" for name in "qkvo"}, "wi_0": "gate_proj", "c_attn": "linear_qkv"}
    faults = faults_of("", tuning={"lora_rank": 4, "lora_targets": [*meant]})
    assert all(f"'{name}' (did you mean '{each}'?)" in fault for (name, each), fault in zip(meant.items(), faults, strict=True))


ELSEWHERE = "; model: hf:PATH reads a config.json"
# Models that are dense and built, or of a size, a version or a name that no row has: nothing is said of what they have, or meant by them.
NO_ROWS = (
    *("deepseek-ai/deepseek-llm-67b-base", "deepseek-llm-7b-chat", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "tiiuae/Falcon3-7B-Base"),
    *("mistralai/Mistral-7B-v0.3", "mistral-7b-instruct-v0.2", "01-ai/Yi-34B", "llama3-8bit", "llama2-34b", "qwen1.5-7b"),
    *("gpt3-1.3b", "gpt3-2.7b", "gpt3-67b", "Qwen2-57", "megatron-2.2b", "megatron-1.75b", "llama2-1.3b", "nemotron-4-1.5b", "gpt2-7b"),
)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Llama-3.1-8B", " (did you mean 'llama3-8b'?)"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", " (did you mean 'llama3-70b'?)"),
        ("mistralai/Mistral-7B-v0.1", " (did you mean 'mistral-7b'?)"),
        ("meta-llama/Llama-2-13b-hf", " (did you mean 'llama2-13b'?)"),
        ("Qwen/Qwen3-8B", " (did you mean 'qwen3-8b'?)"),
        ("mistralai/Mixtral-8x7B-v0.1", " (did you mean 'mixtral-8x7b'?)"),
        *((f"google/gemma-{name}-it", f" (did you mean 'gemma-{name}'?)") for name in ("2-2b", "2b", "3-4b")),
        ("google/gemma-3-27b-pt", " (did you mean 'gemma-3-27b'?)"),
        ("allenai/OLMo-2-1124-7B-Instruct", " (did you mean 'olmo-2-1124-7b'?)"),
        ("mistral-nemo", " (names that begin so: mistral-nemo-12b"),
        ("gemma", " (names that begin so: gemma-2b, gemma-7b"),
        ("olmo2-13b", ", which has no row, but its config.json is read"),
        ("google/gemma-4-E4B-it", ", which is not built: embeddings of each layer"),
        ("deepseek-ai/DeepSeek-V3", " (did you mean 'deepseek-v3'?)"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", ", which is not built: sparse attention behind an indexer"),
        ("Qwen/Qwen3-30B-A3B", " (did you mean 'qwen3-30b-a3b'?)"),
        ("openai/gpt-oss-20b", " (did you mean 'gpt-oss-20b'?)"),
        ("Qwen/Qwen2-57B-A14B", ", which has no row, but its config.json is read"),
        ("tiiuae/falcon-mamba-7b", ", which is not built: state-space layers"),
        ("baichuan-inc/Baichuan2-13B-Base", ", which is not read: its keys; write its figures as an inline model, with positions = alibi"),
        ("baichuan-inc/Baichuan2-7B-Base", ", which is not read: its keys; write its figures as an inline model, of the 13B"),
        ("albert-base-v2", ", which is not built: layers that share their weights"),
        ("THUDM/GLM-4-32B-0414", ", which has no row, but its config.json is read"),
        ("microsoft/Phi-3-medium-4k-instruct", ", which has no row, but its config.json is read"),
        *((name, f"{ELSEWHERE}; known") for name in NO_ROWS),
    ],
)
def test_a_model_is_another_name_or_not_built_and_never_another_model(name: str, said: str) -> None:
    (fault,) = faults_of("", model=name)
    assert fault.startswith(f"unknown model '{name}'{said}")


def test_no_row_of_the_catalog_is_said_not_to_be_built() -> None:
    """As hf:ORGANISATION/NAME asks, and an import of a recipe, where its config.json is not at hand."""
    every = (*catalog.names("models"), *catalog.aliases("models"), "MiniMax-M2.1", "mamba2-2.7b-hf", "llava-1.5-7b-hf")
    assert not [name for name in every if asked.lack_of("model", name).startswith("is not")]
    others = ("MiniMax-Text-01", "mamba-2.8b-hf", "mamba-130m", "llava-v1.6-mistral-7b-hf")
    assert all(asked.lack_of("model", name).startswith("is not") for name in others)


def test_a_base_that_is_not_built_says_so_too() -> None:
    (fault,) = faults_of("model", base="deepseek-v3.2")
    assert fault.startswith("unknown model 'deepseek-v3.2', which is not built: sparse attention behind an indexer; known: gpt3-6.7b")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("reglu", ["swiglu"]),
        ("g5.48xlarge", ["p5-48xlarge"]),
        ("h200", ["h100", "b200"]),
        ("llama3-8b", ["llama3-70b"]),
        ("qwen2-7b", ["qwen2.5-7b"]),
        ("pipeline", ["virtual_pipeline"]),
        ("group", ["zero_group"]),
    ],
)
def test_no_hint_leads_to_another_thing(name: str, known: list[str]) -> None:
    assert nearest(name, known) == ""


SECTIONS = {
    **{"plans": PlanSection, "batch": BatchSection, "cluster": ClusterSection, "stack": StackRow, "data": DataSection},
    **{"training": TrainingSection, "tuning": TuningSection, "measured": MeasuredSection, "": Sections},
}


def test_the_table_names_keys_that_there_are_and_each_name_means_one_thing() -> None:
    figures = {figure for name in families.names() for figure in families.family(name).spec.figures()}
    for section, keys in asked.SPELLED.items():
        own = figures if section == "model" else set(SECTIONS[section].model_fields)
        assert keys.keys() <= own, section
        words = [squeeze(word) for words in keys.values() for word in words.split()]
        assert len(words) == len(set(words)) and not set(words) & {squeeze(key) for key in own}, section
    for said, words in asked.SAID.items():
        for word in words.split():
            assert word.endswith("[]") or asked._homes().get(squeeze(word), {}).keys() <= set(asked._OWN), (said, word)
    assert set(KEYS) <= set(PlanSection.model_fields)


def test_values_of_the_table_are_legal() -> None:
    from parsim import schedules

    legal = {
        "dtype": [*RECIPES, FP8],
        "schedule": schedules.names(),
        "context_kind": kinds(),
        "stack": catalog.names("stacks"),
        "model": catalog.names("models"),
        "lora_target": (*TARGETS,),
    }
    legal |= {name: KEYS[name].legal for name in ("recompute", "optimizer")}
    spec = families.family("transformer").spec.figures()
    legal |= {name: spec[name].legal for name in ("activation", "positions", "norm")}
    for kind, values in named_values.VALUES.items():
        assert values.keys() <= set(legal[kind]), kind
    for kind, sentences in asked.UNBUILT.items():
        names = [word for words in sentences.values() for word in words.split() if "*" not in word]
        assert not {squeeze(name) for name in names} & {squeeze(name) for name in legal[kind]}, kind


def test_a_key_with_a_letter_wrong_is_that_key_though_a_word_of_the_table_fits_too() -> None:
    assert asked.about_key("plans", "expert_tensor_paralel", KEYS) == " (did you mean 'expert_tensor_parallel'?)"
    assert asked.about_key("plans", "expert_capacity_factor", KEYS).startswith(": routers are said by gates")


def test_an_accelerator_in_place_of_a_node_is_told_the_nodes_that_have_it() -> None:
    assert "which is an accelerator; nodes that have it: hgx-h100-80gb" in asked.about_value("node", "h100", ["dgx-a100-80gb"])
