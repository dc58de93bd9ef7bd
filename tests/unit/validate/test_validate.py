"""`validate` reads what people write, says why a row is left out, and its errors are those of arithmetic."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest

from parsim import catalog, schedules
from parsim.cost.cost_model import CostModel
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate
from parsim.parallel.stages import layers_of
from parsim.scenario import from_mapping
from parsim.scenario.rows import read
from parsim.validate import RowResult, defaults, validate
from parsim.validate.case import scenario_of
from parsim.validate.compare import STATISTICS, statistics, validation_of
from parsim.validate.table import COLUMNS
from parsim.validate.table import read as read_table

SMALL = {
    "id": "small",
    "source_family": "papers",
    "num_layers": "4",
    "hidden_size": "1024",
    "num_heads": "16",
    "vocab_size": "51200",
    "sequence_length": "512",
    "accelerator": "a100-sxm4-80gb",
    "num_devices": "16",
    "tensor_parallel": "2",
    "pipeline_parallel": "2",
    "micro_batch": "2",
    "global_batch": "32",
    "dtype": "fp16",
    "recompute": "full",
    "step_s": "1",
}


def table(tmp_path, *rows, name="cases.csv"):
    path = tmp_path / name
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


def only(tmp_path, **changes):
    (row,) = validate(table(tmp_path, {**SMALL, **changes})).rows
    return row


def described(tmp_path, **changes):
    (row,) = read_table(table(tmp_path, {**SMALL, **changes}), ())
    return scenario_of(row, "cases.csv")


def test_a_row_is_predicted_as_the_scenario_that_it_describes(tmp_path):
    scenario = from_mapping(
        {
            "model": {"num_layers": 4, "hidden_size": 1024, "num_heads": 16, "vocab_size": 51200, "max_positions": 512},
            "cluster": {"node": "dgx-a100-80gb", "num_nodes": 2, "fabric": "ib-hdr-8rail"},
            "batch": {"global_batch": 32, "sequence_length": 512, "dtype": "fp16"},
            "stack": "megatron-2022",
            "plans": {"p": {"tensor_parallel": 2, "pipeline_parallel": 2, "micro_batch": 2, "recompute": "full"}},
        }
    )
    row, expected = only(tmp_path, peak_memory_bytes="5e9", memory_metric="device"), estimate(scenario, "p")
    assert row.skipped is None
    assert (row.predicted_step_s, row.predicted_peak_bytes) == (expected.step_s, expected.peak_bytes)
    assert row.step_error == expected.step_s / 1.0 - 1.0
    assert row.memory_error == expected.peak_bytes / 5e9 - 1.0


def test_allocated_memory_counts_tensors_without_what_the_framework_holds(tmp_path):
    device, tensors = (only(tmp_path, memory_metric=metric).predicted_peak_bytes for metric in ("device", "allocated"))
    stack, axes = read("stacks", "megatron-2022"), 3  # dp, tp and pp have a communicator each
    assert device - tensors == stack.framework_bytes + axes * stack.communicator_bytes


def test_a_source_that_logs_on_the_last_rank_is_compared_with_that_rank(tmp_path):
    uneven = {"num_layers": "5", "memory_metric": "allocated", "vocab_size": "128"}  # 3 layers on the first rank, 2 on the last
    cases = ({"source_family": "mcore_ci"}, {"source": "yanring/Megatron-MoE-ModelZoo"})  # two sources of one stack
    last, most = (only(tmp_path, attention="unfused", **each, **uneven).predicted_peak_bytes for each in cases)
    assert defaults.STACK_OF_FAMILY["mcore_ci"] == defaults.STACK_OF_REPOSITORY["yanring/Megatron-MoE-ModelZoo"] == "megatron-core"
    assert last < most


def test_the_step_is_derived_from_the_tokens_of_a_device(tmp_path):
    # 32 sequences x 512 tokens on 16 devices that take 1000 tokens a second: 1.024 s.
    assert only(tmp_path, step_s="", tokens_per_s_per_device="1000").measured_step_s == pytest.approx(1.024, rel=1e-15)
    assert only(tmp_path, step_s="2", tokens_per_s_per_device="1000").measured_step_s == 2.0


def test_a_row_without_a_shape_has_that_of_the_catalog_model_that_it_names(tmp_path):
    shapeless = dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size"), "")
    named = described(tmp_path, **shapeless, model_name="GPT3-6.7B").model
    assert named == read("models", "gpt3-6.7b")
    assert described(tmp_path, model_name="GPT3-6.7B").model.hidden_size == 1024  # what is stated counts


@pytest.mark.parametrize(("layers", "chunks", "held"), [("6", "4", (0, *[1] * 6, 0)), ("8", "4", (1,) * 8), ("4", "", (2, 2))])
def test_embedding_and_head_count_as_layers_where_megatron_core_has_no_even_stages_else(tmp_path, layers, chunks, held):
    found = described(tmp_path, source_family="nemo_bridge", num_layers=layers, virtual_pipeline=chunks)
    assert layers_of(found.plan("row"), int(layers), found.stack.layer_split) == held


def test_micro_batches_of_one_where_a_row_states_none(tmp_path):
    assert described(tmp_path, micro_batch="").plan("row").micro_batch == 1


@pytest.mark.parametrize(
    ("notes", "modules"), [("recompute_modules=[mlp+layernorm]", ("mlp", "layernorm")), ("recompute-modules=[mlp]", ("mlp",))]
)
def test_a_custom_recomputation_is_that_of_the_modules_in_the_notes(tmp_path, notes, modules):
    plan = described(tmp_path, source_family="mcore_ci", recompute="custom", notes=f"a; {notes}; b").plan("row")
    assert (plan.recompute, plan.recompute_modules) == ("none", modules)


def test_a_custom_recomputation_that_nobody_names_is_the_smallest_that_fits_and_is_said(tmp_path):
    assert only(tmp_path, recompute="custom").assumed == "recompute = none"
    tight = only(tmp_path, recompute="custom", sequence_length="8192", micro_batch="8", global_batch="64")
    assert tight.assumed in ("recompute = selective", "recompute = full")


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
    other = scenario_of(read_table(table(tmp_path, {**row, "num_experts": "64"}))[0], "").model
    assert (other.num_experts, other.experts_per_token, other.expert_ffn_hidden_size, other.qk_norm) == (64, 8, 768, False)


def test_rows_of_ci_count_for_memory_only(tmp_path):
    row = only(tmp_path, workload="ci", peak_memory_bytes="5e9")
    assert row.predicted_step_s and row.measured_step_s == 1.0
    assert row.step_error is None and row.memory_error is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp": "geglu"}, "needs mlp geglu"),
        ({"num_experts": "8", "model_name": "DeepSeek-V3"}, "needs latent attention (MLA)"),
        ({"offload": "yes"}, "needs offload"),
        ({"recompute": "some"}, "needs recompute some"),
        ({"recompute": "custom", "notes": "recompute_modules=[layernorm moe_act]"}, "moe_act"),
        ({"schedule": "dualpipe9"}, "needs schedule dualpipe9"),
        ({"accelerator": "abacus"}, "needs accelerator abacus"),
        ({"workload": "lora"}, "needs workload lora"),
        ({"dtype": "fp8"}, "needs a peak of a100-sxm4-80gb for fp8"),
        ({"dtype": "int8"}, "needs dtype int8"),
        ({"attention": "telepathy"}, "needs attention telepathy"),
        ({"hidden_size": ""}, "states no hidden_size"),
        ({"num_layers": "", "hidden_size": "", "num_heads": "", "model_name": "nobody's"}, "states no num_layers; states no hidden_size"),
        ({"num_devices": ""}, "states no num_devices"),
        ({"num_layers": "many"}, "num_layers = 'many' is no whole number from 1 to 10,000,000"),
        ({"num_layers": "2.5"}, "num_layers = '2.5' is no whole number from 1 to 10,000,000"),
        ({"global_batch": "-32"}, "global_batch = '-32' is no whole number from 1 to 10,000,000"),
        ({"step_s": "nan"}, "step_s = 'nan' is no number above 0"),
        ({"step_s": "0"}, "step_s = '0' is no number above 0"),
        ({"virtual_pipeline": "some"}, "virtual_pipeline = 'some' is no number of chunks from 1 to num_layers = 4, nor max"),
        ({"num_heads": "7"}, "num_heads = 7 does not divide hidden_size = 1024"),
        ({"tensor_parallel": "3", "num_devices": "12"}, "tensor_parallel = 3 does not divide num_kv_heads = 16"),
        ({"global_batch": "33"}, "does not divide global_batch = 33"),
        ({"accelerator": "h100-sxm5-80gb", "dtype": "fp16", "global_batch": "9600000"}, "forwards and backwards is above"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(tmp_path, changes, reason):
    row = only(tmp_path, **changes)
    assert row.skipped is not None and reason in row.skipped
    assert row.predicted_step_s is None and row.step_error is None


def test_a_row_names_all_that_it_needs(tmp_path):
    row = only(tmp_path, mlp="geglu", offload="yes", global_batch="")
    assert row.skipped == "needs mlp geglu; needs offload; states no global_batch"


def test_the_state_of_one_replica_is_not_sharded_by_zero(tmp_path):
    assert only(tmp_path, zero_stage="1", num_devices="4").skipped is None


@pytest.mark.parametrize("name", schedules.names())
def test_a_schedule_that_is_built_is_not_missing(tmp_path, name):
    assert "needs schedule" not in (only(tmp_path, schedule=name, virtual_pipeline="2" if "interleaved" in name else "").skipped or "")


def test_max_means_one_layer_a_chunk(tmp_path):
    by_word, by_number = (only(tmp_path, virtual_pipeline=text) for text in ("max (one layer per chunk)", "2"))
    assert by_word.skipped is None
    assert by_word.predicted_step_s == by_number.predicted_step_s  # 4 layers on 2 ranks: 2 chunks


def test_marks_quotes_and_line_ends_of_spreadsheets_are_read(tmp_path):
    path = tmp_path / "excel.csv"
    text = (
        ",".join(SMALL) + ",remark\r\n" + ",".join(f'"{value}"' for value in SMALL.values()) + ',"two\r\nlines, ""quoted"""\r\n\r\n,,\r\n'
    )
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (row,) = validate(path).rows
    assert row == only(tmp_path)


