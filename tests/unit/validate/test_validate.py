"""`validate` reads what people write, says why a row is left out, and its errors are those of arithmetic."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from parsim import catalog, schedules
from parsim.errors import ParsimError
from parsim.estimator.estimate import estimate, estimate_legal
from parsim.scenario import from_mapping
from parsim.scenario.rows import read
from parsim.validate import RowResult, clusters, compare, defaults, validate
from parsim.validate.compare import STATISTICS, cases_of, statistics, validation_of
from parsim.validate.table import COLUMNS
from validate_rows import SMALL, only, table


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
    (case,) = cases_of(table(tmp_path, {**SMALL, "memory_metric": "device"}))
    assert case.estimate is not None
    parts = case.estimate.memory_bytes[case.estimate.peak_rank]
    assert device - tensors == sum(parts[name] for name in ("fragments", "graph_pools", "context", "communicators"))
    assert parts["context"] == read("stacks", "megatron-2022").framework_bytes


def test_a_source_that_logs_on_the_last_rank_is_compared_with_that_rank(tmp_path):
    # 3 layers on the first rank, 2 on the last
    uneven = {"num_layers": "5", "zero_stage": "0", "memory_metric": "allocated", "vocab_size": "128"}
    cases = ({"source_family": "mcore_ci"}, {"source": "yanring/Megatron-MoE-ModelZoo"})  # two sources of one stack
    last, most = (only(tmp_path, attention="unfused", **each, **uneven).predicted_peak_bytes for each in cases)
    assert defaults.STACK_OF_FAMILY["mcore_ci"] == defaults.STACK_OF_REPOSITORY["yanring/Megatron-MoE-ModelZoo"] == "megatron-core"
    assert last < most


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"peak_memory_bytes": "54.5"}, "peak_memory_bytes = 54.5 is less than any run needs: another unit?"),
        ({"memory_metric": "nvidia-smi"}, "memory_metric = 'nvidia-smi' is none of allocated, reserved, device, unknown"),
    ],
)
def test_a_peak_of_another_unit_or_sense_is_no_peak(tmp_path, cells, said):
    assert only(tmp_path, **cells).skipped == said


def test_a_table_that_is_too_large_is_refused_rather_than_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("parsim.validate.table._MOST_BYTES", 300)
    with pytest.raises(ParsimError, match="is larger than the 300 B that are read"):
        validate(table(tmp_path, *[SMALL] * 3))


def test_the_step_is_derived_from_the_tokens_of_a_device(tmp_path):
    # 32 sequences x 512 tokens on 16 devices that take 1000 tokens a second: 1.024 s.
    assert only(tmp_path, step_s="", tokens_per_s_per_device="1000").measured_step_s == pytest.approx(1.024, rel=1e-15)
    assert only(tmp_path, step_s="2", tokens_per_s_per_device="1000").measured_step_s == 2.0


def test_rows_of_ci_count_for_memory_only(tmp_path):
    row = only(tmp_path, workload="ci", peak_memory_bytes="5e9")
    assert row.predicted_step_s and row.measured_step_s == 1.0
    assert row.step_error is None and row.memory_error is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp": "reglu"}, "needs mlp reglu"),
        ({"num_experts": "8", "model_name": "DeepSeek-V3"}, "needs the widths of latent attention (MLA)"),
        ({"offload": "yes"}, "needs offload"),
        ({"recompute": "some"}, "needs recompute some"),
        ({"recompute": "custom", "notes": "recompute_modules=[layernorm moe_act]"}, "moe_act"),
        ({"recompute": "custom", "notes": "remat_policy=minimal_offloaded"}, "needs offload of activations: policy minimal_offloaded"),
        ({"schedule": "dualpipe9"}, "needs schedule dualpipe9"),
        ({"accelerator": "abacus"}, "needs accelerator abacus"),
        ({"workload": "lora"}, "needs rank and targets of its adapters"),
        ({"workload": "qlora"}, "needs workload qlora"),
        ({"dtype": "fp8"}, "needs a peak of a100-sxm4-80gb for fp8"),
        ({"dtype": "int8"}, "needs dtype int8"),
        ({"attention": "telepathy"}, "needs attention telepathy"),
        ({"hidden_size": ""}, "states no hidden_size"),
        ({"num_layers": "", "hidden_size": "", "num_heads": "", "model_name": "nobody's"}, "states no num_layers; states no hidden_size"),
        ({"num_devices": ""}, "states no num_devices"),
        ({"num_layers": "many"}, "num_layers = 'many' is no whole number from 1 to 10,000"),
        ({"num_layers": "2.5"}, "num_layers = '2.5' is no whole number from 1 to 10,000"),
        ({"num_layers": "9999999"}, "num_layers = '9999999' is no whole number from 1 to 10,000"),
        ({"step_s": "20", "tokens_per_s_per_device": "1024"}, "step_s = 20 is not the 1 s that tokens_per_s_per_device says"),
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
    row = only(tmp_path, mlp="reglu", offload="yes", global_batch="")
    assert row.skipped == "needs mlp reglu; needs offload; states no global_batch"


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
    assert row.skipped is not None and "states no hidden_size; states no sequence_length" in row.skipped


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
    with pytest.raises(ParsimError, match="no row has strict = 'perhaps'") as wrong:
        validate(path, ["num_devices=4", "strict=perhaps"])
    assert wrong.value.remedy == "Its values there: no, yes."
    with pytest.raises(ParsimError, match=r"no column 'strikt' \(did you mean 'strict'\?\)"):
        validate(path, ["strikt=yes"])
    with pytest.raises(ParsimError, match="'strict' is no condition"):
        validate(path, ["strict"])


def test_the_statistics_are_those_of_the_absolute_errors_and_the_bias_is_signed():
    found = statistics([-0.1, 0.2, None, -0.3, -0.4, 0.5])
    assert found == pytest.approx({"n": 5, "median_abs": 0.3, "mean_abs": 0.3, "p90_abs": 0.46, "max_abs": 0.5, "bias": -0.1})


def test_json_holds_rows_and_summary_with_null_where_nothing_is_known(tmp_path):
    path = table(tmp_path, SMALL, {**SMALL, "id": "b", "source_family": "other", "mlp": "reglu", "step_s": ""})
    found = json.loads(json.dumps(validate(path).to_json(), allow_nan=False))
    assert list(found) == ["rows", "summary"]
    fields = ["id", "source_family", "predicted_step_s", "measured_step_s", "step_error"]
    fields += ["predicted_peak_bytes", "measured_peak_bytes", "memory_error", "skipped", "assumed", "notes"]
    fields += ["kind", "repeats", "left_out", "step_pool", "step_low_s", "step_high_s", "step_inside"]
    fields += ["peak_pool", "peak_low_bytes", "peak_high_bytes", "peak_inside"]
    assert [list(row) for row in found["rows"]] == [fields, fields]
    assert found["rows"][1]["predicted_step_s"] is None and found["rows"][1]["measured_step_s"] is None
    summary = found["summary"]
    assert (summary["num_rows"], summary["num_skipped"], summary["skipped"]) == (2, 1, {"needs mlp reglu": 1})
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
    assert {each for there in defaults.STACK_ON_DEVICE.values() for each in there.values()} <= set(defaults.SOFTWARE)
    places = (clusters.NETWORK_OF_LINK, clusters.NETWORK_OF_FAMILY, clusters.NETWORK_OF_GENERATION)
    assert {network.fabric for place in places for network in place.values()} <= set(catalog.names("fabrics"))


def test_the_columns_are_all_different():
    assert len(set(COLUMNS)) == len(COLUMNS)


def test_each_row_is_compared_in_the_sense_of_its_metric_and_an_unknown_one_in_that_of_its_stack(tmp_path):
    """Megatron-LM of the zero-bubble runs logs what is allocated; of others nvidia-smi is assumed."""
    row = {"source_family": "bigscience_a100", "num_devices": "16"}
    sizes = [only(tmp_path, **row, memory_metric=metric).predicted_peak_bytes for metric in ("allocated", "reserved", "device", "unknown")]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]
    bubbles = {"source_family": "pipeline_papers", "recompute": "none"}
    allocated, unknown = (only(tmp_path, **bubbles, memory_metric=metric).predicted_peak_bytes for metric in ("allocated", "unknown"))
    assert allocated == unknown


def test_a_peak_has_the_interval_of_the_quantity_that_was_predicted(tmp_path):
    """Where a stack logs what is allocated, errors of what fills a device say nothing."""
    bubbles = {"source_family": "pipeline_papers", "recompute": "none", "peak_memory_bytes": "1e10"}
    found = [only(tmp_path, **bubbles, memory_metric=metric) for metric in ("allocated", "unknown", "device")]
    allocated, unknown, device = (each.peak_high_bytes / each.predicted_peak_bytes for each in found)
    assert unknown == allocated != device


def test_rows_that_say_the_same_are_predicted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head, first, second, *_ = (Path(__file__).parents[2] / "witnesses" / "table5.csv").read_text().splitlines()
    (tmp_path / "many.csv").write_text("\n".join([head, *[first, second] * 50]) + "\n")
    asked: list[object] = []
    monkeypatch.setattr(compare, "estimate_legal", lambda *given: asked.append(given) or estimate_legal(*given))
    found = compare.cases_of(tmp_path / "many.csv")
    assert len(asked) == 2 and len(found) == 100
    assert [each.row.line for each in found] == list(range(2, 102))
    assert [each.result.predicted_step_s for each in found[2:]] == [each.result.predicted_step_s for each in found[:-2]]
