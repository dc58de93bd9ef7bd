from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from parsim import catalog
from parsim.cli import app

TINY = """
name: tiny
model: tiny-gpt
cluster: {node: {base: dgx-a100-80gb, devices_per_node: 4}}
batch: {global_batch: 4, sequence_length: 16}
plans:
  split: {tensor_parallel: 2, pipeline_parallel: 2}
  "a rather long name for a plan of replicas": {data_parallel: 4}
  open: {tensor_parallel: auto, pipeline_parallel: [1, 2]}
measured:
  split: {step_time: 2 ms, source: made up for this test}
"""
HUGE = """
model: gpt3-175b
cluster: {node: dgx-a100-80gb}
batch: {global_batch: 8, sequence_length: 2048}
plans:
  one: {tensor_parallel: 8}
  open: {tensor_parallel: [8]}
"""
COMMANDS = ("check", "schema", "list", "show", "run", "verify", "execute", "calibrate", "explain", "plan", "plot", "validate")
COMMANDS += ("whatif", "compare", "sweep", "advise", "size", "init", "doctor")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "huge.yaml").write_text(HUGE)
    return tmp_path


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_run_shows_every_plan_and_writes_its_reports(here: Path) -> None:
    result = call("run", "tiny.yaml")
    assert result.exit_code == 0, result.stderr
    assert "tiny-gpt on 4 x a100-sxm4-80gb" in result.stdout
    assert "a rather long name for a plan of replicas" in result.stdout
    assert "\x1b" not in result.stdout  # no colour where nobody looks
    names = sorted(path.name for path in (here / "reports" / "tiny").iterdir())
    assert names == ["plans.csv", "plans.png", "results.csv", "results.json"]
    assert "wrote" in result.stderr
    assert "parsim plan tiny.yaml --space open" in result.stderr


def test_run_json_prints_what_it_writes_and_nothing_else(here: Path) -> None:
    result = call("run", "tiny.yaml", "--json", "--no-figure", "-o", "out", "--layers")
    assert result.stdout == (here / "out" / "results.json").read_text()
    assert all(len(plan["layers"]) == 6 for plan in json.loads(result.stdout)["plans"])
    assert sorted(path.name for path in (here / "out").iterdir()) == ["layers.csv", "results.csv", "results.json"]


def test_run_csv_agrees_with_its_json(here: Path) -> None:
    result = call("run", "tiny.yaml", "--csv", "--no-figure")
    plans = json.loads((here / "reports" / "tiny" / "results.json").read_text())["plans"]
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["plan"], float(row["step_s"]), int(row["peak_bytes"])) for row in rows] == [
        (plan["name"], plan["step_s"], plan["peak_bytes"]) for plan in plans
    ]
    assert [row["measured_step_s"] for row in rows] == ["0.002", ""]


def test_both_backends_agree_where_nothing_contends(here: Path) -> None:
    first, second = (
        json.loads(call("run", "tiny.yaml", "--json", "--no-figure", "--backend", each).stdout) for each in ("estimate", "simulate")
    )
    assert [plan["step_s"] for plan in first["plans"]] == [plan["step_s"] for plan in second["plans"]]
    assert second["backend"] == "simulate"
    assert all(plan["num_events"] > 0 for plan in second["plans"])


WIDE = """
model: {base: gpt2-small, num_layers: 13}
cluster: {node: dgx-a100-80gb, num_nodes: 4, fabric: ib-hdr-8rail}
batch: {global_batch: 1024, sequence_length: 1024}
plans:
  hsdp: {tensor_parallel: 2, zero_stage: 3, zero_group: 8, sequence_parallel: true, recompute: selective}
  fsdp_every2: {zero_stage: 3, recompute: full, recompute_every: 2, offload_optimizer: true}
  chunks: {tensor_parallel: 2, pipeline_parallel: 4, zero_stage: 2}
  open: {tensor_parallel: [1, 2], pipeline_parallel: [1, 4], zero_stage: 1, micro_batch: auto, recompute: full, sequence_parallel: auto}
measured:
  hsdp: {step_time: 1234 ms, source: made up}
"""


