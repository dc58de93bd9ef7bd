from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import ScenarioError
from parsim.scenario.document import DEFAULT_STACK
from parsim.scenario.rows import read
from parsim.scenario.source import Source

TEXT = """
model: llama3-8b
cluster: {node: hgx-h100-80gb, num_nodes: 2, fabric: ib-ndr}
batch: {global_batch: 64, sequence_length: 1024}
plans:
  a: {tensor_parallel: 8}
  "v1.5": {tensor_parallel: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT)
    return path


def load(file: Path, *sets: str) -> parsim.Scenario:
    return Source(file, sets=sets).load()


def faults(file: Path, *sets: str) -> list[str]:
    return [str(each) for each in Source(file, sets=sets).faults()]


def test_a_path_leads_to_the_key_of_a_section_a_plan_or_the_scenario(file: Path) -> None:
    found = load(file, "batch.global_batch=512", "cluster.num_nodes=16", "plans.a.micro_batch=auto", "seed=7", "plans.v1.5.micro_batch=2")
    assert (found.batch.global_batch, found.cluster.num_nodes, found.seed) == (512, 16, 7)
    assert found.spaces["a"].axes["micro_batch"] == ("auto",) and found.plans["v1.5"].micro_batch == 2
    assert found.notes[:2] == ("batch.global_batch = 512", "cluster.num_nodes = 16")


def test_a_path_through_the_name_of_a_row_changes_that_figure_alone(file: Path) -> None:
    fabric, nic = read("fabrics", "ib-ndr"), read("links", "ib-ndr")
    scenario = load(file, "cluster.fabric.nic.bandwidth=100GB/s", "model.num_layers=16", "stack.host_launch=3 us")
    found = scenario.cluster.fabric
    assert found and found.nic.bandwidth_bytes_per_s == 100e9 != nic.bandwidth_bytes_per_s
    assert (found.nic.latency_s, found.efficiency, found.topology) == (nic.latency_s, fabric.efficiency, fabric.topology)
    assert scenario.stack == replace(
        read("stacks", DEFAULT_STACK), host_launch_s=3e-6, name=scenario.stack.name, source=scenario.stack.source
    )
    assert scenario.model.num_layers == 16


def test_figures_of_a_row_that_stands_for_nothing_said_are_changed_too() -> None:
    asked = Source(options={"model": "llama3-8b", "node": "h100", "num_nodes": 2}, sets=["cluster.fabric.nic.bandwidth=2x"]).load()
    assert asked.cluster.fabric and asked.cluster.fabric.nic.bandwidth_bytes_per_s == 2 * read("links", "ib-ndr").bandwidth_bytes_per_s


def test_numbers_beyond_all_measure_are_faults_of_the_figure(file: Path) -> None:
    assert (
        "--set cluster.fabric.nic.bandwidth: "
        in faults(file, "cluster.fabric.nic.bandwidth=1e999 GB/s", "cluster.fabric.nic.bandwidth=9x")[0]
    )
    assert parsim.check(file, changes={"batch": {"global_batch": {1, 2}}})
    assert faults(file, "x" + ".x" * 1100 + "=1")


def test_rows_inside_rows_mappings_inside_rows_and_keys_that_are_numbers_are_reached(file: Path) -> None:
    sets = (
        "cluster.node.accelerator.peak.bf16=1 PFLOP/s",
        "cluster.node.accelerator.attention.efficiency_by_head_dim.128=0.5",
        "cluster.node.law.start=1 us",
    )
    found, own = load(file, *sets).cluster.node, read("nodes", "hgx-h100-80gb")
    assert found.accelerator.peak_flops_per_s == {**own.accelerator.peak_flops_per_s, "bf16": 1e15}
    assert dict(found.accelerator.attention.efficiency_by_head_dim)[128] == 0.5
    assert found.law.start_s == 1e-6 and found.law.step_s == own.law.step_s


def test_a_factor_multiplies_the_figure_that_is_there_or_each_of_a_mapping(file: Path) -> None:
    found = load(file, "cluster.fabric.nic.bandwidth=2x", "cluster.node.accelerator.peak=.5x", "batch.global_batch=2 x")
    nic, peaks = read("links", "ib-ndr"), read("accelerators", "h100-sxm5-80gb").peak_flops_per_s
    assert found.cluster.fabric and found.cluster.fabric.nic.bandwidth_bytes_per_s == 2 * nic.bandwidth_bytes_per_s
    assert found.cluster.node.accelerator.peak_flops_per_s == {dtype: peak / 2 for dtype, peak in peaks.items()}
    assert found.batch.global_batch == 128


def test_later_changes_win_and_a_row_may_be_named_and_then_changed(file: Path) -> None:
    found = load(file, "cluster.node.num_nics=2", "batch.global_batch=8", "cluster.node=dgx-a100-80gb", "batch.global_batch=16")
    assert (found.cluster.node.num_nics, found.batch.global_batch) == (2, 16)
    assert found.cluster.node.accelerator.name == "a100-sxm4-80gb"


def test_figures_of_rows_in_files_of_their_own_are_changed_too(tmp_path: Path, file: Path) -> None:
    (tmp_path / "node.yaml").write_text("{base: dgx-a100-80gb, name: mine}")
    found = load(file, "cluster.node=file:node.yaml", "cluster.node.devices_per_node=4", "cluster.num_nodes=4")
    assert found.cluster.node.devices_per_node == 4 and found.cluster.node.accelerator.name == "a100-sxm4-80gb"


def test_the_same_changes_are_made_from_python(file: Path) -> None:
    changes: dict[str, Any] = {"batch.global_batch": 512, "cluster.fabric.nic": {"base": "ib-hdr"}}
    assert parsim.load(file, changes=changes).batch.global_batch == 512
    assert parsim.check(file, changes=changes) == []
    mapping = {
        "model": "tiny-gpt",
        "cluster": {"node": "dgx-a100-80gb"},
        "batch": {"global_batch": 8, "sequence_length": 16},
        "plans": {"a": {}},
    }
    changed = parsim.from_mapping(mapping, changes={"plans.a.tensor_parallel": 2})
    assert changed.plan("a").tensor_parallel == 2 and mapping["plans"] == {"a": {}}
    with pytest.raises(ScenarioError, match=r"changes\['batch.globl_batch'\]: unknown key .did you mean 'global_batch'"):
        parsim.from_mapping(mapping, changes={"batch.globl_batch": 8})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch.globl_batch=8", "--set batch.globl_batch: unknown key (did you mean 'global_batch'?)"),
        ("clster.num_nodes=8", "--set clster.num_nodes: unknown key (did you mean 'cluster'?)"),
        ("cluster.fabric.nic.bandwith=2x", "--set cluster.fabric.nic.bandwith: unknown key (did you mean 'bandwidth'?)"),
        ("cluster.fabric.nic.bandwidth=100", "--set cluster.fabric.nic.bandwidth: 100 has no unit; write e.g. '100 GB/s'"),
        ("cluster.fabric=ib-ndrr", "--set cluster.fabric: unknown fabric 'ib-ndrr'"),
        ("batch.global_batch.x=1", "--set batch.global_batch.x: batch.global_batch is 64, which has no keys; set it whole"),
        ("plans.b.micro_batch=1", "--set plans.b.micro_batch: no plan 'b'; plans here: a, v1.5"),
        ("plans.b={tensor_paralel: 1}", "--set plans.b: tensor_paralel: unknown key (did you mean 'tensor_parallel'?)"),
        ("batch.global_batch", "--set batch.global_batch: must be PATH=VALUE, e.g. batch.global_batch=512"),
        ("batch.global_batch=[1", "--set batch.global_batch:1:3: not YAML: "),
        ("batch.global_batch=", "--set batch.global_batch: must be a whole number, not nothing"),
        ("cluster.node.nic_link.bandwidth=2x", "--set cluster.node.nic_link.bandwidth: cluster.node.nic_link is not stated; set it"),
        ("model=2x", "--set model: unknown model '2x'"),
        ("batch.global_batch=.1x", "--set batch.global_batch: must be a whole number, not 6.4"),
        ("cluster.num_nodes=0", "--set cluster.num_nodes: must be above 0, not 0"),
    ],
)
def test_what_is_wrong_with_a_change_is_said_at_it(file: Path, text: str, said: str) -> None:
    found = faults(file, text)
    assert any(each.startswith(said) for each in found), found


def test_faults_of_changes_and_of_the_file_are_told_at_once(file: Path) -> None:
    file.write_text(TEXT.replace("tensor_parallel: 8", "tensor_paralel: 8"))
    found = faults(file, "batch.x=1", "cluster.y=2")
    assert [each.split(": ")[0].rpartition("/")[2] for each in found] == ["--set batch.x", "--set cluster.y", "s.yaml:6:7"]


def test_without_a_file_the_defaults_are_said() -> None:
    asked = Source(options={"model": "llama3-8b", "node": "A100-40GB", "num_devices": 16}).load()
    assert (asked.cluster.node.name, asked.cluster.num_nodes, asked.plans) == ("dgx-a100-40gb", 2, {})
    assert asked.notes == (
        "A100-40GB is dgx-a100-40gb",
        "fabric = ib-hdr-8rail (usual for the node)",
        "sequence_length = 8192 (the longest of the model)",
        "global_batch = 512 (by default, about 4 M tokens)",
    )


def test_what_is_said_takes_no_default() -> None:
    told: dict[str, str | int | None] = {
        "model": "gpt2-small",
        "node": "v100",
        "num_nodes": 2,
        "fabric": "ib-edr",
        "dtype": "fp16",
        "stack": None,
    }
    asked = Source(options={**told, "global_batch": 8, "sequence_length": 512}, sets=["plans.a.tensor_parallel=2"]).load()
    assert asked.cluster.fabric and asked.cluster.fabric.name == "ib-edr" and asked.plans["a"].tensor_parallel == 2
    assert asked.notes == ("v100 is dgx-1v-32gb", "plans.a.tensor_parallel = 2")


def test_faults_of_options_are_said_at_them() -> None:
    with pytest.raises(parsim.ParsimError, match="needs a scenario file, or --model and --node"):
        Source(options={"model": "llama3-8b"}).load()
    found = [str(each) for each in Source(options={"model": "lama3-8b", "node": "abacus", "fabric": "ib"}).faults()]
    assert [each.partition(":")[0] for each in found] == ["--fabric", "--model", "--node"]
    assert "did you mean 'llama3-8b'" in found[1]


def test_what_follows_from_a_model_is_not_missing_where_the_model_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 64}')
    (found,) = Source(options={"model": f"hf:{tmp_path}", "node": "h100", "global_batch": 8}).faults()
    assert str(found).startswith("--model: hf:") and str(found).endswith("key 'num_hidden_layers' is missing")


def test_a_scenario_says_how_a_command_is_told_it_again(file: Path) -> None:
    asked = Source(options={"model": "gpt2-small", "node": "a100", "num_devices": 2}, sets=["model.num_layers=2"]).load()
    assert asked.arguments == "--model gpt2-small --node dgx-a100-80gb --num-devices 2 --set model.num_layers=2"
    assert load(file, "batch.global_batch=32", "name=two words").arguments == f"{file} --set batch.global_batch=32 --set name='two words'"
    assert load(file).arguments == str(file)


def test_every_usual_fabric_joins_its_node() -> None:
    from parsim import catalog

    usual = {name: fabric for name in catalog.names("nodes") if (fabric := read("nodes", name).usual_fabric)}
    assert len(usual) > 30
    for name in usual:
        asked: dict[str, str | int | None] = {"model": "tiny-gpt", "node": name, "num_nodes": 2, "dtype": "fp32"}
        assert [str(each) for each in Source(options=asked).faults() if "no peak" not in str(each)] == []


@pytest.mark.parametrize(
    ("node", "stack"),
    [
        *(("tpu-v5p-4x4x4", "jax-xla-tpu"), ("hls-gaudi2-8", "megatron-deepspeed-gaudi"), ("trn1-32xlarge", "neuronx-distributed")),
        *(("hgx-h100-80gb", DEFAULT_STACK), ("mi300x-8", DEFAULT_STACK)),
    ],
)
def test_a_scenario_without_a_stack_has_the_software_of_its_devices(node: str, stack: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    lines = ("model: llama2-7b", f"cluster: {{node: {node}}}", "batch: {global_batch: 512, sequence_length: 2048}", "plans: {a: {}}")
    path.write_text("\n".join(lines), encoding="utf-8")
    found, changed = load(path), load(path, "stack.host_launch=3 us")
    assert (found.stack, found.default_stack) == (read("stacks", stack), True)
    assert changed.stack == replace(found.stack, host_launch_s=3e-6, name=changed.stack.name, source=changed.stack.source)
