"""What a row of a table describes: its model, precision, stack, network and kernels, and what it leaves open."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim import catalog
from parsim.cost.cost_model import CostModel
from parsim.estimator.estimate import estimate
from parsim.parallel.stages import layers_of
from parsim.scenario.rows import read
from parsim.validate import cases_of, defaults
from parsim.validate.case import scenario_of
from parsim.validate.classes import EXPERTS, classes_of
from parsim.validate.table import TableRow
from parsim.validate.table import read as read_table
from validate_rows import SMALL, described, only, table

NEWEST = catalog.releases("stacks", "megatron-bridge")[0]


def test_a_row_without_a_shape_has_that_of_the_catalog_model_that_it_names(tmp_path):
    shapeless = dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size"), "")
    named = described(tmp_path, **shapeless, model_name="GPT3-6.7B").model
    assert named == read("models", "gpt3-6.7b")
    assert described(tmp_path, model_name="GPT3-6.7B").model.hidden_size == 1024  # what is stated counts


def test_a_row_without_a_shape_may_name_a_model_by_the_words_that_tell_it_from_others(tmp_path):
    shapeless = dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size"), "")
    row = {**shapeless, "tensor_parallel": "", "pipeline_parallel": "", "dtype": "bf16", "accelerator": "h100-sxm5-80gb"}
    found = described(tmp_path, **row, model_name="Nemotron_3_Nano")
    assert found.model == read("models", "nemotron-3-nano-30b-a3b")
    assert "model = nemotron-3-nano-30b-a3b" in map(str, found.assumed)
    (nano,) = cases_of(table(tmp_path, {**SMALL, **row, "model_name": "Nemotron_3_Nano"}))
    assert classes_of(nano.row) == (EXPERTS,)
    assert only(tmp_path, **row, model_name="Llama 3").skipped == "states no num_layers; states no hidden_size"  # 8B, 70B or 405B


def test_fp8_of_experts_means_the_same_where_a_row_states_them_and_where_its_model_has_them():
    stated = {"release": "25.09", "dtype": "fp8"}
    rows = [TableRow({**stated, "model_name": "Qwen3_30B_a3B"}, {}, {}, ()), TableRow(stated, {"num_experts": 128}, {}, ())]
    assert [defaults.precision_of(each) for each in rows] == ["fp8_current"] * 2
    assert defaults.precision_of(TableRow({**stated, "model_name": "Qwen3_32B"}, {}, {}, ())) == "fp8"


def test_hybrids_of_megatron_bridge_run_again_and_replay_what_their_recipes_say(tmp_path):
    shapeless = dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size", "pipeline_parallel", "recompute"), "")
    source = {"source": "NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md", "source_family": "nemo_bridge2", "release": "26.06"}
    row = {**shapeless, **source, "model_name": "Nemotron_3_Nano", "tensor_parallel": "1", "expert_parallel": "8", "micro_batch": "1"}
    hopper = described(tmp_path, **row, accelerator="h100-sxm5-80gb", dtype="fp8", global_batch="64")
    assert hopper.plan("row").recompute_modules == ("moe", "layernorm", "core_attn", "moe_act")
    blackwell = described(tmp_path, **row, accelerator="gb300", dtype="fp8", global_batch="64")
    assert (blackwell.plan("row").recompute_modules, blackwell.stack.graphs) == ((), {"any": "around_experts"})


@pytest.mark.parametrize(("layers", "chunks", "held"), [("6", "4", (0, *[1] * 6, 0)), ("8", "4", (1,) * 8), ("4", "", (2, 2))])
def test_embedding_and_head_count_as_layers_where_megatron_core_has_no_even_stages_else(tmp_path, layers, chunks, held):
    found = described(tmp_path, source_family="nemo_bridge", num_layers=layers, virtual_pipeline=chunks)
    assert layers_of(found.plan("row"), int(layers), found.stack.layer_split) == held


@pytest.mark.parametrize(("source", "replicas"), [("tests/gpt/case", 8 // 4), ("tests/gpt/case_release_sm", None)])
def test_a_ci_case_of_megatron_core_runs_on_eight_devices_but_not_that_of_a_release(tmp_path, source, replicas):
    row = {"source_family": "mcore_ci", "source": source, "num_devices": ""}
    if replicas:
        assert described(tmp_path, **row).plan("row").data_parallel == replicas
    else:
        assert only(tmp_path, **row).skipped == "states no num_devices"


def test_notes_say_by_what_fp8_is_scaled(tmp_path):
    found = described(tmp_path, dtype="fp8", accelerator="h100-sxm5-80gb", notes="float8 rowwise, async TP")
    assert found.batch.dtype == "fp8_rowwise"


def test_micro_batches_of_one_and_heads_of_128_where_a_row_states_none(tmp_path):
    assert described(tmp_path, micro_batch="").plan("row").micro_batch == 1
    assert described(tmp_path, num_heads="").model.num_heads == 1024 // 128
    found = only(tmp_path, num_heads="", micro_batch="", dtype="")
    assert (found.assumed, found.notes) == (("micro_batch", "num_heads", "dtype"), "micro_batch = 1; num_heads = 8; dtype = fp16")
    assert only(tmp_path).assumed == ()


PAX = "NVIDIA/JAX-Toolbox rosetta/rosetta/projects/pax/README.md"


@pytest.mark.parametrize(
    ("layers", "again", "ops"), [("12", "none", ()), ("24", "none", ("norm1", "flash", "norm2", "activation")), ("96", "full", ())]
)
def test_paxml_runs_again_what_the_policy_of_its_configuration_does_not_keep(tmp_path, layers, again, ops):
    found = described(tmp_path, source=PAX, dtype="bf16", recompute="", num_layers=layers, tensor_parallel="", zero_stage="3")
    plan = found.plan("row")
    assert (plan.recompute, plan.recompute_ops) == (again, ops)
    assert found.stack.attention == ("fused_softmax" if layers == "12" else "flash")
    assert not found.assumed and found.model.dropout == 0


def test_what_a_row_says_goes_before_the_configuration_of_paxml(tmp_path):
    stated = described(tmp_path, source=PAX, dtype="bf16", recompute="full", attention="flash", num_layers="12")
    assert (stated.plan("row").recompute, stated.stack.attention) == ("full", "flash")


def test_a_repository_says_which_stage_of_zero_its_script_runs(tmp_path):
    assert described(tmp_path, source="QwenLM/Qwen README.md").plan("row").zero_stage == 3
    assert described(tmp_path, source="QwenLM/Qwen README.md", zero_stage="2").plan("row").zero_stage == 2
    assert described(tmp_path, source="karpathy/nanoGPT README.md").stack.attention == "unfused"


def test_experts_of_megatron_core_split_tokens_with_tensors(tmp_path):
    source = {"source_family": "misc_repos", "source": "yanring/Megatron-MoE-ModelZoo best_practice", "dtype": "bf16"}
    experts = {"num_experts": "8", "top_k": "2", "expert_parallel": "2"}
    assert [described(tmp_path, **source, **each).plan("row").sequence_parallel for each in ({}, experts)] == [False, True]
    assert not described(tmp_path, **source, **experts, sequence_parallel="no").plan("row").sequence_parallel
    assert described(tmp_path, **source, zero_stage="").plan("row").zero_stage == 1


def test_nothing_runs_again_where_nobody_says_so_and_all_where_only_that_fits(tmp_path):
    """Of a stack whose recipes say nothing of it; others have their recipe's, and where nothing fits memory was not what decided."""
    paxml = {"source": "NVIDIA/JAX-Toolbox pax", "dtype": "bf16", "recompute": "", "sequence_length": "8192", "num_layers": "16"}
    assert only(tmp_path, **paxml, micro_batch="1", global_batch="8").assumed == ("recompute",)
    names = [only(tmp_path, **paxml, micro_batch=each, global_batch="1024").notes for each in ("1", "32", "128")]
    assert names == [f"recompute = {each}" for each in ("none", "full", "none")]
    assert only(tmp_path, recompute="").assumed == ()


