"""`parsim plan` and `explain` where nothing fits, the front, and files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from test_cli import HUGE, TINY, call, here

import parsim

__all__ = ["here"]

TIGHT = """
model: llama3-8b
cluster: {node: dgx-a100-80gb}
batch: {global_batch: 64, sequence_length: 8192}
plans:
  one: {tensor_parallel: 2, micro_batch: 4}
  open: {tensor_parallel: [2], micro_batch: [4]}
"""


def test_where_nothing_fits_the_nearest_changes_are_told_with_their_cost(here: Path) -> None:
    (here / "tight.yaml").write_text(TIGHT)
    result = call("plan", "tight.yaml")
    assert result.exit_code == 1 and "stage 0 needs" in result.stderr and "too many (activations" in result.stderr
    fitting = [line for line in result.stderr.splitlines() if line.startswith("fits with ")]
    assert fitting and all(" GiB, " in line and " s (" in line for line in fitting)
    explained = call("explain", "tight.yaml", "one")
    assert explained.exit_code == 0 and all(line in explained.stdout for line in fitting)
    nearest = json.loads(call("plan", "tight.yaml", "--json").stdout)["nearest"]
    assert parsim.Remedies.from_dict(nearest).changes


def test_where_no_change_is_enough_the_nodes_are_told_or_that_there_is_no_fabric(here: Path) -> None:
    result = call("plan", "huge.yaml")
    assert result.exit_code == 1 and "not enough alone: " in result.stderr and "the cluster has no fabric for more" in result.stderr


@pytest.mark.slow
def test_the_nodes_that_a_large_model_needs_are_told(here: Path) -> None:
    (here / "more.yaml").write_text(HUGE.replace("dgx-a100-80gb}", "dgx-a100-80gb, fabric: ib-hdr-8rail}"))
    assert " nodes (" in call("plan", "more.yaml").stderr


def test_explain_says_that_a_plan_fits(here: Path) -> None:
    result = call("explain", "tiny.yaml", "split")
    assert result.exit_code == 0 and "split: fits, with" in result.stdout


def test_the_front_is_printed_in_every_format(here: Path) -> None:
    assert "no other beats these" in call("plan", "tiny.yaml", "--pareto").stdout
    document = json.loads(call("plan", "tiny.yaml", "--pareto", "--json").stdout)
    rows = [*csv.DictReader(io.StringIO(call("plan", "tiny.yaml", "--pareto", "--csv").stdout))]
    assert [float(row["step_s"]) for row in rows] == [each["step_s"] for each in document["rows"]]
    memory = [each["memory_bytes"] for each in document["rows"]]
    assert len(memory) >= 1
    assert call("plan", "tiny.yaml", "--nodes", "2").exit_code == 2
    sized = call("plan", "tiny.yaml", "--pareto", "--nodes", "1", "--nodes", "2")
    assert sized.exit_code == 2 and "without a fabric" in sized.stderr


def test_files_are_written_where_asked(here: Path) -> None:
    assert call("plan", "tiny.yaml", "-o", "out").exit_code == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == ["plan.json", "ranking.csv"]
    found = parsim.load_plan(here / "out" / "plan.json")
    assert not found.changed and found.estimate.step_s == found.saved_step_s
    assert call("plan", "tiny.yaml", "--figure").exit_code == 0
    names = ["heatmap.csv", "heatmap.png", "pareto.csv", "pareto.png", "plan.json", "ranking.csv"]
    assert sorted(path.name for path in (here / "reports" / "tiny").iterdir()) == names
    assert call("plan", "huge.yaml", "--figure", "-o", "none").exit_code == 1
    assert "plan.json" not in [path.name for path in (here / "none").iterdir()]


SMALL = ["--model", "tiny-gpt", "--node", "dgx-a100-80gb", "--stack", "megatron-2022", "--global-batch", "16"]


CROWDED = ["plan", str(Path(__file__).parents[2] / "scenarios" / "plan-gpt3-13b.yaml"), "--top", "2"]


def test_links_that_are_shared_are_counted_of_the_first_and_of_all_where_asked(here: Path) -> None:
    first, shared = call(*CROWDED), call(*CROWDED, "--contention")
    assert (
        "re-ranked by simulated contention of 1 (" in first.stdout and "no better than the first even by their estimates: 2" in first.stdout
    )
    assert "), 2 (parsim run: " in shared.stdout and "no step here" not in shared.stdout
    document = json.loads(call(*CROWDED, "--contention", "--json").stdout)
    assert document["contention"]["re_ranked_by"] == "simulated contention" and document["contention"]["not_simulated"] == []
    assert all(each["alone_step_s"] <= each["step_s"] and each["shares_links"] for each in document["plans"])
    rows = [*csv.DictReader(io.StringIO(call(*CROWDED, "--contention", "--csv").stdout))]
    assert [float(row["alone_step_s"]) for row in rows] == [each["alone_step_s"] for each in document["plans"]]
    refused = call("plan", "tiny.yaml", "--pareto", "--contention")
    assert refused.exit_code == 2 and "--pareto ranks nothing, and takes no --contention" in refused.stderr


@pytest.mark.parametrize(
    ("node", "said"),
    [("dgx-a100-80gb", "a100-sxm4-80gb has no such peak"), ("dgx-h100", "stack megatron-2022 states none\n  Of the catalog's")],
)
def test_a_precision_left_to_the_planner_says_why_nothing_narrow_is_tried(here: Path, node: str, said: str) -> None:
    asked = "{precision: auto, tensor_parallel: 8}"
    done = call("plan", "--model", "gpt3-13b", "--node", node, "--global-batch", "8", "--set", f"plans.a={asked}")
    assert f"precision = auto finds nothing of 8 or 4 bits: {said}" in done.stderr
    core = call(
        "plan", "--model", "gpt3-13b", "--node", node, "--global-batch", "8", "--set", f"plans.a={asked}", "--stack", "megatron-core"
    )
    assert ("finds nothing" in core.stderr) == (node == "dgx-a100-80gb")


def test_each_cluster_of_a_front_has_figures_of_its_own(here: Path) -> None:
    done = call("plan", *SMALL, "--pareto", "--nodes", "1", "--nodes", "2", "--figure", "-o", "out", "--format", "svg")
    assert done.exit_code == 0 and "legal plans on 1, 2 nodes" in done.stdout and "in step time, devices and memory" in done.stdout
    for nodes in (1, 2):
        rows = [*csv.DictReader((here / "out" / f"pareto-{nodes}-nodes.csv").open())]
        devices = (int(row["data_parallel"]) * int(row["tensor_parallel"]) * int(row["pipeline_parallel"]) for row in rows)
        assert {*devices} == {8 * nodes} and (here / "out" / f"heatmap-{nodes}-nodes.svg").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--limit", "step_time"], "--limit step_time: must be NAME=VALUE"),
        (["--limit", "devices=64", "--limit", "devices=32"], "--limit devices is given twice"),
        (["--limit", "memory_headroom=10%", "--headroom", "20%"], "--limit memory_headroom is given twice"),
        (["--pareto", "--objective", "mfu"], "--pareto ranks nothing, and takes no --objective"),
    ],
)
def test_limits_that_contradict_are_refused(here: Path, given: list[str], said: str) -> None:
    refused = call("plan", "tiny.yaml", *given)
    assert (refused.exit_code, refused.stdout) == (2, "") and said in refused.stderr


def test_the_limit_that_keeps_all_out_is_named_alone(here: Path) -> None:
    none = call("plan", "tiny.yaml", "--headroom", "1%", "--limit", "step_time=1us")
    assert none.exit_code == 1 and "no plan is within step_time 1us; the best without" in none.stderr


def test_a_table_of_plans_is_80_columns_wide(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = ("plan", "--model", "llama3-8b", "--node", "a100-40gb", "--num-devices", "16")
    for more in ((), ("--pareto", "--nodes", "2", "--nodes", "4")):
        said = call(*asked, *more).stdout.splitlines()
        rule = next(number for number, line in enumerate(said) if line.startswith("──"))
        assert "interleaved_" in "".join(said[rule:]) and max(map(len, said[rule - 3 : rule + 10])) <= 80


def test_size_and_objectives_answer_on_the_command_line(here: Path) -> None:
    text = TINY.replace("devices_per_node: 4}}", "devices_per_node: 4}, price_per_device_hour: 2 USD}")
    (here / "priced.yaml").write_text(text + "training: {total_tokens: 1M}\n")
    ran = call("run", "priced.yaml", "--no-figure")
    assert "whole training, 1,000,000 tokens, 15,625 steps" in ran.stdout and "price: 2 USD a device-hour (the scenario)" in ran.stdout
    ranked = call("plan", "priced.yaml", "--objective", "energy", "--headroom", "10%", "--limit", "step_time=1s", "--json")
    document = json.loads(ranked.stdout)
    assert document["objective"] == "energy" and [each["limit"] for each in document["limits"]] == ["memory_headroom 0.1", "step_time 1s"]
    assert call("plan", "priced.yaml", "--limit", "step_time=1ns").exit_code == 1
    assert call("plan", "priced.yaml", "--objective", "fame").exit_code == 2
    sized = call("size", "priced.yaml", "--within", "30 days", "--csv")
    assert sized.exit_code == 0 and next(csv.DictReader(io.StringIO(sized.stdout)))["num_devices"] == "4"
    assert "4 devices (1 node): " in call("size", "priced.yaml", "--within", "30 days").stdout
    none = call("size", "priced.yaml", "--within", "1 ms")
    assert none.exit_code == 1 and "give cluster.fabric" in none.stderr
    assert call("size", "priced.yaml").exit_code == 2
    assert "2 USD a device-hour" in call("explain", "priced.yaml", "split", "cost").stdout
