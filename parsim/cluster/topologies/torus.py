"""A torus of two or three axes: each device has a wire to both neighbours on each axis, the last to the first.

Two axes: TPU v3, v5e and v6e, Trainium; three: TPU v4 and v5p.
"""

import math
from functools import partial
from itertools import product

from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.topology import TOPOLOGIES, Graph, Topology, join


def build(graph: Graph, cluster: Cluster, num_nodes: int) -> None:
    """Devices joined along each axis by an equal part of their ports; on an axis of 2 both wires go to the one neighbour."""
    torus = cluster.node.torus
    strides = [math.prod(torus[:axis]) for axis in range(len(torus))]
    for node, place in product(range(num_nodes), product(*(range(length) for length in torus))):
        for axis, length in enumerate(torus):
            after = (*place[:axis], (place[axis] + 1) % length, *place[axis + 1 :])
            a, b = (("device", node, sum(at * stride for at, stride in zip(each, strides, strict=True))) for each in (place, after))
            if a != b:
                join(graph, a, b, cluster.node.link, lanes=(2 if length == 2 else 1) / (2 * len(torus)))


def fault(num_axes: int, node: Node) -> str:
    """Why the node is no torus of so many axes."""
    torus, held = list(node.torus), math.prod(node.torus)
    if len(torus) != num_axes:
        return f"torus_{num_axes}d needs torus: the devices along {num_axes} axes, e.g. {[4] * num_axes}, not {torus}"
    return f"torus = {torus} holds {held} devices, not devices_per_node = {node.devices_per_node}" if held != node.devices_per_node else ""


for axes in (2, 3):
    wiring = Topology("node", build, "jax-ml/scaling-book@0819a7d8 tpus.md: TPU networking", partial(fault, axes))
    TOPOLOGIES.register(f"torus_{axes}d", wiring)
