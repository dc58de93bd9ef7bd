"""`parsim calibrate --from`: a table, a file whole or not at all, and a scenario that names it runs by what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from own_logs import log_text
from typer.testing import CliRunner, Result

from parsim.cli import app
from parsim.estimator.estimate import estimate_legal
from parsim.scenario.source import Source

SCENARIO = """
model: megatron-22b
cluster: {node: dgx-a100-80gb, num_nodes: 2, fabric: ib-hdr-8rail}
batch: {global_batch: 8, sequence_length: 2048, dtype: fp16}
stack: megatron-2022
plans:
  full: {tensor_parallel: 8, data_parallel: 2, micro_batch: 4, recompute: full}
  seqsel: {tensor_parallel: 8, data_parallel: 2, micro_batch: 4, recompute: selective, sequence_parallel: true}
"""
MINE = SCENARIO.replace("dgx-a100-80gb", "file:my-cluster.yaml").replace("ib-hdr-8rail", "file:my-cluster.yaml")
MINE = MINE.replace("megatron-2022", "file:my-cluster.yaml")
STEPS = "plan,step_s\nfull,2.22\nfull,2.25\nfull,2.21\nfull,2.24\n"
SLOW = {2**power: 30e-6 + 2**power / 50e9 for power in range(12, 30, 4)}  # 88 GB/s of the 200 that NICs can carry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(SCENARIO)
    (tmp_path / "mine.yaml").write_text(MINE)
    (tmp_path / "steps.csv").write_text(STEPS)
    (tmp_path / "all_reduce.log").write_text(log_text("all_reduce", ["n0"] * 8 + ["n1"] * 8, SLOW))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", *arguments])


def test_a_scenario_that_names_what_was_found_predicts_steps_nearer_to_those_measured(here: Path) -> None:
    result = call("--from", "all_reduce.log", "steps.csv", "--scenario", "a.yaml")
    assert result.exit_code == 0, result.output
    uses = "cluster: {node: file:my-cluster.yaml, fabric: file:my-cluster.yaml}, stack: file:my-cluster.yaml"
    assert f"my-cluster.yaml: a scenario beside it runs on them with {uses}" in result.stdout
    assert CliRunner().invoke(app, ["check", "mine.yaml"]).exit_code == 0
    default, mine = (Source(here / name).load() for name in ("a.yaml", "mine.yaml"))
    for plan, measured_s in (("full", 2.23), ("seqsel", 1.80)):  # the second was never measured
        before, after = (estimate_legal(each, each.plan(plan), plan).step_s / measured_s - 1 for each in (default, mine))
        assert abs(after) < 0.4 * abs(before)
    assert mine.cluster.fabric is not None and 0.4 < mine.cluster.fabric.efficiency < 0.7
    assert "parsim calibrate --from steps.csv, 4 points" in mine.stack.source


def test_a_calibrated_stack_is_as_sure_as_the_one_that_it_starts_from(here: Path) -> None:
    assert call("--from", "steps.csv", "--scenario", "a.yaml").exit_code == 0
    default, mine = (
        estimate_legal(each, each.plan("full"), "full") for each in (Source(here / name).load() for name in ("a.yaml", "mine.yaml"))
    )
    assert default.step_interval_s and mine.step_interval_s and mine.step_s > 1.01 * default.step_s
    assert [end / mine.step_s for end in mine.step_interval_s] == pytest.approx([end / default.step_s for end in default.step_interval_s])


def test_a_time_and_a_rate_of_one_step_that_differ_are_told(here: Path) -> None:
    # 8 sequences x 2048 tokens on 16 devices: 2 s are 512 tokens/s of each.
    for rate, status in (("512", 0), ("5120", 2)):
        (here / "both.csv").write_text(f"plan,step_s,tokens_per_s_per_device\nfull,2,{rate}\n")
        result = call("--from", "both.csv", "--scenario", "a.yaml")
        assert result.exit_code == status, result.output
    assert "both.csv:2:1: step_s = 2, and tokens_per_s_per_device = 5120 says 0.2 s: units are mixed" in result.stderr


def test_a_star_stands_at_the_figure_that_is_at_the_most(here: Path) -> None:
    (here / "small.log").write_text(log_text("all_reduce", ["n0"] * 8, {2**power: 18e-6 for power in range(3, 10, 2)}))
    factors = json.loads(call("--from", "small.log", "--scenario", "a.yaml", "--json").stdout)["factors"]
    bandwidth = next(each for each in factors if each["name"] == "in a node: bandwidth")
    assert bandwidth["is_fitted_at_most"] and not bandwidth["at_most"] and bandwidth["factor"] == pytest.approx(1.0, abs=0.01)
    text = call("--from", "small.log", "--scenario", "a.yaml").stdout
    assert f"{bandwidth['fitted']}*" in text and f"{bandwidth['shrunk']}*" not in text


def test_the_scenario_that_is_calibrated_is_never_written_over(here: Path) -> None:
    result = call("--from", "steps.csv", "--scenario", "a.yaml", "--out", "a.yaml")
    assert result.exit_code == 2 and "a.yaml is both read and written" in result.stderr
    assert (here / "a.yaml").read_text() == SCENARIO


def test_the_same_files_write_the_same_bytes_and_the_date_is_the_one_given(here: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        assert call("--from", "steps.csv", "--scenario", "a.yaml", "-o", name, "--date", "2026-11-30").exit_code == 0
    one, two = ((here / name).read_text() for name in ("one.yaml", "two.yaml"))
    assert one.replace("one.yaml", "two.yaml") == two
    assert one.count("2026-11-30") == 1


def test_what_is_no_date_is_refused_before_any_work(here: Path) -> None:
    result = call("--from", "steps.csv", "--scenario", "a.yaml", "--date", "yesterday")
    assert result.exit_code == 2 and "--date 'yesterday' is no date" in result.stderr and "2026-11-30" in result.stderr


def test_json_holds_every_factor_and_the_rows(here: Path) -> None:
    result = call("--from", "steps.csv", "--scenario", "a.yaml", "--json")
    document = json.loads(result.stdout)
    (factor,) = document["factors"]
    assert factor["name"] == "steps: sustained" and factor["num_points"] == 4 and 0 < factor["factor"] < 1
    assert factor["left_out_by"] == "point" and factor["left_out"] < factor["before"]
    assert document["stack"]["base"] == "megatron-2022" and (here / "my-cluster.yaml").exists()


def test_calibrating_again_starts_from_the_catalog(here: Path) -> None:
    assert call("--from", "all_reduce.log", "steps.csv", "--scenario", "a.yaml").exit_code == 0
    result = call("--from", "all_reduce.log", "steps.csv", "--scenario", "mine.yaml", "-o", "again.yaml")
    assert result.exit_code == 0 and "stack: starts from megatron-2022 of the catalog" in result.stderr
    assert (here / "again.yaml").read_text().replace("again.yaml", "my-cluster.yaml") == (here / "my-cluster.yaml").read_text()


TABLE = """num_layers,hidden_size,num_heads,vocab_size,sequence_length,accelerator,num_devices,tensor_parallel,global_batch,step_s
24,4096,32,51200,2048,a100-sxm4-80gb,8,8,32,{0}
24,4096,32,51200,2048,a100-sxm4-80gb,8,8,16,{1}
"""


def test_rows_of_a_table_of_steps_are_read_as_validate_reads_them(here: Path) -> None:
    (here / "table.csv").write_text(TABLE.format(5.0, 4.8))
    result = call("--from", "table.csv", "--accelerator", "a100-sxm4-80gb", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["factors"][0]["num_points"] == 2 and document["stack"]["base"] == "megatron-2022"


def test_devices_of_another_name_are_told(here: Path) -> None:
    (here / "h100.log").write_text(log_text("all_reduce", ["n0"] * 8, SLOW, device="NVIDIA H100 80GB HBM3"))
    result = call("--from", "h100.log", "all_reduce.log", "--scenario", "a.yaml")
    assert result.exit_code == 0
    assert "h100.log: its devices are called 'NVIDIA H100 80GB HBM3', and a100-sxm4-80gb is calibrated" in result.stderr
    assert "all_reduce.log: its devices" not in result.stderr


WRONG = [
    (["steps.csv"], [], "measurements are of an accelerator: name it, or a scenario that does"),
    (["steps.csv"], ["--accelerator", "a100-sxm4-80gb"], "steps.csv:2:1: names a plan, and no scenario is given that has it"),
    (["steps.csv"], ["--accelerator", "a100-smx4-80gb"], "unknown accelerator, or node, 'a100-smx4-80gb' (did you mean 'a100-sxm4-80gb'"),
    (["steps.csv"], ["--scenario", "a.yaml", "--stack", "megatron-cor"], "unknown stack 'megatron-cor'"),
    (["steps.csv"], ["--scenario", "a.yaml", "--node", "one-cpu-generic"], "plan 'full' has 16 ranks, and 2 devices are calibrated"),
    (["lost.csv"], ["--accelerator", "a100-sxm4-80gb"], "lost.csv:2:1: scenario lost.yaml: "),
    (["all_reduce.log"], ["--accelerator", "h100-sxm5-80gb", "--fabric", "none"], "unknown fabric 'none'"),
    (["bad.csv", "cut.log"], ["--scenario", "a.yaml"], "bad.csv:2:1: the scenario has no plan 'ful' (did you mean 'full'?)"),
    (["bad.csv", "cut.log"], ["--scenario", "a.yaml"], "cut.log:2:1: this run has no end"),
    (["table.csv"], ["--accelerator", "h100-sxm5-80gb"], "table.csv:2:1: it is of a100-sxm4-80gb, and h100-sxm5-80gb is calibrated"),
    (["table.csv"], ["--accelerator", "a100-sxm4-80gb"], "table.csv:3:1: step_s = '-1' is no number above 0"),
    (["fast.csv"], ["--scenario", "a.yaml"], "fast.csv:2:1: a step of 0.02 s is"),
    (["my-cluster.yaml"], ["--scenario", "a.yaml"], "my-cluster.yaml is both read and written"),
]


@pytest.mark.parametrize(("files", "options", "said"), WRONG)
def test_what_is_wrong_is_told_at_once_and_nothing_is_written(here: Path, files: list[str], options: list[str], said: str) -> None:
    (here / "bad.csv").write_text("plan,step_s\nful,1\n")
    (here / "cut.log").write_text((here / "all_reduce.log").read_text().split("# Out of")[0])
    (here / "table.csv").write_text(TABLE.format(5.0, -1))
    (here / "lost.csv").write_text("scenario,plan,step_s\nlost.yaml,full,2\n")
    (here / "fast.csv").write_text("plan,step_s\nfull,0.02\n")
    (here / "my-cluster.yaml").write_text("as before")
    result = call("--from", *files, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert (here / "my-cluster.yaml").read_text() == "as before"


@pytest.mark.parametrize(
    "arguments", [["a.log"], ["--scenario", "a.yaml"], ["--date", "x", "--json"], ["--from", "a.log", "--seconds", "9"]]
)
def test_options_of_another_kind_of_calibration_are_told(here: Path, arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2 and "--from" in result.stderr
