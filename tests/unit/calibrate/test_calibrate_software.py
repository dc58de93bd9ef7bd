"""`parsim calibrate --from` of a framework on a machine's own cores: its launches and messages, from plans of several scenarios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from calibrations import calibration
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from parsim import units
from parsim.calibrate.machine import build_node, text_of
from parsim.cli import app
from parsim.estimator.estimate import estimate_legal
from parsim.scenario.clusters import part_of
from parsim.scenario.inline import read
from parsim.scenario.row_files import row_of
from parsim.scenario.source import Source

SCENARIO = """
model: tiny-gpt
cluster: {{node: {{base: one-cpu-generic, devices_per_node: {devices}}}}}
batch: {{global_batch: 8, sequence_length: 8, dtype: fp32}}
stack: pytorch-cpu
plans: {plans}
"""
ONE = SCENARIO.format(devices=1, plans="{whole: {micro_batch: 8}, parts: {micro_batch: 2}}")
TWO = SCENARIO.format(devices=2, plans="{replicas: {data_parallel: 2}, columns: {tensor_parallel: 2}}")
FOUR = SCENARIO.format(devices=4, plans="{four: {data_parallel: 4}}")
HOST_S, MESSAGE_S = 70e-6, 4e-3  # what a step of this made-up software takes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two scenarios with their steps on a machine, whose cores are slower beside one another."""
    monkeypatch.chdir(tmp_path)
    row = calibration().row
    (tmp_path / "machine.yaml").write_text(text_of(row, "machine.yaml"))
    stack = replace(read("stacks", "pytorch-cpu"), host_launch_s=HOST_S, message_launch_s=MESSAGE_S)
    lines = ["scenario,plan,step_s"]
    for name, text in (("one.yaml", ONE), ("two.yaml", TWO)):
        (tmp_path / name).write_text(text)
        scenario = Source(tmp_path / name).load()
        cores = scenario.cluster.node.devices_per_node
        on_it = replace(scenario, stack=stack, cluster=replace(scenario.cluster, node=part_of(build_node(row), cores)))
        lines += [f"{name},{plan},{estimate_legal(on_it, on_it.plan(plan), plan).step_s}" for plan in scenario.plans]
    (tmp_path / "steps.csv").write_text("\n".join(lines))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["calibrate", "--from", "steps.csv", "--node", "file:machine.yaml", "--stack", "pytorch-cpu", *arguments]
    )


@pytest.mark.slow
def test_launches_and_messages_of_a_framework_are_found_from_steps_of_several_scenarios(here: Path) -> None:
    result = call("--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    found = {each["figure"]: each for each in document["factors"]}
    for figure, seconds in (("host_launch", HOST_S), ("message_launch", MESSAGE_S)):
        assert units.parse(found[figure]["fitted"], "s") == pytest.approx(seconds, rel=0.05)
    assert max(each["left_out"] for each in found.values()) < 0.05  # of three steps by the others
    node = build_node(row_of("file:my-cluster.yaml", "node", here))
    assert node == build_node(calibration().row)  # from which it starts, and which stays as it is


def test_a_plan_of_more_ranks_than_cores_is_told(here: Path) -> None:
    (here / "four.yaml").write_text(FOUR)
    (here / "steps.csv").write_text("scenario,plan,step_s\nfour.yaml,four,0.1\n")
    result = call()
    assert result.exit_code == 2
    assert "steps.csv:2:1: plan 'four' has 4 ranks, and 2 devices are calibrated: a device runs one of them" in result.stderr


@pytest.mark.parametrize("out", ["machine.yaml", "one.yaml", "steps.csv"])
def test_what_is_read_is_not_written_over(here: Path, out: str) -> None:
    before = (here / out).read_bytes()
    result = call("--out", out)
    assert result.exit_code == 2 and f"{out} is both read and written" in result.stderr
    assert (here / out).read_bytes() == before


def test_a_column_that_stands_twice_is_told(here: Path) -> None:
    (here / "steps.csv").write_text("scenario,plan,Plan,step_s\none.yaml,whole,parts,0.1\n")
    result = call()
    assert result.exit_code == 2 and "steps.csv:1:1: has more than one column plan: which counts?" in result.stderr
    assert "parsim check" not in result.stderr
