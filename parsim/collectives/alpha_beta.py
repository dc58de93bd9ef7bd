"""Seconds of an algorithm that a plan names itself, by latency and bandwidth; where NCCL chooses, the fitted laws of `cluster` hold."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import nic_port, placement, rates
from parsim.cluster.scalars import Scalar
from parsim.collectives import Count, find
from parsim.errors import ParsimError


def alpha_beta_s(
    cluster: Cluster, operation: str, algorithm: str, *, elements: Count, itemsize_bytes: int, num_ranks: Count, stride: Count
) -> Scalar:
    """Seconds of a collective by one algorithm: start + steps x latency + busiest bytes / rate of the binding link.

    As many steps as the algorithm takes among the k nodes have the latency of the fabric, the others that of the node.

    Args:
        cluster: where the group lies.
        operation: all_reduce, all_gather ...
        algorithm: a name.
        elements: of the tensor on each rank; all_gather: of the gathered one.
        itemsize_bytes: of an element [bytes].
        num_ranks: ranks of the group, n; a group of 1 costs nothing.
        stride: distance between neighbours of the group [devices].

    Returns:
        Seconds, broadcast over the arguments; never faster than the wires.

    Raises:
        ParsimError: an unknown operation or algorithm, one that does not know the operation, one that needs a switch on a torus, or
            in_network where no switch of the group's adds.
        ScenarioError: a group that leaves its node in a cluster without a fabric.

    Source: Thakur et al. 2005, IJHPCA 19(1), for the form; steps within and across nodes as NVIDIA/nccl@01afd20a src/graph/tuning.cc.
    """
    chosen = find(operation, algorithm)
    ranks, distance, count = np.broadcast_arrays(*(np.asarray(value, dtype=np.int64) for value in (num_ranks, stride, elements)))
    inside, nodes = (
        np.asarray(each, dtype=np.int64) for each in placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    )
    _check(cluster, operation, algorithm, in_node=bool(np.all(nodes <= 1)))
    busiest_bytes = np.asarray(chosen.busiest_elements(operation, ranks, count)) * itemsize_bytes
    rate, wire = _rates(cluster, operation, algorithm, ranks, distance, inside)
    latency_s = _latency_s(cluster, np.asarray(chosen.num_steps(operation, ranks)), np.asarray(chosen.num_steps(operation, nodes)))
    seconds: Scalar = np.where(ranks > 1, np.maximum(latency_s + busiest_bytes / rate, busiest_bytes / wire), 0.0)[()]
    return seconds


def _check(cluster: Cluster, operation: str, algorithm: str, *, in_node: bool) -> None:
    if cluster.node.torus and algorithm not in ("bidirectional_ring", "ring"):
        raise ParsimError(f"{algorithm} needs a switch, and the node is a torus", where="collective", remedy="Choose ring.")
    if algorithm == "in_network" and not (cluster.node.switch_adds and in_node):
        remedy = "Choose ring or tree, or groups within a node whose row says switch_adds."
        raise ParsimError(f"in_network {operation} where no switch adds", where="collective", remedy=remedy)


def _latency_s(cluster: Cluster, num_steps: NDArray[np.int64], across: NDArray[np.int64]) -> NDArray[np.float64]:
    """Start and steps; `across` are those between nodes, 0 where all ranks lie in one."""
    law, fabric = cluster.node.law, cluster.fabric
    across_s = fabric.start_s + across * fabric.ring_step_s if fabric else across * 0.0
    return np.asarray(np.where(across > 0, across_s, law.start_s) + np.maximum(num_steps - across, 0) * law.step_s)


def _rates(
    cluster: Cluster, operation: str, algorithm: str, ranks: NDArray[np.int64], distance: NDArray[np.int64], inside: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the busiest port reaches, and what its wires could carry [bytes/s]; plans share few kinds of groups."""
    kinds, which = np.unique(np.stack([ranks.reshape(-1), distance.reshape(-1), inside.reshape(-1)]), axis=1, return_inverse=True)
    found = np.array([_rates_of(cluster, operation, algorithm, *(int(each) for each in kind)) for kind in kinds.T])
    reached, wires = found[which.reshape(-1)].T
    return reached.reshape(ranks.shape), wires.reshape(ranks.shape)


def _rates_of(cluster: Cluster, operation: str, algorithm: str, num_ranks: int, stride: int, inside: int) -> tuple[float, float]:
    """The ring's rates on node link and NICs, as all_gather reaches them: no switch adds, and no rank combines for another unasked."""
    if num_ranks == 1:
        return inf, inf
    node, fabric = cluster.node, cluster.fabric
    by_node, by_nic = rates(cluster, operation if operation == "all_to_all" else "all_gather", num_ranks, stride)
    if operation == "all_to_all" or by_nic == inf or fabric is None:
        return min(by_node, by_nic), (node.link.bandwidth_bytes_per_s if by_nic == inf else inf)
    streams = inside / crossings(operation, algorithm, inside)
    port = cluster.nics_per_node * nic_port(node, fabric).bandwidth_bytes_per_s / node.devices_per_node
    link = node.link.bandwidth_bytes_per_s if inside > 1 else inf
    return min(by_node, by_nic * streams / inside), min(link, port * streams)


def crossings(operation: str, algorithm: str, inside: int) -> int:
    """At most how often the bytes of the busiest port leave, or enter, a node in which `inside` ranks of the group lie.

    Once along a ring, and where groups of the algorithm's own are the ranks of a node; as often as there are ranks where every one sends
    for itself.  Derived: a test counts the messages.

    >>> crossings("all_reduce", "ring", 8), crossings("all_reduce", "tree", 8), crossings("all_reduce", "direct", 8)
    (1, 2, 8)
    """
    if algorithm in ("bidirectional_ring", "ring") or getattr(find(operation, algorithm), "group_size", None) == inside:
        return 1
    if algorithm == "tree":
        return min(inside, 2 if inside & (inside - 1) == 0 else 3)
    return inside