@pytest.mark.parametrize("command", [("run", "--no-figure"), ("plan",)])
def test_tables_are_80_columns_wide_where_names_are_short(here: Path, command: tuple[str, ...]) -> None:
    (here / "wide.yaml").write_text(WIDE)
    result = call(*command, "wide.yaml")
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines[2:] if not line.startswith("* ")) <= 80, result.stdout
    assert len(lines) > 10


def test_the_first_line_says_the_default_stack_and_what_another_would_change(here: Path) -> None:
    first, second, *_ = call("run", "tiny.yaml", "--no-figure").stdout.splitlines()
    assert first.startswith("tiny-gpt on 4 x a100-sxm4-80gb (1 x inline), megatron-2022 by default (split takes ") or "(changed)" in first
    assert "megatron-2022 by default (split takes " in first and ", with stack: torchtitan " in first
    assert second.endswith(" parameters, 4 sequences of 16 tokens in bf16")
    (here / "stated.yaml").write_text(TINY + "stack: megatron-2022\n")
    assert call("run", "stated.yaml", "--no-figure").stdout.splitlines()[0].endswith(", megatron-2022")


def test_a_plan_that_the_stack_cannot_run_is_marked_in_every_table(here: Path) -> None:
    (here / "wide.yaml").write_text(WIDE)
    result = call("run", "wide.yaml", "--no-figure")
    why = "megatron-2022 cannot put unequal numbers of layers on its stages; torchtitan can; "
    why += "megatron-2022 cannot shard gradients or parameters (zero_stage above 1); torchtitan can"  # 13 layers on 4 stages, ZeRO 2
    assert f"* chunks: {why}" in result.stdout.splitlines()
    assert sum(line.startswith("chunks* ") for line in result.stdout.splitlines()) == 5
    plans = json.loads((here / "reports" / "wide" / "results.json").read_text())["plans"]
    assert {plan["name"]: bool(plan["stack_cannot"]) for plan in plans} == {"hsdp": True, "fsdp_every2": True, "chunks": True}
    assert plans[2]["stack_cannot"] == why and f"{why}" in (here / "reports" / "wide" / "results.csv").read_text()


def test_a_ranking_marks_what_the_stack_cannot_run_and_leaves_it_out_where_asked(here: Path) -> None:
    (here / "wide.yaml").write_text(
        WIDE.replace("tensor_parallel: [1, 2]", "tensor_parallel: 2").replace("micro_batch: auto", "micro_batch: 4")
    )
    whole, runnable = (json.loads(call("plan", "wide.yaml", "--json", "--top", "100", *more).stdout) for more in ((), ("--runnable",)))
    marked = [plan["plan"] for plan in whole["plans"] if plan["stack_cannot"]]
    assert marked and len(marked) < len(whole["plans"]) and all(plan["pipeline_parallel"] == 4 or plan["zero_stage"] > 1 for plan in marked)
    assert len(whole["plans"]) == len(runnable["plans"]) + len(marked)
    shown = call("plan", "wide.yaml", "--top", "100").stdout.split()
    assert {f"{place}*" for place, plan in enumerate(whole["plans"], 1) if plan["stack_cannot"]} <= set(shown)


def test_the_parameters_of_a_model_are_told_everywhere(here: Path) -> None:
    count = 124_439_808  # GPT-2 small as released
    (here / "gpt2.yaml").write_text(WIDE.replace("{base: gpt2-small, num_layers: 13}", "gpt2-small"))
    assert f"{count:,} parameters, 1024 sequences" in call("run", "gpt2.yaml", "--no-figure").stdout
    assert json.loads((here / "reports" / "gpt2" / "results.json").read_text())["num_parameters"] == count
    shown = {row["figure"]: row["value"] for row in json.loads(call("show", "gpt2-small", "--json").stdout)["rows"]["models"]}
    assert shown["parameters"] == f"{count:,}"


