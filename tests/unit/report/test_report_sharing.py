"""What is said of links that collectives share: in the documents of a run, on the terminal, and by explain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from parsim.cli import app
from parsim.errors import ParsimError
from parsim.parallel.plan import Plan
from parsim.report import explain as explaining
from parsim.report import results as made
from parsim.report.explain import explain
from parsim.report.summary import show_sharing
from parsim.scenario import Scenario
from parsim.simulator import simulate
from support import CLUSTER, FABRIC, FREE_NODE, STACK
from support import scenario as toy

# Each of two stages on nodes of its own: gradients of a layer leave by the NICs by which activations and their gradients come.
CROWDED = """
name: crowded
model: tiny-gpt
cluster: {node: {base: dgx-a100-80gb, devices_per_node: 2}, num_nodes: 4, fabric: ib-hdr-8rail}
batch: {global_batch: 8, sequence_length: 16}
stack: {base: megatron-2022, gradient_overlap: true}
plans:
  both: {tensor_parallel: 2, pipeline_parallel: 2, data_parallel: 2}
  dp: {tensor_parallel: 2, data_parallel: 4}
"""


def crowded() -> Scenario:
    """Plans that do and do not meet on NICs of 1e5 bytes/s."""
    nic = replace(FABRIC.nic, bandwidth_bytes_per_s=1e5)
    cluster = replace(CLUSTER, node=FREE_NODE, fabric=replace(FABRIC, nic=nic))
    both = Plan(tensor_parallel=4, pipeline_parallel=2, data_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b")
    plans = {"both": both, "one stage": Plan(tensor_parallel=4, data_parallel=4)}
    return toy(cluster=cluster, stack=replace(STACK, gradient_overlap=True), plans=plans)


def test_a_run_with_contention_states_the_step_with_and_without_it_and_what_each_link_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = made.predict(crowded(), "simulate", contention=True)
    both, one_stage = found.plans
    assert both.sharing is not None
    assert one_stage.sharing is not None
    assert both.sharing.alone_step_s == simulate(crowded(), "both").step_s < both.estimate.step_s
    assert not one_stage.sharing.lost_s
    show_sharing(found)
    told = capsys.readouterr().out
    assert "toy nic" in told
    assert "send_B" in told and "shorter" not in told
    longer = replace(both, sharing=replace(both.sharing, alone_step_s=1.001 * both.estimate.step_s))
    show_sharing(replace(found, plans=(longer, one_stage)))
    assert "shorter: kernels met fewer collectives than the estimate charges" in capsys.readouterr().out
    document = made.document(found)["plans"][0]["sharing"]
    assert document["alone_step_s"] == both.sharing.alone_step_s
    assert sum(each["lost_s"] for each in document["lost"]) == sum(both.sharing.lost_s.values())


def test_a_run_without_contention_says_nothing_of_sharing() -> None:
    found = made.predict(crowded(), "simulate")
    assert all(result.sharing is None for result in found.plans)
    assert all("sharing" not in each for each in made.document(found)["plans"])


def test_contention_without_events_is_refused_with_the_way_out() -> None:
    with pytest.raises(ParsimError, match="contention needs events") as told:
        made.predict(crowded(), contention=True)
    assert "--backend simulate" in str(told.value)


def test_explain_tells_what_a_message_lost_and_to_whom_and_nothing_of_what_met_nobody() -> None:
    (note,) = explain(crowded(), "both", "boundary")
    assert "on toy nic to dp" in dict(note.lines)["lost to others"]
    notes = [dict(note.lines) for note in explain(crowded(), "one stage", "all_reduce")]
    assert notes
    assert all(lines["lost to others"].startswith("nothing") for lines in notes)


def test_explain_of_a_kernel_is_silent_on_links() -> None:
    assert all("lost to others" not in dict(note.lines) for note in explain(crowded(), "both", "gelu"))


def test_explain_does_not_simulate_a_step_of_very_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "_MOST_EVENTS", 100)
    (note,) = explain(crowded(), "both", "boundary")
    assert "too many events" in dict(note.lines)["lost to others"]


def test_the_command_line_prints_both_steps_and_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crowded.yaml").write_text(CROWDED)
    runner = CliRunner()
    done = runner.invoke(app, ["run", "crowded.yaml", "--backend", "simulate", "--contention", "--no-figure", "-o", "out"])
    assert done.exit_code == 0, done.output
    assert "shared by what overlaps on them" in done.output
    shared = [each["sharing"] for each in json.loads((tmp_path / "out" / "results.json").read_text())["plans"]]
    assert all(each["alone_step_s"] > 0 for each in shared)
    assert runner.invoke(app, ["run", "crowded.yaml", "--contention"]).exit_code != 0
