"""What a device or a node sends through to other nodes: its NICs, and the latencies of links on the way."""

from __future__ import annotations

import numpy as np

from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import Link
from parsim.cluster.scalars import Floats, Scalar
from parsim.errors import ScenarioError


def nic_port(node: Node, fabric: Fabric) -> Link:
    """What a NIC sends through: its port, or the link that joins it to its host, whichever is narrower."""
    slot = node.nic_link or node.host_link
    return fabric.nic if fabric.nic.bandwidth_bytes_per_s <= slot.bandwidth_bytes_per_s else slot


def latency_s(cluster: Cluster, fitted_s: Scalar, *, inside: Scalar = 0.0, across: Scalar = 0.0) -> Floats:
    """The latencies of a law by today's links: so many messages in nodes, and so many between them, one after another; at least 0.

    `fitted_s` is what they take on the links that the law was fitted on.  A message between nodes passes a NIC's slot at either end.
    """
    fabric, slot = cluster.fabric, cluster.node.nic_link or cluster.node.host_link
    nic_s = fabric.nic.added_latency_s + 2.0 * slot.added_latency_s if fabric else 0.0
    return np.maximum(fitted_s + (inside * cluster.node.link.added_latency_s + across * nic_s), 0.0)


def fabric_of(cluster: Cluster) -> Fabric:
    """The fabric that a group which leaves its node needs."""
    if cluster.fabric is None:
        what = f"a group leaves the {cluster.node.devices_per_node} devices of its node, and there is no fabric"
        raise ScenarioError(what, where="cluster", remedy="Name one, e.g. fabric: ib-hdr-8rail.")
    return cluster.fabric


def device_nic_rate(cluster: Cluster, fabric: Fabric) -> float:
    """A device's even share of its node's NICs [bytes/s]."""
    return cluster.nics_per_node * nic_port(cluster.node, fabric).bandwidth_bytes_per_s / cluster.node.devices_per_node
