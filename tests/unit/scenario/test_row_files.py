"""Rows of a node, a fabric and a stack that a scenario names by a file: one row, or rows of several parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from parsim.errors import ScenarioError
from parsim.scenario import Scenario
from parsim.scenario.source import Source

SCENARIO = """
model: megatron-22b
cluster: {node: NODE, num_nodes: 2, fabric: FABRIC}
batch: {global_batch: 4, sequence_length: 2048, dtype: fp16}
stack: STACK
plans: {a: {tensor_parallel: 8}}
"""
ROWS = """
node: {base: dgx-a100-80gb, law: {ring: 200 GB/s}}
fabric: {base: ib-hdr-8rail, efficiency: 0.5, source: {efficiency: measured}}
stack: {base: megatron-2022, sustained_factor: {a100-sxm4-80gb: 0.7}}
"""


def load(folder: Path, node: str = "dgx-a100-80gb", fabric: str = "ib-hdr-8rail", stack: str = "megatron-2022") -> Scenario:
    (folder / "a.yaml").write_text(SCENARIO.replace("NODE", node).replace("FABRIC", fabric).replace("STACK", stack))
    return Source(folder / "a.yaml").load()


def test_each_part_takes_its_row_of_a_file_that_holds_several(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(ROWS)
    found = load(tmp_path, *["file:mine.yaml"] * 3)
    assert found.cluster.node.law.ring_bytes_per_s == 200e9
    assert found.cluster.fabric is not None and found.cluster.fabric.efficiency == 0.5
    assert found.stack.sustained_factor == {"a100-sxm4-80gb": 0.7}
    assert found.cluster.node.accelerator == load(tmp_path).cluster.node.accelerator


def test_a_file_of_one_row_is_that_row(tmp_path: Path) -> None:
    (tmp_path / "fabric.yaml").write_text("{base: ib-hdr-8rail, efficiency: 0.5}\n")
    found = load(tmp_path, fabric="file:fabric.yaml")
    assert found.cluster.fabric is not None and found.cluster.fabric.efficiency == 0.5


def test_figures_of_a_row_in_a_file_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(ROWS)
    load(tmp_path, *["file:mine.yaml"] * 3)
    found = Source(tmp_path / "a.yaml", sets=("cluster.fabric.efficiency=0.25", "stack.host_launch=9 us")).load()
    assert found.cluster.fabric is not None and found.cluster.fabric.efficiency == 0.25
    assert found.stack.host_launch_s == 9e-6


@pytest.mark.parametrize(
    ("part", "name", "text", "said"),
    [
        ("fabric", "file:mine.yaml", "node: {base: dgx-a100-80gb}\n", "cluster.fabric: {path}: holds no fabric, but node"),
        ("stack", "file:mine.yaml", "[1, 2]\n", "stack: {path}: is no mapping; a stack's row is one"),
        ("stack", "file:other.yaml", "", "other.yaml: no such file"),
        ("fabric", "'file:'", "", "cluster.fabric: file: names no file: name a YAML file of a fabric's row as file:NAME"),
        ("node", "file:mine.yaml", "{base: dgx-a100-80gb, base: hgx-h200}\n", "duplicate key"),
        ("fabric", "file:mine.yaml", "{base: ib-hdr-8rail, eficiency: 1}\n", "unknown key (did you mean 'efficiency'?)"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_where_it_is_named(tmp_path: Path, part: str, name: str, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ScenarioError) as raised:
        load(tmp_path, **{part: name})
    assert said.format(path=tmp_path / "mine.yaml") in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'a.yaml'}:")


def test_of_a_file_that_is_wrong_in_every_line_few_faults_are_told_and_how_many_more(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: dgx-a100-80gb\n" * 1001)
    with pytest.raises(ScenarioError) as error:
        load(tmp_path, node="file:mine.yaml")
    assert str(error.value).count("duplicate key") == 10 and "and 990 more" in str(error.value)
    assert "mine.yaml:2:1: base: duplicate key; it stands in line 1 already" in str(error.value)
