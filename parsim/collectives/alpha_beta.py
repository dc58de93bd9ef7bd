"""Seconds of an algorithm that a plan names itself, by latency and bandwidth; where NCCL chooses, the fitted laws of `cluster` hold."""

from __future__ import annotations

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import placement, rates
from parsim.cluster.ports import device_nic_rate, latency_s
from parsim.cluster.scalars import Floats, Ints, Scalar, floats
from parsim.cluster.sites import Reach, Spread, site_link_of, site_part, site_rate, spread_of
from parsim.collectives import ChunkTable, Count, find
from parsim.errors import ParsimError


def alpha_beta_s(
    cluster: Cluster,
    operation: str,
    algorithm: str,
    *,
    elements: Count,
    itemsize_bytes: int,
    num_ranks: Count,
    stride: Count,
    chunks: ChunkTable = None,
    reach: Reach | None = None,
) -> Scalar:
    """Seconds of a collective by one algorithm: start + steps x latency + busiest bytes / rate of the binding link.

    As many steps as the algorithm takes among the k nodes have the latency of the fabric, the others that of the node; as many as it
    takes among the sites wait for the link between them, too.

    Args:
        elements: of the tensor on each rank; all_gather: of the gathered one.
        itemsize_bytes: of an element [bytes].
        num_ranks: ranks of the group; a group of 1 costs nothing.
        stride: distance between neighbours of the group [devices].
        chunks: elements of each chunk, where they are not alike; see `ClosedForms`.
        reach: as in `collective_s`.

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
    busiest_bytes = np.asarray(chosen.busiest_elements(operation, ranks, count, chunks)) * itemsize_bytes
    rate, wire = _rates(cluster, operation, algorithm, ranks, distance, inside)
    started_s = _started_s(cluster, np.asarray(chosen.num_steps(operation, ranks)), np.asarray(chosen.num_steps(operation, nodes)))
    _, (members, apart) = floats(ranks, distance)
    spread = Spread(*(each.reshape(ranks.shape) for each in spread_of(cluster, members, apart, reach)))
    if np.any(spread.sites > 1):
        sites = np.asarray(spread.sites, dtype=np.int64)
        started_s = started_s + np.asarray(chosen.num_steps(operation, sites)) * np.where(sites > 1, site_link_of(cluster).latency_s, 0.0)
        rate = np.where(sites > 1, np.minimum(rate, _site_rate(cluster, operation, algorithm, ranks, spread, reach)), rate)
    seconds: Scalar = np.where(ranks > 1, np.maximum(started_s + busiest_bytes / rate, busiest_bytes / wire), 0.0)[()]
    return seconds


def _site_rate(cluster: Cluster, operation: str, algorithm: str, ranks: Ints, spread: Spread, reach: Reach | None) -> Floats:
    """What the busiest port reaches where its bytes leave a site: as often as they would leave a node of as many ranks."""
    rate, inside = site_rate(cluster, spread, reach), np.asarray(spread.inside, dtype=np.int64)
    if operation == "all_to_all":
        return rate / site_part(operation, np.asarray(ranks, dtype=np.float64), spread)
    return rate * inside / crossings(operation, algorithm, inside)


def _check(cluster: Cluster, operation: str, algorithm: str, *, in_node: bool) -> None:
    if cluster.node.torus and algorithm not in ("bidirectional_ring", "ring"):
        raise ParsimError(f"{algorithm} needs a switch, and the node is a torus", where="collective", remedy="Choose ring.")
    if algorithm == "in_network" and not (cluster.node.switch_adds and in_node):
        remedy = "Choose ring or tree, or groups within a node whose row says switch_adds."
        raise ParsimError(f"in_network {operation} where no switch adds", where="collective", remedy=remedy)


def _started_s(cluster: Cluster, num_steps: Ints, across: Ints) -> Floats:
    """Start and steps; `across` are those between nodes, 0 where all ranks lie in one."""
    law, fabric = cluster.node.law, cluster.fabric
    across_s = fabric.start_s + across * fabric.ring_step_s if fabric else across * 0.0
    inside = np.maximum(num_steps - across, 0)
    return latency_s(cluster, np.where(across > 0, across_s, law.start_s) + inside * law.step_s, inside=inside, across=across)


def _rates(cluster: Cluster, operation: str, algorithm: str, ranks: Ints, distance: Ints, inside: Ints) -> tuple[Floats, Floats]:
    """What the busiest port reaches, and what its wires could carry [bytes/s].

    The ring's rates on node link and NICs, as all_gather reaches them: no switch adds, and no rank combines for another unasked.
    """
    fabric, link = cluster.fabric, cluster.node.link.bandwidth_bytes_per_s
    law = operation if operation == "all_to_all" else "all_gather"
    by_node, by_nic = (each.reshape(ranks.shape) for each in rates(cluster, law, ranks, distance))
    if fabric is None or operation == "all_to_all":
        return np.minimum(by_node, by_nic), np.where(np.isfinite(by_nic), np.inf, link)
    streams = inside / crossings(operation, algorithm, inside)
    port_wires = device_nic_rate(cluster, fabric) * streams
    across = np.minimum(np.where(inside > 1, link, np.inf), port_wires)
    return np.minimum(by_node, by_nic * streams / inside), np.where(np.isfinite(by_nic), across, link)


def crossings(operation: str, algorithm: str, inside: Count) -> Count:
    """At most how often the bytes of the busiest port leave, or enter, a node in which `inside` ranks of the group lie.

    Once along a ring, and where groups of the algorithm's own are the ranks of a node; as often as there are ranks where every one sends
    for itself.  Derived: a test counts the messages.

    >>> [int(crossings("all_reduce", algorithm, 8)) for algorithm in ("ring", "tree", "direct")]
    [1, 2, 8]
    """
    if algorithm in ("bidirectional_ring", "ring"):
        return np.ones_like(inside)
    most = np.where(np.bitwise_and(inside, inside - 1) == 0, 2, 3) if algorithm == "tree" else inside
    return np.where(np.equal(inside, getattr(find(operation, algorithm), "group_size", 0)), 1, np.minimum(inside, most))