def test_short_lines_and_lines_without_id_are_read(tmp_path):
    path = tmp_path / "short.csv"
    path.write_text("num_layers,hidden_size\n4\n", encoding="utf-8")
    (row,) = validate(path).rows
    assert row.id == "line 2"
    assert row.skipped is not None and "states no hidden_size; states no num_heads" in row.skipped


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column of this table is known; its first line holds nothing"),
        (b"colour,taste\nred,sweet\n", "its first line holds colour, taste"),
        (b"id\n\xff\xfe\n", "is no CSV file in UTF-8"),
        (b"id\n" + b"x" * 200_000, "is no CSV file in UTF-8: field larger than"),
    ],
)
def test_a_file_that_is_no_table_is_told_so(tmp_path, content, message):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(ParsimError, match=re.escape(message)):
        validate(path)


def test_a_file_that_is_not_there_is_told_so(tmp_path):
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(ParsimError, match="cannot read the table"):
            validate(path)


def test_where_keeps_the_rows_that_meet_every_condition(tmp_path):
    path = table(
        tmp_path, *({**SMALL, "id": f"{n}-{word}", "num_devices": n, "strict": word} for n in ("4", "8") for word in ("yes", "no"))
    )
    assert [row.id for row in validate(path, ["strict=yes"]).rows] == ["4-yes", "8-yes"]
    assert [row.id for row in validate(path, ["strict = yes", "num_devices=4.0"]).rows] == ["4-yes"]
    assert validate(path, ["strict=perhaps"]).rows == ()
    with pytest.raises(ParsimError, match=r"no column 'strikt' \(did you mean 'strict'\?\)"):
        validate(path, ["strikt=yes"])
    with pytest.raises(ParsimError, match="'strict' is no condition"):
        validate(path, ["strict"])


