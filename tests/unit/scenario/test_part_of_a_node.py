"""num_devices: a scenario may use fewer devices of a node than it has."""

from __future__ import annotations

import pytest

from parsim import scenario
from parsim.cluster.network import collective_s
from parsim.errors import ScenarioError
from parsim.estimator.estimate import estimate


def load(**cluster):
    batch = {"global_batch": 32, "sequence_length": 16, "dtype": "fp16" if "v100" in str(cluster) or "dgx-1v" in str(cluster) else "bf16"}
    return scenario.from_mapping({"model": "tiny-gpt", "cluster": cluster, "batch": batch, "plans": {"a": {}}})


@pytest.mark.parametrize(
    ("cluster", "num_nodes", "used", "num_nics"),
    [
        ({"node": "hgx-h100-80gb"}, 1, 8, 8),
        ({"node": "hgx-h100-80gb", "num_devices": 1}, 1, 1, 1),
        ({"node": "hgx-h100-80gb", "num_devices": 2}, 1, 2, 2),
        ({"node": "hgx-h100-80gb", "num_devices": 4}, 1, 4, 4),
        ({"node": "hgx-h100-80gb", "num_devices": 16, "fabric": "ib-ndr-8rail"}, 2, 8, 8),
        ({"node": "hgx-h100-80gb", "num_nodes": 2, "num_devices": 8, "fabric": "ib-ndr-8rail"}, 2, 4, 4),
        ({"node": "dgx-1v-16gb", "num_devices": 2}, 1, 2, 1),
        ({"node": "dgx-1v-16gb", "num_devices": 4}, 1, 4, 2),
        ({"node": {"base": "dgx-1v-16gb", "devices_per_node": 4}}, 1, 4, 2),
        ({"node": {"base": "dgx-1v-16gb", "devices_per_node": 4, "num_nics": 4}}, 1, 4, 4),
        ({"node": {"base": "one-cpu-generic", "devices_per_node": 2}}, 1, 2, 1),
        ({"node": "tpu-v5p-4x4x4", "num_devices": 1}, 1, 1, 1),
        ({"node": "pcie4-8x-l4", "num_devices": 2}, 1, 2, 1),
    ],
)
def test_nodes_give_as_many_devices_each_and_their_part_of_the_nics(cluster, num_nodes, used, num_nics):
    found = load(**cluster)
    assert (found.cluster.num_nodes, found.cluster.node.devices_per_node, found.cluster.node.num_nics) == (num_nodes, used, num_nics)
    assert found.plans["a"].data_parallel == num_nodes * used
    assert 0 < estimate(found, "a").step_s < 1


@pytest.mark.parametrize(("name", "used", "fabric"), [("p4d-24xlarge", 4, "efa-v1"), ("hgx-h100-80gb", 2, "ib-ndr-8rail")])
def test_a_part_of_nodes_costs_the_same_however_it_is_asked_for(name, used, fabric):
    asked = {"node": name, "num_devices": 2 * used}, {"node": {"base": name, "devices_per_node": used}}
    one, other = (estimate(load(**each, num_nodes=2, fabric=fabric), "a") for each in asked)
    assert (one.step_s, one.peak_bytes) == (other.step_s, other.peak_bytes)


def test_a_quad_of_a_dgx_1_runs_two_thirds_of_the_rings_and_a_pair_one_link():
    # The 9 links among the first four hold 2 rings of 4 links, each both ways: 4 directed rings of the 6 of all eight.
    whole, quad = load(node="dgx-1v-16gb").cluster, load(node="dgx-1v-16gb", num_devices=4).cluster
    large = 1e12  # where the start is nothing
    eight = float(collective_s(whole, "all_gather", large, 7, 8, 1))
    assert float(collective_s(quad, "all_gather", large, 3, 4, 1)) == pytest.approx(eight / 0.6667, rel=1e-3)
    pair = load(node="dgx-1v-16gb", num_devices=2).cluster
    assert float(collective_s(pair, "all_gather", large, 1, 2, 1)) == pytest.approx(eight * 6, rel=2e-3)


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"num_devices": 9, "num_nodes": 1}, 'num_devices = 9 is above the 8 that a node "hgx-h100-80gb" holds; give num_nodes = 2'),
        ({"num_devices": 9, "fabric": "ib-ndr-8rail"}, "num_devices = 9 is no multiple of the 2 nodes, each of which gives as many"),
        ({"num_devices": 16}, "cluster.fabric: missing: 2 nodes need a fabric"),
        ({"num_devices": 0}, "cluster.num_devices: must be above 0, not 0"),
        ({"num_gpus": 4}, "cluster.num_gpus: unknown key (did you mean 'num_devices'?)"),
        ({"node": "dgx-1v-16gb", "num_devices": 3}, "hybrid_cube_mesh joins 1, 2, 4 or 8 devices, not 3"),
        (
            {"node": "tpu-v5p-4x4x4", "num_devices": 8},
            "torus_3d is used whole, so num_devices = 64; a part of it is a node of its own: {base: ",
        ),
    ],
)
def test_what_nodes_cannot_give_is_a_fault(cluster, said):
    with pytest.raises(ScenarioError) as caught:
        load(**{"node": "hgx-h100-80gb", **cluster})
    assert said in str(caught.value)
