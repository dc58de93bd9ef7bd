"""A torus of two axes (TPU v3, v5e and v6e, Trainium): each device has a wire to both neighbours on each axis, the last to the first."""

from __future__ import annotations

import math
from itertools import product

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join
from parsim.errors import ScenarioError


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Devices joined along each axis by an equal part of their ports; on an axis of 2 both wires go to the one neighbour.

    Raises:
        ScenarioError: the axes do not hold the node's devices.
    """
    torus = cluster.node.torus
    if math.prod(torus) != cluster.node.devices_per_node:
        raise ScenarioError(_holds(cluster.node), where="cluster")
    strides = [math.prod(torus[:axis]) for axis in range(len(torus))]
    for node, place in product(range(num_nodes), product(*(range(length) for length in torus))):
        for axis, length in enumerate(torus):
            after = (*place[:axis], (place[axis] + 1) % length, *place[axis + 1 :])
            a, b = (("device", node, sum(at * stride for at, stride in zip(each, strides, strict=True))) for each in (place, after))
            if a != b:
                join(graph, a, b, cluster.node.link, lanes=(2 if length == 2 else 1) / (2 * len(torus)))


def fault_of(num_axes: int, node: Node) -> str:
    """Why the node is no torus of so many axes."""
    if len(node.torus) != num_axes:
        return f"torus_{num_axes}d needs torus: the devices along {num_axes} axes, e.g. {[4] * num_axes}, not {list(node.torus)}"
    return _holds(node) if math.prod(node.torus) != node.devices_per_node else ""


def _holds(node: Node) -> str:
    return f"torus = {list(node.torus)} holds {math.prod(node.torus)} devices, not devices_per_node = {node.devices_per_node}"


TOPOLOGIES.register(
    "torus_2d", Topology("torus_2d", "node", build, "jax-ml/scaling-book@0819a7d8 tpus.md: TPU networking", lambda node: fault_of(2, node))
)