def test_the_statistics_are_those_of_the_absolute_errors_and_the_bias_is_signed():
    found = statistics([-0.1, 0.2, None, -0.3, -0.4, 0.5])
    assert found == pytest.approx({"n": 5, "median_abs": 0.3, "mean_abs": 0.3, "p90_abs": 0.46, "max_abs": 0.5, "bias": -0.1})


def test_json_holds_rows_and_summary_with_null_where_nothing_is_known(tmp_path):
    path = table(tmp_path, SMALL, {**SMALL, "id": "b", "source_family": "other", "mlp": "geglu", "step_s": ""})
    found = json.loads(json.dumps(validate(path).to_json(), allow_nan=False))
    assert list(found) == ["rows", "summary"]
    fields = ["id", "source_family", "predicted_step_s", "measured_step_s", "step_error"]
    fields += ["predicted_peak_bytes", "measured_peak_bytes", "memory_error", "skipped", "assumed"]
    assert [list(row) for row in found["rows"]] == [fields, fields]
    assert found["rows"][1]["predicted_step_s"] is None and found["rows"][1]["measured_step_s"] is None
    summary = found["summary"]
    assert (summary["num_rows"], summary["num_skipped"], summary["skipped"]) == (2, 1, {"needs mlp geglu": 1})
    assert summary["by_source_family"]["papers"]["step"] == summary["all"]["step"]
    assert summary["by_source_family"]["other"]["step"] == {"n": 0, **dict.fromkeys(STATISTICS[1:])}


