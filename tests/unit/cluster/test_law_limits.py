"""No law of the catalog beats the wires, at any size, for any group, on any node and fabric; and faster wires make it faster."""

from __future__ import annotations

import numpy as np
import pytest
from cluster_rows import fabric, node, rows
from msgspec.structs import replace

from parsim.cluster import OPERATIONS, Cluster, Node
from parsim.cluster.link import Link, SmallMessageLaw
from parsim.cluster.network import collective_s, p2p_s, placement
from parsim.cluster.ports import nic_port
from parsim.cluster.scalars import Floats
from support import every_other

NODES = [name for name, row in rows("nodes").items() if row["devices_per_node"] > 1]
FABRICS = list(rows("fabrics"))
SIZES = 2.0 ** np.arange(0, 44, 5)  # up to 4 TB
# For each operation, of the payload: what a rank sends along a ring, and what a node sends at the least, k nodes, its ranks together.
RING = {"all_reduce": lambda n: 2 * (n - 1) / n, "reduce": lambda n: n**0, "broadcast": lambda n: n**0}
LEAVING = {"all_reduce": lambda k: 2 * (k - 1) / k, "reduce": lambda k: k**0, "broadcast": lambda k: k**0}


def groups(devices: int, num_nodes: int) -> tuple[Floats, Floats]:
    """Ranks and strides of groups that fit the cluster: in a node, on several, on parts of nodes."""
    sizes = (2, 3, 4, 5, 6, 8, 12, 16, 32, 64, devices, 2 * devices, 3 * devices, num_nodes * devices)
    strides = (1, 2, 4, 8, devices // 2, devices, 2 * devices)
    shapes = sorted({(n, max(s, 1)) for n in sizes for s in strides if n > 1 and n * max(s, 1) <= num_nodes * devices})
    ranks, stride = np.array(shapes, dtype=float).T
    return ranks, stride


def seconds(where: Cluster, operation: str, payload: Floats, ranks: Floats, stride: Floats) -> Floats:
    wire = RING.get(operation, lambda n: (n - 1) / n)(ranks) * payload
    return np.asarray(collective_s(where, operation, wire, (2 if operation == "all_reduce" else 1) * (ranks - 1), ranks, stride))


def least_s(where: Cluster, operation: str, payload: Floats, ranks: Floats, stride: Floats) -> Floats:
    """Seconds of the bytes that have to pass a rank's link in its node, and of those that have to pass its node's NICs."""
    box = where.node
    inside, nodes = placement(box.devices_per_node, ranks, stride, where.num_nodes)
    in_node = RING.get(operation, lambda n: (n - 1) / n)(inside)
    if operation == "all_reduce" and box.switch_adds:
        in_node = np.where(inside > 4, np.minimum(in_node, (inside + 1) / inside), in_node)
    if operation == "all_to_all":
        in_node = (inside - 1) / ranks
    by_link = np.where((inside > 1) & (nodes == 1), in_node, 0.0) * payload / box.link.bandwidth_bytes_per_s
    if where.fabric is None:
        return by_link
    leaving = LEAVING.get(operation, lambda k: (k - 1) / k)(np.maximum(nodes, 2.0)) / inside
    if operation == "all_to_all":
        leaving = (ranks - inside) / ranks
    nics = where.nics_per_node * nic_port(box, where.fabric).bandwidth_bytes_per_s
    return np.maximum(by_link, np.where(nodes > 1, box.devices_per_node * leaving * payload / nics, 0.0))


@pytest.mark.parametrize("case", every_other(("", *FABRICS), OPERATIONS, "{}-{}".format))
def test_no_law_beats_the_wires_of_any_node(case: tuple[str, str]) -> None:
    fabric_name, operation = case
    for name in NODES:
        where = Cluster(node(name), 4, fabric(fabric_name)) if fabric_name else Cluster(node(name))
        ranks, stride = groups(where.node.devices_per_node, where.num_nodes)
        ranks, stride, size = (each.ravel() for each in np.broadcast_arrays(ranks[:, None], stride[:, None], SIZES))
        short = seconds(where, operation, size, ranks, stride) - (1 - 1e-12) * least_s(where, operation, size, ranks, stride)
        assert np.all(short >= 0), (name, ranks[short < 0][:3], stride[short < 0][:3], size[short < 0][:3])


def test_a_law_of_small_messages_is_no_way_past_the_ring() -> None:
    # 14.6 GB/s of payload is 29 GB/s of a ring's bytes, 63 / 32 of the payload; the only NIC sends 1.25.
    slow = replace(fabric("ethernet-10g"), small=SmallMessageLaw(1e-6, 1e-6, 14.6e9, 0.0), efficiency=1.0)
    where = Cluster(node("dgx-a100-80gb"), 8, slow)
    found = seconds(where, "all_reduce", np.array([1e9]), np.array([64.0]), np.array([1.0]))
    assert found == pytest.approx(63 / 32 * 1e9 / 1.25e9, rel=1e-4)


def doubled(link: Link) -> Link:
    return replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s)


def alone(box: Node, operation: str) -> float:
    ranks = np.array([float(box.devices_per_node)])
    return float(seconds(Cluster(box), operation, np.array([1e10]), ranks, np.ones(1))[0])


@pytest.mark.parametrize("name", NODES)
def test_a_link_of_twice_the_bandwidth_makes_large_collectives_of_its_node_almost_twice_as_fast(name: str) -> None:
    slow = node(name)
    fast = replace(slow, link=doubled(slow.link))
    for operation in OPERATIONS:
        assert alone(fast, operation) < 0.6 * alone(slow, operation), operation
    assert float(p2p_s(Cluster(fast), 1e10, 1)) < 0.6 * float(p2p_s(Cluster(slow), 1e10, 1))


@pytest.mark.parametrize("name", FABRICS)
def test_nics_of_twice_the_bandwidth_make_large_collectives_between_nodes_almost_twice_as_fast(name: str) -> None:
    slow, box = fabric(name), node("hgx-h100-80gb")
    box = replace(box, host_link=doubled(doubled(box.host_link)))  # so that the slot of a NIC does not bind
    eight, apart, size = np.array([8.0]), np.array([8.0]), np.array([1e11])
    for operation in OPERATIONS:
        before, after = (
            float(seconds(Cluster(box, 8, each), operation, size, eight, apart)[0]) for each in (slow, replace(slow, nic=doubled(slow.nic)))
        )
        assert after < 0.6 * before, operation


def test_a_slice_has_all_its_ports_on_the_data_centre_network() -> None:
    # One port a host of 4 chips: 16 of a slice of 64, 128 of one of 512.
    assert [Cluster(node(f"tpu-v5p-{axes}"), 2, fabric("dcn-tpu")).nics_per_node for axes in ("4x4x4", "8x8x8")] == [16, 128]


def test_a_host_of_a_slice_sends_all_that_its_port_carries() -> None:
    """25 GB/s a host, whose port hangs on no single chip's slot; a large collective reaches the fabric's share of it."""
    for name in (each for each in NODES if each.startswith("tpu")):
        assert nic_port(node(name), fabric("dcn-tpu")).bandwidth_bytes_per_s == 25e9, name
    where, size = Cluster(node("tpu-v5p-4x4x4"), 2, fabric("dcn-tpu")), 1e15
    found = seconds(where, "all_gather", np.array([size]), np.array([128.0]), np.ones(1))
    assert 127 / 128 * size / found == pytest.approx(0.8 * 16 * 25e9, rel=0.01)