@pytest.mark.parametrize("width", ["40", "80", "100"])
def test_no_name_and_no_figure_is_lost_on_a_narrow_terminal(here: Path, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    wide = call("run", "tiny.yaml", "--no-figure").stdout
    monkeypatch.setenv("COLUMNS", width)
    narrow = call("run", "tiny.yaml", "--no-figure").stdout
    assert "\u2026" not in narrow
    assert sorted("".join(wide.split()).replace("\u2500", "")) == sorted("".join(narrow.split()).replace("\u2500", ""))


def test_run_says_why_nothing_fits_and_ends_with_1(here: Path) -> None:
    result = call("run", "huge.yaml", "--no-figure")
    assert result.exit_code == 1
    assert "stage 0 needs" in result.stderr
    assert (here / "reports" / "huge" / "results.json").exists()
    assert json.loads((here / "reports" / "huge" / "results.json").read_text())["plans"][0]["fits"] is False


def test_plan_ranks_by_step_time(here: Path) -> None:
    result = call("plan", "tiny.yaml", "--json", "--top", "3")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    steps = [plan["step_s"] for plan in found["plans"]]
    assert steps == sorted(steps)
    assert found["num_legal"] == found["num_over_memory"] + found["num_fit"]
    assert "legal plans" in call("plan", "tiny.yaml").stdout
    rows = list(csv.DictReader(io.StringIO(call("plan", "tiny.yaml", "--csv", "--top", "3").stdout)))
    assert [float(row["step_s"]) for row in rows] == steps


def test_plan_ends_with_1_where_none_fits(here: Path) -> None:
    result = call("plan", "huge.yaml")
    assert result.exit_code == 1
    assert "needs" in result.stderr


def test_plot_writes_the_figure_where_asked(here: Path) -> None:
    assert call("plot", "tiny.yaml", "-o", "figures").exit_code == 0
    assert sorted(path.name for path in (here / "figures").iterdir()) == ["plans.csv", "plans.png"]
    assert call("plot", "tiny.yaml", "-o", "both", "--format", "png,svg").exit_code == 0
    assert sorted(path.name for path in (here / "both").iterdir()) == ["plans.csv", "plans.png", "plans.svg"]


@pytest.mark.parametrize("command", [["run"], ["plot"], ["verify"], ["verify", "--time"], ["execute"]])
def test_nothing_to_check_or_run_is_no_success(command: list[str], here: Path) -> None:
    (here / "bare.yaml").write_text(TINY.partition("measured")[0])
    for changes, said in (
        ("plans={}", "says how the work is split"),
        ("plans={open: {tensor_parallel: auto}}", "leaves axes open|says how"),
    ):
        result = call(*command, "bare.yaml", "--set", changes)
        assert result.exit_code == 2 and re.search(said, result.stderr), result.stderr


def test_the_header_tells_rows_documents_sources_and_what_is_cut(here: Path) -> None:
    packed = ["--set", "batch={global_batch: 4, sequence_length: 16, packing: packed, lengths: [20, 3, 17]}", "--set", "stack=torchtitan"]
    header = call("run", "tiny.yaml", *packed, "--no-figure").stdout.splitlines()
    assert any("4 packed rows (1 document each, " in line and "; 5 of the data's 40 tokens cut, of 2 documents" in line for line in header)
    (here / "one.yaml").write_text(TINY.partition("plans")[0].replace("devices_per_node: 4}", "devices_per_node: 1}") + "plans: {a: {}}")
    one = call("run", "one.yaml", "--set", "batch.global_batch=1", "--no-figure")
    assert " parameters, 1 sequence of 16 tokens in bf16" in one.stdout
    (here / "t5.yaml").write_text(TINY.replace("tiny-gpt", "t5-small"))
    assert "4 sequences of 16 tokens with sources of 16 in bf16" in call("run", "t5.yaml", "--no-figure").stdout
    assert "with sources of 8 in bf16" in call("run", "t5.yaml", "--set", "batch.source_length=8", "--no-figure").stdout


def test_verify_prints_a_line_a_check(here: Path) -> None:
    result = call("verify", "tiny.yaml")
    assert result.exit_code == 0, result.stdout
    lines = result.stdout.splitlines()
    assert len(lines) > 10
    assert all(line.startswith("ok ") for line in lines)
    assert f"{len(lines)} checks, 0 failed" in result.stderr


def test_a_failed_check_ends_with_1(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import parsim.verify

    wrong = (parsim.verify.Check("split", "FLOPs", False, "rank 0: predicted 1, executed 2"),)
    monkeypatch.setattr(parsim.verify, "verify", lambda scenario, progress=None: wrong)
    result = call("verify", "tiny.yaml")
    assert result.exit_code == 1
    assert result.stdout.startswith("FAILED split: FLOPs: rank 0")


def test_explain_prints_expression_and_source(here: Path) -> None:
    result = call("explain", "tiny.yaml", "split", "up_gemm")
    assert result.exit_code == 0, result.stderr
    assert "B S D, D F/tp -> B S F/tp" in result.stdout
    assert "datasheet" in result.stdout


def test_check_says_every_fault_with_its_place(here: Path) -> None:
    (here / "wrong.yaml").write_text(TINY.replace("tensor_parallel: 2", "tensor_paralel: 2").replace("2 ms", "2"))
    result = call("check", "wrong.yaml")
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("wrong.yaml:7:")
    assert "did you mean 'tensor_parallel'?" in lines[0]
    assert "has no unit" in lines[1]
    assert "2 errors" in result.stderr
    assert call("check", "tiny.yaml").exit_code == 0


def test_schema_is_json_schema() -> None:
    assert json.loads(call("schema").stdout)["$schema"].startswith("http://json-schema.org/")


@pytest.mark.parametrize("kind", catalog.kinds())
def test_every_row_of_a_kind_is_listed_and_shown(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # in a narrow terminal long names fold
    listed = [row["name"] for row in csv.DictReader(io.StringIO(call("list", kind, "--csv").stdout))]
    assert listed == list(catalog.names(kind))
    shown = call("list", kind).stdout
    assert [name for name in listed if name not in shown] == []
    rows = json.loads(call("show", listed[0], "--json").stdout)["rows"][kind]
    assert all(row["figure"] for row in rows)
    assert listed[0] in call("show", listed[0]).stdout


@pytest.mark.parametrize("kind", ["schedules", "collectives", "topologies", "dimensions", "datasets", "targets"])
def test_what_is_registered_is_listed(kind: str) -> None:
    assert len(call("list", kind).stdout.splitlines()) > 3


def test_a_shown_figure_stands_beside_its_source() -> None:
    rows = json.loads(call("show", "gpt3-175b", "--json").stdout)["rows"]["models"]
    figure = {row["figure"]: row for row in rows}
    assert figure["num_layers"]["value"] == "96"  # Brown et al. 2020, table 2.1
    assert "2005.14165" in figure["num_layers"]["source"]
    nested = json.loads(call("show", "a100-sxm4-80gb", "--json").stdout)["rows"]["accelerators"]
    assert next(row for row in nested if row["figure"] == "gemm.efficiency")["source"]


def test_validate_prints_errors_by_family_and_json_of_every_row(here: Path) -> None:
    header = "id,source_family,model,num_layers,hidden_size,num_heads,vocab_size,sequence_length,global_batch,micro_batch,step_s\n"
    (here / "cases.csv").write_text(header + "r1,mine,GPT,24,1024,16,51200,1024,8,1,1.0\n")
    result = call("validate", "cases.csv", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [row["id"] for row in document["rows"]] == ["r1"]
    assert {"predicted_step_s", "measured_step_s", "step_error", "memory_error", "skipped"} <= document["rows"][0].keys()
    assert call("validate", "cases.csv").exit_code == 0
    assert call("validate", "cases.csv", "--csv").stdout.startswith("id,source_family,")


MISTAKES = {
    "no command of that name": ("rum", "tiny.yaml"),
    "no scenario": ("run",),
    "no file": ("run", "nowhere.yaml"),
    "a folder": ("run", "."),
    "a file that is no scenario": ("run", "notes.txt"),
    "an unknown backend": ("run", "tiny.yaml", "--backend", "guess"),
    "two formats": ("run", "tiny.yaml", "--json", "--csv"),
    "a place that cannot be written": ("run", "tiny.yaml", "-o", "tiny.yaml/x"),
    "a figure that cannot be written": ("plot", "tiny.yaml", "-o", "tiny.yaml/x"),
    "no file to check": ("check", "nowhere.yaml"),
    "no file to plot": ("plot", "nowhere.yaml"),
    "no file to verify": ("verify", "nowhere.yaml"),
    "no file to plan": ("plan", "nowhere.yaml"),
    "a space that is none": ("plan", "tiny.yaml", "--space", "split"),
    "no plan at all": ("plan", "tiny.yaml", "--top", "0"),
    "an unknown plan": ("explain", "tiny.yaml", "splt", "up_gemm"),
    "an open plan": ("explain", "tiny.yaml", "open", "up_gemm"),
    "an unknown task": ("explain", "tiny.yaml", "split", "up_gmm"),
    "an unknown kind": ("list", "model-rows"),
    "an unknown name": ("show", "gpt3-175"),
    "no table": ("validate", "nowhere.csv"),
    "a table of something else": ("validate", "notes.txt"),
    "a condition that is none": ("validate", "notes.txt", "--where", "family"),
    "no end": ("execute", "tiny.yaml", "--deadline", "inf"),
    "an end that is no number": ("execute", "tiny.yaml", "--deadline", "nan"),
    "a seed of too many digits": ("execute", "tiny.yaml", "--seed", "9" * 30),
    "steps without end": ("execute", "tiny.yaml", "--steps", "9" * 30),
    "too many plans": ("plan", "tiny.yaml", "--top", "9" * 30),
    "samples without end": ("calibrate", "--seconds", "inf"),
    "samples for no number of seconds": ("calibrate", "--seconds", "nan"),
    "a machine's file that is a folder": ("calibrate", "-o", "."),
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_ends_with_2_and_a_sentence(here: Path, arguments: tuple[str, ...]) -> None:
    (here / "notes.txt").write_text("dear diary\n")
    result = call(*arguments)
    assert result.exit_code == 2
    told = result.stdout + result.stderr if arguments[0] == "check" else result.stderr
    assert len(told.strip()) > 10
    assert "Traceback" not in result.output


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "1e9"])
@pytest.mark.parametrize(
    ("command", "said"), [("execute tiny.yaml --deadline", "0.1 to 10,000,000"), ("calibrate --seconds", "1 to 3,600")]
)
def test_seconds_that_are_none_are_told_what_they_may_be(here: Path, command: str, said: str, seconds: str) -> None:
    told = " ".join(call(*command.split(), seconds).stderr.replace("│", "").split())
    assert f"must be from {said} seconds, not {float(seconds):g}." in told


@pytest.mark.parametrize(("command", "option"), [("run", "--backend"), ("execute", "--transport"), ("plan", "--top")])
def test_what_is_wrong_with_an_option_is_told_in_one_breath(here: Path, command: str, option: str) -> None:
    told = call(command, "tiny.yaml", option, "guess").stderr
    assert f"Invalid value for '{option}': " in told and "Value error" not in told


def test_a_misspelled_name_is_recognised(here: Path) -> None:
    assert "did you mean 'models'" in call("list", "modles").stderr
    assert "did you mean 'gpt3-175b'" in call("show", "gpt3-175").stderr
    assert "did you mean 'split'" in call("explain", "tiny.yaml", "splt", "up_gemm").stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"parsim {name}" in " ".join(result.stdout.split())


def test_a_mistyped_plan_name_with_markup_is_shown_as_it_is(here: Path) -> None:
    (here / "markup.yaml").write_text(TINY.replace("split:", '"[bold]split[/]":'))
    assert "[bold]split[/]" in call("run", "markup.yaml", "--no-figure").stdout


@pytest.mark.parametrize("command", ["run", "plot"])
@pytest.mark.parametrize("out", ["taken", "taken/below"])
def test_a_place_that_is_a_file_is_told_before_any_work(here: Path, command: str, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "taken").write_text("mine")
    monkeypatch.setattr("parsim.report.results.predict", lambda *_, **__: pytest.fail("priced before the place was known"))
    result = call(command, "tiny.yaml", "-o", out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("taken: is a file, not a directory\n  Next: ")
    assert (here / "taken").read_text() == "mine"