def test_an_empty_validation_has_no_errors():
    summary = validation_of([]).summary
    assert summary["all"]["step"]["n"] == 0 and summary["by_source_family"] == {}
    assert validation_of([RowResult("a", "f", skipped="x; y")]).summary["skipped"] == {"x": 1, "y": 1}


def test_defaults_name_rows_of_the_catalog():
    assert {*defaults.STACK_OF_FAMILY.values(), defaults.DEFAULT_STACK} <= set(defaults.SOFTWARE)
    assert set(defaults.SOFTWARE) <= {*catalog.names("stacks"), *catalog.newest("stacks")}
    assert {each.dtype for each in defaults.SOFTWARE.values()} <= set(catalog.names("dtypes"))
    places = (defaults.NETWORK_OF_LINK, defaults.NETWORK_OF_FAMILY, defaults.NETWORK_OF_GENERATION)
    assert {network.fabric for place in places for network in place.values()} <= set(catalog.names("fabrics"))


def test_the_columns_are_all_different():
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_the_repository_of_a_row_names_its_stack_before_its_family_does(tmp_path):
    oneflow = {"source_family": "oneflow"}
    assert described(tmp_path, **oneflow, source="Oneflow-Inc/DLPerf OneFlow/LanguageModeling/GPT").stack == read("stacks", "oneflow")
    assert described(tmp_path, **oneflow, source="Oneflow-Inc/DLPerf Megatron-LM").stack == read("stacks", "megatron-2021")
    nemo = "NVIDIA/NeMo docs/source/performance/performance_summary.md @8e3d65dcfe (2024-09-09, NeMo 24.07) [pretrain]"
    assert described(tmp_path, source_family="nemo_bridge", source=nemo).stack == read("stacks", "nemo")
    assert described(tmp_path, source_family="never seen").stack == read("stacks", defaults.DEFAULT_STACK)


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
        ({"release": "26.04.01"}, "26.04.01", ()),
        ({"source": "docs/performance-summary.md release 26.02 [Pre-Training Performance]"}, "26.02", ()),
        ({"release": "26.05"}, "26.04.01", ("stack = megatron-bridge-26.04.01 for release 26.05",)),
        ({"release": "24.07"}, "25.09", ("stack = megatron-bridge-25.09 for release 24.07",)),
        ({}, catalog.releases("stacks", "megatron-bridge")[0], ()),
    ],
)
def test_a_row_runs_the_release_that_it_states_or_the_one_before_it(tmp_path, said, release, noted):
    scenario = described(tmp_path, source_family="nemo_bridge2", **said)
    assert (scenario.stack.name, scenario.notes) == (f"megatron-bridge-{release}", noted)


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
    assert cluster.fabric is not None and (cluster.fabric.name, cluster.fabric.nics_per_node) == ("omni-path-100", 4)


@pytest.mark.parametrize(("num_devices", "devices_a_node", "num_nodes"), [("16", 16, 1), ("144", 72, 2)])
def test_nvlink_joins_the_trays_of_a_gb200_rack(tmp_path, num_devices, devices_a_node, num_nodes):
    sizes = {"num_devices": num_devices, "global_batch": "144", "devices_per_node": "4", "micro_batch": "1"}
    cluster = described(tmp_path, accelerator="gb200", **sizes).cluster
    assert (cluster.node.devices_per_node, cluster.num_nodes) == (devices_a_node, num_nodes)


@pytest.mark.parametrize(
    ("family", "stated", "accelerator", "forward", "backward"),
    [
        ("dgxc", "flash", "h100-sxm5-80gb", 1.0, 1.0),
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
        assert after["framework"] - before["framework"] == (before["activations"] + before["transients"]) // 4
        assert {**after, "framework": 0} == {**before, "framework": 0}
