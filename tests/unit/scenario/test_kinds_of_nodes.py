"""Clusters of several kinds of node as a scenario states them: what each figure is of, and what is refused, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import parsim
from parsim.cluster import Cluster
from parsim.cluster.cluster import NodeGroup, SharedFacts
from parsim.errors import PlanError, ScenarioError
from parsim.estimator.power import joules
from parsim.estimator.whole import step_joules, usd_per_device_hour
from parsim.parallel.plan import Plan
from parsim.report.whole import sources
from parsim.scenario.rows import read
from parsim.scenario.source import Source

TEXT = """\
model: llama3-8b
cluster:
  nodes:
    - {node: hgx-h100-80gb, count: 1}
    - {node: dgx-a100-40gb, count: 2}
  fabric: ib-hdr-8rail
batch: {global_batch: 24, sequence_length: 2048}
plans:
  a: {tensor_parallel: 8, pipeline_parallel: 3}
"""


def load(tmp_path: Path, *changes: tuple[str, str]) -> parsim.Scenario:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (path := tmp_path / "two.yaml").write_text(text)
    return parsim.load(path)


def faults(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path, *changes)
    return [str(each).removeprefix(f"{tmp_path}/") for each in caught.value.faults]


def test_devices_peaks_and_rents_are_of_all_nodes(tmp_path: Path) -> None:
    found = load(
        tmp_path, ("count: 1}", "count: 1, price_per_device_hour: 3 USD}"), ("count: 2}", "count: 2, price_per_device_hour: 1.5 USD}")
    )
    cluster, step = found.cluster, parsim.estimate(found, "a")
    assert cluster.num_devices == 24 and cluster.rent is not None and cluster.rent.device_hour_usd == (8 * 3 + 16 * 1.5) / 24
    h100, a100 = (read("nodes", name).accelerator for name in ("hgx-h100-80gb", "dgx-a100-40gb"))
    peak = 8 * h100.peak("bf16") + 16 * a100.peak("bf16")
    even = parsim.estimate(load(tmp_path, ("dgx-a100-40gb", "hgx-h100-80gb")), "a")  # as many FLOPs
    assert step.mfu * peak * step.step_s == pytest.approx(even.mfu * 24 * h100.peak("bf16") * even.step_s, rel=1e-12)
    each = zip((h100.tdp_w, a100.tdp_w, a100.tdp_w), step.busy_s, strict=True)
    assert step_joules(found, step) == pytest.approx(sum(8 * joules(tdp or 0.0, step.step_s, busy) for tdp, busy in each), rel=1e-12)


def test_kinds_without_a_price_are_told_with_their_keys(tmp_path: Path) -> None:
    tokens = ("plans:", "training: {total_tokens: 1B}\nplans:")
    one = load(tmp_path, tokens, ("count: 1}", "count: 1, price_per_device_hour: 3 USD}"))
    key = "cluster.nodes.1.price_per_device_hour"
    assert next(sources(one)) == f"no price of node \"dgx-a100-40gb\": give {key}, e.g. '2.5 USD'"
    with pytest.raises(PlanError, match='no price of a device of node "dgx-a100-40gb"') as caught:
        usd_per_device_hour(one)
    assert f"--set {key}='2.5 USD'" in caught.value.remedy
    assert usd_per_device_hour(Source(tmp_path / "two.yaml", sets=[f"{key}=1.5 USD"]).load()) == 2
    assert next(sources(load(tmp_path, tokens))) == "no price: give cluster.price_per_device_hour, e.g. '2.5 USD'"
    of_all = load(tmp_path, tokens, ("  fabric", "  price_per_device_hour: 2 USD\n  fabric"))
    assert next(sources(of_all)) == "price: 2 USD a device-hour (the scenario)"


def test_a_path_passes_a_kind_by_its_number(tmp_path: Path) -> None:
    load(tmp_path)
    file, last = tmp_path / "two.yaml", "cluster.nodes.1"
    changed = Source(file, sets=["cluster.nodes.0.count=4", f"{last}.node.accelerator.peak.bf16=2x", "plans.a.pipeline_parallel=6"]).load()
    peak = read("nodes", "dgx-a100-40gb").accelerator.peak("bf16")
    assert [each.num_nodes for each in changed.cluster.groups] == [4, 2]
    assert changed.cluster.groups[1].node.accelerator.peak("bf16") == 2 * peak
    assert Source(file).swap([f"{last}.node=h200"]).load().cluster.groups[1].node.name == "hgx-h200"
    cut = Source(file, sets=["plans.a.layers_per_stage=[10, 11, 11]", "plans.a.layers_per_stage.0=11", "plans.a.layers_per_stage.1=10"])
    assert cut.load().plans["a"].layers_per_stage == (11, 10, 11)
    for text, said in {
        "cluster.nodes.2.count=1": "cluster.nodes has 2 elements, numbered from 0, and '2' is none of these; set it whole",
        "cluster.nodes.first.count=1": "and 'first' is none of these",
        "cluster.nodes.1.cuont=1": "--set cluster.nodes.1.cuont: unknown key (did you mean 'count'?)",
        "cluster.node.accelerator.hbm_capacity=2x": "several kinds, of which one is cluster.nodes.0.node; lead through",
    }.items():
        assert any(said in str(each) for each in Source(file, sets=[text]).faults()), text
    (fault,) = Source(file).swap(["node=hgx-h200"]).faults()
    assert str(fault).startswith('--swap node: nodes says which nodes there are, here "hgx-h100-80gb" and "dgx-a100-40gb"')
    assert str(fault).endswith("of one kind alone it is cluster.nodes.0.node, and for equal nodes write the scenario anew")


def test_a_stage_is_held_to_the_memory_of_its_own_device(tmp_path: Path) -> None:
    fits, half = "batch: {global_batch: 24, sequence_length: 2048}", "batch: {global_batch: 24, sequence_length: 8192}"
    small = load(tmp_path, (fits, half), ("pipeline_parallel: 3}", "pipeline_parallel: 3, micro_batch: 2, layers_per_stage: [10, 18, 4]}"))
    found = parsim.estimate(small, "a")
    sizes = [sum(parts.values()) for parts in found.memory_bytes]
    assert found.peak_rank == 1 and found.capacity_bytes == read("nodes", "dgx-a100-40gb").accelerator.hbm_capacity_bytes
    assert sizes[1] > found.capacity_bytes > sizes[2] and not found.fits
    assert found.shortage is not None and found.shortage.stage == 1
    assert found.capacities_bytes[0] > max(sizes)  # on the first node all stages would fit


def test_one_kind_in_two_groups_is_one_kind(tmp_path: Path) -> None:
    one = load(tmp_path, ("dgx-a100-40gb", "hgx-h100-80gb"))
    assert not one.cluster.groups and one.cluster.num_nodes == 3
    apart = load(tmp_path, ("count: 2}", "count: 2, fabric: ib-ndr-8rail}"), ("dgx-a100-40gb", "hgx-h100-80gb"))
    assert [each.fabric.name for each in apart.cluster.kinds if each.fabric] == ["ib-hdr-8rail", "ib-ndr-8rail"]


_NEWER = "dgx-b200, count: 2}\n  fabric: ib-hdr-8rail\nbatch: {dtype: mxfp8, "
_GROUPS = "  nodes:\n    - {node: hgx-h100-80gb, count: 1}\n    - {node: dgx-a100-40gb, count: 2}"
_MIXES = 'stage 0 lies on nodes of 2 kinds, "hgx-h100-80gb" and "dgx-a100-40gb"'
REFUSED = {
    "num_nodes": ("count: 2}", "num_nodes: 2}", "two.yaml:5:29: cluster.nodes.1.num_nodes: unknown key (did you mean 'count'?)"),
    "beside": ("  fabric", "  num_nodes: 3\n  fabric", "two.yaml:6:3: cluster.num_nodes: nodes says which nodes there are"),
    "beside, of a node": (
        "  fabric",
        "  node: hgx-h200\n  fabric",
        'here "hgx-h100-80gb" and "dgx-a100-40gb", and how many of each: leave one',
    ),
    "prices": (
        "count: 2}",
        "count: 2, price_per_device_hour: 1 USD}\n  price_per_device_hour: 2 USD",
        "cluster.price_per_device_hour: it is of all devices, and nodes.1.price_per_device_hour of those of one kind: leave one of the two",
    ),
    "no fabric": ("  fabric: ib-hdr-8rail\n", "", "two.yaml:2:1: cluster.fabric: missing: 3 nodes need a fabric"),
    "unknown": ("dgx-a100-40gb", "dgx-a101", "two.yaml:5:8: cluster.nodes.1.node: unknown node 'dgx-a101'"),
    "no list": (_GROUPS, "  nodes: 3", "two.yaml:3:3: cluster.nodes: must be a list, not 3: nodes of several kinds are cluster.nodes: ["),
    "a part": (
        "node: dgx-a100-40gb",
        "node: {base: dgx-a100-40gb, devices_per_node: 4}",
        'two.yaml:3:3: cluster.nodes: nodes of unequal numbers of devices are not built: "hgx-h100-80gb" has 8, '
        '"dgx-a100-40gb (changed)" has 4. Use as many of each',
    ),
    "two kinds": (
        "pipeline_parallel: 3",
        "pipeline_parallel: 1",
        f"two.yaml:9:27: plans.a.pipeline_parallel: pipeline_parallel = 1: {_MIXES}. "
        "Legal pipeline_parallel, with pp last in rank_order: 3, 6, 12, 24",
    ),
    "order": (
        "tensor_parallel: 8, pipeline_parallel: 3",
        "tensor_parallel: 2, pipeline_parallel: 3, rank_order: tp-pp-dp",
        f"two.yaml:9:49: plans.a.rank_order: rank_order = 'tp-pp-dp': {_MIXES}. Name pp last",
    ),
    "no order": (
        "pipeline_parallel: 3",
        "pipeline_parallel: 3, rank_order: xx-tp-pp",
        "rank_order = 'xx-tp-pp' does not name each axis once",
    ),
    "host": (
        "pipeline_parallel: 3",
        "pipeline_parallel: 3, offload_optimizer: true",
        "offload_optimizer = True keeps states on hosts, which is not built for nodes of several kinds",
    ),
    "precision": ("length: 2048", "length: 2048, dtype: fp8_current", 'batch.dtype: accelerator "a100-sxm4-40gb" has no peak for'),
    "layouts": ("dgx-a100-40gb, count: 2}\n  fabric: ib-hdr-8rail\nbatch: {", _NEWER, "lay out narrow numbers each in their own way"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_built_of_several_kinds_is_refused_at_its_place(name: str, tmp_path: Path) -> None:
    *change, said = REFUSED[name]
    found = faults(tmp_path, tuple(change))
    assert any(said in fault for fault in found), found


def test_a_plan_given_in_python_is_refused_alike(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="stage 0 lies on nodes of 2 kinds"):
        parsim.estimate(load(tmp_path), Plan(data_parallel=24))


def test_a_figure_that_differs_is_never_that_of_the_first_node(tmp_path: Path) -> None:
    node = load(tmp_path).cluster.node
    assert isinstance(node, SharedFacts) and node.devices_per_node == 8
    with pytest.raises(ScenarioError, match=r"not built for nodes of several kinds \(hgx-h100-80gb \+ dgx-a100-40gb\), whose link differs"):
        node.link  # noqa: B018
    first, other = read("nodes", "hgx-h100-80gb"), read("nodes", "dgx-a100-40gb")
    with pytest.raises(ScenarioError, match="num_nodes = 3 is not that of its groups"):
        Cluster(first, 3, read("fabrics", "ib-hdr-8rail"), groups=(NodeGroup(first, 1), NodeGroup(other, 1)))
