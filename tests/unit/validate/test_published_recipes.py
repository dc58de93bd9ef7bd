"""Recipes of models with experts that NVIDIA publishes results of: what a row runs where it says nothing.

Expected values are read in NVIDIA-NeMo/Megatron-Bridge, scripts/performance/configs, at the tag of each container.
"""

from __future__ import annotations

import pytest

from parsim.validate.case import scenario_of
from parsim.validate.table import read as read_table
from validate_rows import SMALL, table

SOURCE = "NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md release {}"
QWEN = {"model_name": "Qwen3_30B_a3B", "hidden_size": "2048", "ffn_hidden_size": "768", "num_heads": "32", "num_kv_heads": "4"}
OSS = {"model_name": "GPT OSS 120B", "hidden_size": "2880", "ffn_hidden_size": "2880", "num_heads": "64", "num_kv_heads": "8"}
LAYOUT = {
    "num_experts": "128",
    "tensor_parallel": "1",
    "pipeline_parallel": "1",
    "num_devices": "8",
    "expert_parallel": "8",
    "recompute": "",
}
DROPS = {"dtype": "fp8", "notes": 'precision label "FP8 (see note)"; token-drop MoE'}
MX, BF = {"dtype": "fp8", "notes": 'precision label "MXFP8"'}, {"dtype": "bf16", "notes": ""}


def of_row(tmp_path, accelerator, source, **changes):
    row = {
        **SMALL,
        **LAYOUT,
        "recompute": "",
        "mlp": "swiglu",
        "accelerator": accelerator,
        "source": source,
        "source_family": "nemo_bridge",
        **changes,
    }
    (found,) = read_table(table(tmp_path, row))
    return scenario_of(found, "")


@pytest.mark.parametrize(
    ("model", "accelerator", "release", "dispatch", "graphs", "hidden", "modules"),
    [
        ({**QWEN, **DROPS, "top_k": "8"}, "b200", "25.09", "all_to_all", {"any": "all"}, False, ()),
        ({**QWEN, **MX, "top_k": "8"}, "gb200", "26.02", "per_node", {}, False, ()),  # moe_router and moe_preprocess alone
        ({**QWEN, **MX, "top_k": "8"}, "gb200", "26.06", "per_node", {"any": "all"}, True, ()),
        ({**QWEN, **BF, "top_k": "8"}, "gb200", "26.06", "per_node", {"any": "around_experts"}, False, ()),
        ({**QWEN, **MX, "top_k": "8"}, "b200", "26.02", "all_to_all", {}, False, ()),
        ({**QWEN, **MX, "top_k": "8"}, "b200", "26.08", "per_node", {"any": "all"}, True, ()),  # as 26.06.01, the last that is read
        ({**OSS, **BF, "top_k": "4"}, "h100-sxm5-80gb", "26.02", "all_to_all", {}, False, ("layernorm", "moe_act")),
    ],
)
def test_a_row_of_published_results_runs_the_recipe_of_its_release(
    tmp_path, model, accelerator, release, dispatch, graphs, hidden, modules
):
    found = of_row(tmp_path, accelerator, SOURCE.format(release), **model)
    assert (found.stack.dispatch, found.stack.graphs, found.plan("row").schedule == "combined_1f1b_delayed") == (dispatch, graphs, hidden)
    assert found.plan("row").recompute_modules == modules
    assert found.stack.waits_for_loads is not ("token-drop" in model["notes"])
    if release == "25.09":
        assert found.batch.dtype == "fp8_current"  # of both scalings of a tensor its recipes of experts have this alone


def test_what_a_row_states_goes_before_its_recipe_and_other_sources_have_none(tmp_path):
    stated = of_row(tmp_path, "h100-sxm5-80gb", SOURCE.format("26.02"), **{**OSS, **BF}, top_k="4", recompute="none")
    other = of_row(tmp_path, "h100-sxm5-80gb", "NVIDIA-NeMo/Megatron-Bridge skills release 26.02", **{**OSS, **BF}, top_k="4")
    assert stated.plan("row").recompute_modules == other.plan("row").recompute_modules == ()
    assert (stated.stack.dispatch, other.stack.dispatch) == ("all_to_all", "per_node")


@pytest.mark.parametrize(
    ("source", "notes", "modules"),
    [
        ("InternLM/xtuner docs/en/benchmark/megatron_moe_benchmark.md", "mbs1 sel", ("moe_act", "layernorm")),
        ("InternLM/xtuner docs/en/benchmark/megatron_moe_benchmark.md", "mbs1 moe", ("moe", "layernorm")),
        ("yanring/Megatron-MoE-ModelZoo best_practice/qwen3/readme.md", "DeepEP", ("layernorm", "moe_act")),
        ("elsewhere", "", ()),
    ],
)
def test_selective_recomputation_is_of_the_modules_that_a_source_means(tmp_path, source, notes, modules):
    row = {**QWEN, **BF, "top_k": "8", "recompute": "selective", "source_family": "misc_repos", "notes": notes}
    plan = of_row(tmp_path, "h100-sxm5-80gb", source, **row).plan("row")
    assert plan.recompute_modules == modules
    assert plan.recompute == ("none" if modules else "selective")


@pytest.mark.parametrize(("model", "coefficient"), [({**QWEN, "top_k": "8"}, 1e-3), ({**OSS, "top_k": "4"}, 0.0)])
def test_recipes_of_megatron_core_balance_loads_by_a_loss_but_that_of_gpt_oss(tmp_path, model, coefficient):
    found = of_row(tmp_path, "h100-sxm5-80gb", SOURCE.format("26.02"), **model, **BF)
    assert found.model.balance_coefficient == coefficient