def test_software_follows_from_a_name_in_the_source_of_an_unknown_family(tmp_path):
    for source, stack in (
        ("AI-Hypercomputer/maxtext#12", "jax-xla"),
        ("pytorch/torchtitan#1690", "torchtitan"),
        ("a blog", "megatron-2022"),
    ):
        row = {"source_family": "threads", "source": source, "dtype": "bf16"}
        assert described(tmp_path, **row).stack.name == stack
        assert ("stack" in only(tmp_path, **row).assumed) == (source == "a blog")


@pytest.mark.parametrize(
    "notes",
    [
        "recompute_modules=[mlp+layernorm]",
        "recompute-modules=[mlp layernorm]",
        'recompute_modules = ["mlp", "layernorm"]',
        "modules mlp+layernorm",
    ],
)
def test_a_custom_recomputation_is_that_of_the_modules_in_the_notes(tmp_path, notes):
    plan = described(tmp_path, source_family="mcore_ci", recompute="custom", notes=f"a; {notes}; b").plan("row")
    assert (plan.recompute, plan.recompute_modules) == ("none", ("mlp", "layernorm"))


def test_a_policy_of_maxtext_in_the_notes_runs_again_what_it_does_not_keep(tmp_path):
    """Per rank 4,096 tokens of 2 layers, of whose gate and up GEMMs it has a half each; a word that is a policy, too, is none by itself."""
    maxtext = {"source_family": "tpu_maxtext", "dtype": "bf16", "mlp": "swiglu", "ffn_hidden_size": "4096", "recompute": "custom"}
    kept, again, least = (
        described(tmp_path, **maxtext, notes=notes)
        for notes in ("remat_policy=minimal_with_context", "save_dot_with_context_except_mlp", "full pod, minimal changes")
    )
    assert set(again.plan("row").recompute_ops) - set(kept.plan("row").recompute_ops) == {"gate_gemm", "up_gemm"}
    flops = [estimate(each, "row").flops[0] for each in (kept, again)]
    assert flops[1] - flops[0] == 2 * 4096 * 2 * (1024 * 4096 // 2) * 2
    assert described(tmp_path, **maxtext, notes="policy: full").plan("row").recompute == "full"
    assert [str(each) for each in least.assumed if each.name == "recompute"] == ["recompute = none"]


def test_a_custom_recomputation_that_nobody_names_is_the_smallest_that_fits_and_is_said(tmp_path):
    assert only(tmp_path, recompute="custom").notes == "recompute = none"
    tight = only(tmp_path, recompute="custom", sequence_length="8192", micro_batch="8", global_batch="64")
    assert tight.notes in ("recompute = selective", "recompute = full") and tight.assumed == ("recompute",)


@pytest.mark.parametrize(
    ("dtype", "notes", "recipe"),
    [
        ("fp8", "", "fp8_current"),
        ("fp8", 'precision label "FP8"; release 26.06', "fp8_current"),
        ("fp8", 'precision label "MXFP8"; release 26.06', "mxfp8"),
        ("fp8", 'precision label "FP8-CS (FP8-MX)"', "fp8_current"),
        ("nvfp4", 'precision label "NVFP4"', "nvfp4"),
        ("fp8", "release 25.09", "fp8_delayed"),
    ],
)
def test_the_label_in_the_notes_says_which_precision_is_meant(tmp_path, dtype, notes, recipe):
    release = notes.rpartition("release ")[2] if "release" in notes else ""
    found = described(tmp_path, source_family="nemo_bridge", accelerator="gb200", dtype=dtype, notes=notes, release=release)
    assert found.batch.dtype == recipe


@pytest.mark.parametrize(("results", "recipe"), [("v4.1", "fp8_delayed"), ("v5.1", "fp8_current")])
def test_fp8_of_mlperf_is_what_its_configurations_state(tmp_path, results, recipe):
    """FP8_RECIPE is tensorwise in v5.1; NeMo of 2024 knows delayed scaling only."""
    source = f"mlcommons/training_results_{results} NVIDIA/results/eos"
    assert described(tmp_path, source_family="mlperf", accelerator="h100-sxm5-80gb", dtype="fp8", source=source).batch.dtype == recipe


def test_experts_and_widths_of_a_catalog_model_are_those_of_a_row_with_them(tmp_path):
    """No column says that heads have norms or are wider than hidden_size / num_heads."""
    widths = {"hidden_size": "2048", "ffn_hidden_size": "768", "num_heads": "32", "num_kv_heads": "4", "mlp": "swiglu"}
    row = {**SMALL, **widths, "num_experts": "128", "top_k": "8", "expert_parallel": "4", "dtype": "bf16"}
    known = scenario_of(read_table(table(tmp_path, row))[0], "")
    assert known.model == replace(read("models", "qwen3-30b-a3b"), num_layers=4, max_positions=512)
    assert known.plans["row"].expert_parallel == 4
    latent = {
        **row,
        "model_name": "Moonlight 16B",
        "hidden_size": "2048",
        "ffn_hidden_size": "1408",
        "num_heads": "16",
        "num_kv_heads": "16",
    }
    found = scenario_of(read_table(table(tmp_path, {**latent, "num_experts": "64", "top_k": "6"}))[0], "").model
    assert (found.kv_lora_rank, found.head_dim, found.num_layers) == (512, 128 + 64, 4)
    other = scenario_of(read_table(table(tmp_path, {**row, "num_experts": "64"}))[0], "").model
    assert (other.num_experts, other.experts_per_token, other.expert_ffn_hidden_size, other.qk_norm) == (64, 8, 768, False)
    later = {**row, "notes": "moe CI; flags: mtp-num-layers=1; bf16=True"}
    for each in (later, {**later, "num_experts": "64"}):
        assert scenario_of(read_table(table(tmp_path, each))[0], "").model.mtp_layers == 1


@pytest.mark.parametrize(("said", "found"), [("Moonlight 16B", "moonlight-16b-a3b"), ("some model", "deepseek-v2-lite")])
def test_of_models_that_are_as_wide_a_row_has_the_one_that_it_is_named_after(tmp_path, said, found):
    widths = {"hidden_size": "2048", "ffn_hidden_size": "1408", "num_heads": "16", "num_kv_heads": "16", "num_experts": "64", "top_k": "6"}
    row = {**SMALL, **widths, "model_name": said, "mlp": "swiglu", "dtype": "bf16", "expert_parallel": "4"}
    assert scenario_of(read_table(table(tmp_path, row))[0], "").model.name == found


def test_the_repository_of_a_row_names_its_stack_before_its_family_does(tmp_path):
    oneflow = {"source_family": "oneflow"}
    assert described(tmp_path, **oneflow, source="Oneflow-Inc/DLPerf OneFlow/LanguageModeling/GPT").stack == read("stacks", "oneflow")
    assert described(tmp_path, **oneflow, source="Oneflow-Inc/DLPerf Megatron-LM").stack == read("stacks", "megatron-2021")
    nemo = "NVIDIA/NeMo docs/source/performance/performance_summary.md @8e3d65dcfe (2024-09-09, NeMo 24.07) [pretrain]"
    assert described(tmp_path, source_family="nemo_bridge", source=nemo).stack == read("stacks", "nemo")
    assert described(tmp_path, source_family="never seen").stack == read("stacks", defaults.DEFAULT_STACK)


def test_a_llama_layer_has_one_matrix_at_both_ends_where_its_software_ties_them(tmp_path):
    families = [described(tmp_path, source_family=each, mlp="swiglu").model for each in ("aleph_alpha", "dgxc")]
    assert [model.tied_embedding for model in families] == [True, False]


def test_what_a_row_leaves_open_is_what_its_software_does(tmp_path):
    nemo, said = (
        described(tmp_path, source_family="dgxc", **each).plan("row") for each in ({}, {"sequence_parallel": "no", "zero_stage": "0"})
    )
    assert (nemo.sequence_parallel, nemo.zero_stage) == (True, 1)
    assert (said.sequence_parallel, said.zero_stage) == (False, 0)
    assert described(tmp_path, source_family="dgxc", tensor_parallel="1").plan("row").sequence_parallel is False


@pytest.mark.parametrize(
    ("said", "release", "noted"),
    [
        ({"release": "26.04.01"}, "26.04.01", None),
        ({"source": "docs/performance-summary.md release 26.02 [Pre-Training Performance]"}, "26.02", None),
        ({"release": "26.05"}, "26.04.01", "that of megatron-bridge-26.04.01"),
        ({"release": "24.07"}, "25.09", "that of megatron-bridge-25.09"),
        ({}, NEWEST, f"that of megatron-bridge-{NEWEST}"),
    ],
)
def test_a_row_runs_the_release_that_it_states_or_the_one_before_it(tmp_path, said, release, noted):
    scenario = described(tmp_path, source_family="nemo_bridge2", **said)
    said = {each.name: each.value for each in scenario.assumed}
    assert (scenario.stack.name, said.get("release")) == (f"megatron-bridge-{release}", noted)


@pytest.mark.parametrize(("mode", "release", "stops_early"), [("PURE", "0.1", False), ("DEFAULT", "0.4", True)])
def test_a_run_on_pytorch_1_13_runs_the_whole_layer_again(tmp_path, mode, release, stops_early):
    # set_checkpoint_early_stop came with PyTorch 2.1; what runs again then ends before the last linear layer.
    row = {"source_family": "llm_foundry", "mlp": "gelu", "recompute": "full", "micro_batch": "1", "zero_stage": "3"}
    found = described(tmp_path, notes=f"precision bf16; MP mode {mode}; grad accum 4", **row)
    assert (found.stack.name, found.stack.recompute_early_stop) == (f"llm-foundry-{release}", stops_early)


def test_a_row_of_no_release_is_left_out_with_the_known_ones(tmp_path):
    assert "'nightly' is no release of megatron-bridge" in only(tmp_path, source_family="nemo_bridge2", release="nightly").skipped


def test_a_layer_of_squared_relu_is_that_of_nemotron(tmp_path):
    model = described(tmp_path, mlp="squared_relu").model  # arXiv:2402.16819, section 2
    assert (model.positions, model.norm, model.bias, model.dropout, model.tied_embedding) == ("rotary", "layer_norm", False, 0.0, False)


def test_mpt_drops_nothing(tmp_path):
    assert described(tmp_path, source_family="llm_foundry", mlp="gelu").model.dropout == 0.0
    assert described(tmp_path, mlp="gelu").model.dropout == 0.1


def test_four_v100_a_node_and_omni_path_are_jean_zay(tmp_path):
    cluster = described(
        tmp_path,
        accelerator="v100-sxm2-32gb",
        devices_per_node="4",
        inter_node_link="Omni-Path (Jean Zay)",
        source_family="bigscience_v100",
    ).cluster
    assert (cluster.node.name, cluster.node.devices_per_node, cluster.num_nodes) == ("jean-zay-v100-32gb", 4, 4)
    assert cluster.fabric is not None and (cluster.fabric.name, cluster.fabric.nics_per_node) == ("jean-zay", 4)


@pytest.mark.parametrize(("num_devices", "devices_a_node", "num_nodes"), [("16", 16, 1), ("144", 72, 2)])
def test_nvlink_joins_the_trays_of_a_gb200_rack(tmp_path, num_devices, devices_a_node, num_nodes):
    sizes = {"num_devices": num_devices, "global_batch": "144", "devices_per_node": "4", "micro_batch": "1"}
    cluster = described(tmp_path, accelerator="gb200", **sizes).cluster
    assert (cluster.node.devices_per_node, cluster.num_nodes) == (devices_a_node, num_nodes)


@pytest.mark.parametrize(
    ("family", "stated", "accelerator", "forward", "backward"),
    [
        ("dgxc", "flash", "h100-sxm5-80gb", 1 / 1.06, 1 / 1.14),  # cuDNN: the mean of what NVIDIA and we measured on H200
        ("dgxc", "flash_2", "h100-sxm5-80gb", 1.75, 1.625),  # arXiv:2407.08608: 1.5 to 2.0 x forward, 1.5 to 1.75 x backward
        ("torchtitan", "flash", "h100-sxm5-80gb", 1.75, 1.625),
        ("torchtitan", "flash_2", "a100-sxm4-80gb", 1.0, 1.0),
        ("llm_foundry", "flash", "a100-sxm4-80gb", 1.4, 2.0),  # arXiv:2307.08691, in Triton: 1.3 to 1.5 x forward, around 2 x backward
        ("llm_foundry", "flash_1", "a100-sxm4-80gb", 2.0, 2.0),
        ("llm_foundry", "flash_2", "a100-sxm4-80gb", 1.0, 1.0),
    ],
)
def test_an_older_flash_attention_is_slower_by_what_its_successor_states(tmp_path, family, stated, accelerator, forward, backward):
    row = {"source_family": family, "attention": stated, "accelerator": accelerator, "dtype": "bf16"}
    found = described(tmp_path, **row)
    kernel = CostModel(found.cluster, found.stack, found.batch).flash
    assert (1 / kernel.forward, 1 / kernel.backward) == pytest.approx((forward, backward))


def test_a_kernel_that_the_device_of_a_row_has_not_is_named(tmp_path):
    row = only(tmp_path, attention="flash_3", accelerator="a100-sxm4-80gb", dtype="bf16")
    assert row.skipped == (
        "attention = flash_3 does not run on a100-sxm4-80gb (Ampere); there: flash, flash_1, flash_1_triton, flash_2, cudnn"
    )


def test_what_the_allocator_wastes_counts_to_a_device_but_not_to_its_tensors(tmp_path):
    row = described(tmp_path)
    plain, wasteful = (estimate(replace(row, stack=replace(row.stack, allocator_slack=share)), "row").memory_bytes for share in (0.0, 0.25))
    for before, after in zip(plain, wasteful, strict=True):
        assert after["fragments"] - before["fragments"] == (before["activations"] + before["transients"]) // 4
        assert {**after, "fragments": 0} == {**before, "fragments": 0}


def test_recipes_of_megatron_bridge_that_differ_are_known_by_model_or_source(tmp_path):
    """Moments of Moonlight are bf16; the library's bf16_mixed reduces gradients in float32, which the recipes of results turn off."""
    bridge = {"source_family": "bridge_skills", "dtype": "bf16", "accelerator": "h100-sxm5-80gb"}
    moonlight = described(tmp_path, **bridge, source="NVIDIA-NeMo/Megatron-Bridge skills/page.md", model_name="Moonlight like")
    overlap = described(tmp_path, **bridge, source="Megatron-Bridge skills/nemo-mbridge-perf-expert-parallel-overlap/SKILL.md")
    assert (moonlight.plan("row").optimizer, moonlight.stack.gradient_dtype) == ("precision_aware_adamw", "compute")
    assert (overlap.plan("row").optimizer, overlap.stack.gradient_dtype) == ("adamw", "fp32")
