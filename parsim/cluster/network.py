"""Seconds of collectives and messages by the fitted laws of nodes and fabrics, over arrays with one value per plan.

A group of n ranks, `stride` devices apart, has g ranks in each of k nodes.  In one node the node's law holds; across nodes the
groups of a node share its NICs evenly, and the slower of node and NICs sets the bandwidth; sites.py has what is between sites.
price.py adds the load on each link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import AllToAllLaw, CollectiveLaw
from parsim.cluster.ports import device_nic_rate, fabric_of, latency_s, nic_port
from parsim.cluster.scalars import Floats, Scalar, floats, reshape
from parsim.cluster.sharing import all_to_all_uplinks, ring_uplinks, torus_hops, torus_share
from parsim.cluster.sites import Asked, Reach, over_sites_s, site_share, spread_of
from parsim.errors import ScenarioError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "reduce", "broadcast")
_SPLIT = ("all_reduce", "all_gather", "reduce_scatter")  # ranks of a node can first combine what leaves it
_CHUNKED = (*_SPLIT, "all_to_all")  # a rank keeps a chunk of what it holds
SWITCH_STEPS = 2.0  # up to the switch that adds, and down
SWITCH_ADDS_ABOVE = 4  # ranks; NCCL uses NVLink SHARP above it.  Source: NVIDIA/nccl@5067397c src/graph/tuning.cc, measured sweeps


def placement(devices_per_node: int, num_ranks: Scalar, stride: Scalar, num_nodes: int = 1) -> tuple[Floats, Floats]:
    """The ranks of a group in one node, g, and the nodes it spans, k; devices are numbered node by node.

    On several nodes, groups that do not divide a node leave one of them across two: that one sets the pace.

    >>> tuple(int(each) for each in placement(8, 16, 2))
    (4, 4)
    >>> tuple(int(each) for each in placement(8, 5, 1, num_nodes=5))
    (3, 2)
    """
    inside = np.clip(np.floor_divide(devices_per_node, np.maximum(stride, 1.0)), 1.0, np.maximum(num_ranks, 1.0))
    nodes = np.ceil(num_ranks / inside)
    span = np.maximum(num_ranks * stride, 1.0)  # devices that a block of such groups takes
    straddles = np.greater(num_ranks, 1) & (span < devices_per_node) & (np.fmod(devices_per_node, span) != 0) & (num_nodes > 1)
    return np.where(straddles, np.ceil(inside / 2), inside), np.where(straddles, 2.0, nodes)


def collective_s(
    cluster: Cluster,
    operation: str,
    wire_bytes: Scalar,
    num_steps: Scalar,
    num_ranks: Scalar,
    stride: Scalar,
    *,
    reach: Reach | None = None,
) -> Scalar:
    """Seconds of a collective that all groups like this one run at the same time.

    Groups are symmetric: while one talks, so do the others, and those of a node share its NICs evenly.

    Args:
        wire_bytes: what one rank sends, by the ring: 2 (n - 1) / n of the payload for all_reduce [bytes].
        num_steps: of the algorithm, one after another: 2 (n - 1) for a ring all_reduce.
        num_ranks: ranks of the group, n; a group of 1 costs nothing.
        stride: distance in ranks between neighbours of the group, the product of the faster mesh axes.
        reach: how far the group lies over sites; None: its ranks and strides side by side.

    Returns:
        Seconds, broadcast over the arguments; never faster than the wires.

    Raises:
        ScenarioError: an unknown operation, or a group that leaves its node in a cluster without a fabric.

    Source: form fitted to public nccl-tests sweeps (rows `law` of nodes, and fabrics, in the catalog).
    """
    _check_operation(operation)
    shape, (wire, steps, ranks, distance) = floats(wire_bytes, num_steps, num_ranks, stride)
    asked = Asked(wire, steps, ranks, distance)
    seconds, sites = _in_site_s(cluster, operation, *asked), spread_of(cluster, ranks, distance, reach).sites
    if (sites > 1).any():
        across = over_sites_s(cluster, operation, asked, reach, lambda own: _in_site_s(cluster, operation, *own))
        seconds = np.where(sites > 1, across, seconds)
    return reshape(np.where(ranks > 1, seconds, 0.0), shape)


def _in_site_s(cluster: Cluster, operation: str, wire: Floats, steps: Floats, ranks: Floats, distance: Floats) -> Floats:
    """Seconds where no rank lies in another site."""
    inside, nodes = placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    seconds = in_node_s(cluster, operation, wire, steps, ranks, distance)
    if (nodes > 1).any():
        fabric = fabric_of(cluster)
        across = _all_to_all_s if operation == "all_to_all" else _across_s
        seconds = np.where(nodes > 1, across(cluster, fabric, operation, wire, ranks, distance, inside, nodes), seconds)
    return seconds


def p2p_s(
    cluster: Cluster, payload_bytes: Scalar, stride: Scalar, *, num_ranks: Scalar = 2, between_sites: NDArray[np.bool_] | None = None
) -> Scalar:
    """Seconds of one message to the neighbour `stride` devices away, by the slowest hop of the chain.

    A whole stage sends at once, so min(stride, devices_per_node) devices of a node share its NICs.

    One device sends `payload_bytes`; the chain of `num_ranks` neighbours stays in a node while stride num_ranks devices fit.  Where it
    goes `between_sites` it has left no sooner than the bytes of all devices that send at once there; the link's latency comes on top.

    Returns:
        start + payload / bandwidth + ramp sqrt(payload), broadcast over the arguments; 0 where num_ranks is 1.

    Raises:
        ScenarioError: a chain that leaves its node in a cluster without a fabric.

    Source: form fitted to public sendrecv sweeps (rows of nodes and fabrics in the catalog).
    """
    shape, (payload, distance, ranks) = floats(payload_bytes, stride, num_ranks)
    node = cluster.node
    start_s = node.link.latency_s if node.p2p_start_s is None else float(latency_s(cluster, node.p2p_start_s, inside=1.0))
    seconds = start_s + payload / (node.link.bandwidth_bytes_per_s * node.p2p_efficiency)
    if few := node.p2p_narrow:
        seconds = np.maximum(seconds, start_s + np.minimum(payload, few.until_bytes) / (node.link.bandwidth_bytes_per_s * few.efficiency))
    crosses = leaves_node(cluster, distance, ranks)
    if crosses.any():
        fabric = fabric_of(cluster)
        nics = np.minimum(cluster.nics_per_node / np.clip(distance, 1.0, node.devices_per_node), 1.0)  # one message leaves by one NIC
        uplinks = ring_uplinks(cluster, fabric, ranks, distance)
        rate = nics * uplinks * (nic_port(node, fabric).bandwidth_bytes_per_s * fabric.p2p_efficiency)
        across = latency_s(cluster, fabric.p2p_start_s, across=1.0) + payload / rate + fabric.p2p_ramp_s_per_sqrt_byte * np.sqrt(payload)
        seconds = np.where(crosses, across, seconds)
    if between_sites is not None and np.any(between_sites):
        starting_s = latency_s(cluster, fabric_of(cluster).p2p_start_s, across=1.0)
        far_s = np.maximum(seconds, starting_s + payload / site_share(cluster, distance))
        seconds = np.where(between_sites, far_s, seconds)
    return reshape(np.where(ranks > 1, seconds, 0.0), shape)


def leaves_node(cluster: Cluster, distance: Floats, ranks: Floats) -> NDArray[np.bool_]:
    """Whether a chain of neighbours is longer than a node, so that its slowest hop goes through NICs."""
    return (distance * ranks > cluster.node.devices_per_node) & (ranks > 1)


def rates(cluster: Cluster, operation: str, num_ranks: Scalar, stride: Scalar) -> tuple[Floats, Floats]:
    """The bytes per second of wire traffic that a rank's node link, and its group's share of the NICs, let a large collective reach.

    One value per plan; infinite for what the group does not use.
    """
    _check_operation(operation)
    _, (ranks, distance) = floats(num_ranks, stride)
    inside, nodes = placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    by_node = np.where(inside > 1, _node_rate(cluster.node, operation, inside, distance), np.inf)
    if not (nodes > 1).any():
        return by_node, np.full_like(by_node, np.inf)
    fabric = fabric_of(cluster)
    if operation != "all_to_all":
        by_nic = _nic_rate(cluster, fabric, operation, ranks, distance, inside, nodes)
        return by_node, np.where(nodes > 1, by_nic, np.inf)
    leaving = (ranks - inside) / np.maximum(ranks - 1.0, 1.0)  # of what a rank sends
    law, uplinks = _exchange(fabric), all_to_all_uplinks(cluster, fabric, ranks, distance, inside, nodes)
    charged = leaving + law.in_turn * (1.0 - leaving)
    by_nic = device_nic_rate(cluster, fabric) * uplinks * law.efficiency / np.where(nodes > 1, charged, 1.0)
    return by_node / (1.0 - leaving), np.where(nodes > 1, by_nic, np.inf)


def binding_link(cluster: Cluster, operation: str, num_ranks: int, stride: int) -> str:
    """The name of the link that bounds a large collective: the node's link, the NIC, its uplink, or "" for a group of 1."""
    by_node, by_nic = (float(each[0]) for each in rates(cluster, operation, num_ranks, stride))
    if by_nic < by_node:
        fabric = fabric_of(cluster)
        return uplink_name(fabric) if uplink_share(cluster, operation, num_ranks, stride) < 1.0 else nic_port(cluster.node, fabric).name
    return cluster.node.link.name if np.isfinite(by_node) else ""


def uplink_name(fabric: Fabric) -> str:
    """The name of the wires between a leaf and the spines."""
    return f"{fabric.nic.name} uplink"


def uplink_share(cluster: Cluster, operation: str, num_ranks: int, stride: int) -> float:
    """The share of its NIC rate that the uplinks of oversubscribed leaves let a group keep; 1 where its traffic stays on leaves."""
    _, (ranks, distance) = floats(num_ranks, stride)
    fabric, (inside, nodes) = fabric_of(cluster), placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    if operation == "all_to_all":
        return float(all_to_all_uplinks(cluster, fabric, ranks, distance, inside, nodes)[0])
    return float(ring_uplinks(cluster, fabric, ranks, distance)[0])


def _check_operation(operation: str) -> None:
    if operation not in OPERATIONS:
        hint = did_you_mean(operation, OPERATIONS)
        raise ScenarioError(f"unknown operation '{operation}'{hint}", where="collective", remedy=f"Known: {', '.join(OPERATIONS)}.")


def in_node_s(cluster: Cluster, operation: str, wire: Floats, steps: Floats, ranks: Floats, distance: Floats) -> Floats:
    """By the law, or by the switch where that is quicker; no faster than the link."""
    node = cluster.node
    if node.torus:
        steps = steps * torus_hops(node.torus, ranks, distance) / np.maximum(ranks - 1.0, 1.0)
    seconds = _law_s(cluster, node.law_of(operation), operation, wire, steps, ranks, distance)
    if operation == "all_reduce" and node.in_switch:
        by_switch = _law_s(cluster, node.in_switch, operation, wire, np.full_like(steps, SWITCH_STEPS), ranks, distance)
        seconds = np.where(ranks > SWITCH_ADDS_ABOVE, np.minimum(seconds, by_switch), seconds)
    return np.maximum(seconds, wire / _link_limit(node, operation, ranks))


def _law_s(cluster: Cluster, law: CollectiveLaw, operation: str, wire: Floats, steps: Floats, ranks: Floats, distance: Floats) -> Floats:
    """The quickest of the law's protocols; the wires of a link that is faster than the law's shorten all but its latencies."""
    node = cluster.node
    faster, share = _faster_link(node, law), _group_share(node, ranks, distance)
    ramp = law.ramp_s_per_sqrt_byte / np.sqrt(faster)
    started_s = latency_s(cluster, law.start_s + steps * law.step_s, inside=steps)
    seconds: Floats = started_s + wire / _law_rate(node, law, operation, ranks, distance) + ramp * np.sqrt(wire)
    for each in law.small:
        started_s = latency_s(cluster, each.start_s + steps * each.step_s, inside=steps)
        seconds = np.minimum(seconds, started_s + wire / (each.bandwidth_bytes_per_s * faster * share))
    return seconds


def _node_rate(node: Node, operation: str, ranks: Floats, distance: Floats) -> Floats:
    """What a rank sends a second, in a large collective, among the `ranks` of its group in the node [bytes/s]."""
    rate = _law_rate(node, node.law_of(operation), operation, ranks, distance)
    if operation == "all_reduce" and node.in_switch:
        by_switch = _law_rate(node, node.in_switch, operation, ranks, distance)
        rate = np.where(ranks > SWITCH_ADDS_ABOVE, np.maximum(rate, by_switch), rate)
    return rate


def _law_rate(node: Node, law: CollectiveLaw, operation: str, ranks: Floats, distance: Floats) -> Floats:
    added = (ranks > SWITCH_ADDS_ABOVE) & (operation == "all_reduce")
    rate: Floats = np.where(added, law.all_reduce_bytes_per_s, law.ring_bytes_per_s) * _faster_link(node, law)
    turns = np.maximum(ranks - 1.0, 1.0) * (2.0 if operation == "all_reduce" else 1.0)
    own_chunk = law.own_chunk if operation in _CHUNKED else 0.0
    return rate * _group_share(node, ranks, distance) / (1.0 + own_chunk / turns)


def _faster_link(node: Node, law: CollectiveLaw) -> float:
    """The node's link over the one that its law was fitted on."""
    return node.link.bandwidth_bytes_per_s / law.link_bytes_per_s if law.link_bytes_per_s else 1.0


def _group_share(node: Node, ranks: Floats, distance: Floats) -> Floats:
    share = torus_share(node.torus, ranks, distance) if node.torus else np.ones_like(ranks)
    for members, apart, part in node.group_share:
        share = np.where((ranks == members) & (distance == apart), share * part, share)
    return share


def _link_limit(node: Node, operation: str, ranks: Floats) -> Floats:
    """What no collective can beat: a rank's link, or 2 (n - 1) / (n + 1) of it where the switch adds and multicasts (NVLink SHARP).

    Derived: a rank sends (n + 1) / n of the payload there instead of the ring's 2 (n - 1) / n.
    """
    switch = node.switch_adds and operation == "all_reduce"
    gain = np.where((ranks > SWITCH_ADDS_ABOVE) & switch, np.maximum(1.0, 2.0 * (ranks - 1.0) / (ranks + 1.0)), 1.0)
    return node.link.bandwidth_bytes_per_s * gain


def _across_s(
    cluster: Cluster, fabric: Fabric, operation: str, wire: Floats, ranks: Floats, distance: Floats, inside: Floats, nodes: Floats
) -> Floats:
    """Ring and tree collectives over k > 1 nodes; what it gives for k = 1 is not used."""
    by_nic = _nic_rate(cluster, fabric, operation, ranks, distance, inside, nodes)
    rate = np.where(inside > 1, np.minimum(_node_rate(cluster.node, operation, inside, distance), by_nic), by_nic)
    seconds = (_trees_s if operation == "all_reduce" else _rings_s)(cluster, fabric, wire, ranks, nodes, rate)
    at_node = np.where(inside > 1, wire / _link_limit(cluster.node, operation, inside), 0.0)
    at_nics = wire / (inside * device_nic_rate(cluster, fabric) * _combining_gain(operation, ranks, nodes))
    return np.maximum(seconds, np.maximum(at_node, at_nics))


def _trees_s(cluster: Cluster, fabric: Fabric, wire: Floats, ranks: Floats, nodes: Floats, rate: Floats) -> Floats:
    """An all-reduce along trees; by the small law, or along a ring, where that is quicker and the fabric's row knows it.

    Up and down: a chain through the ranks of a node, a tree of nodes.  Source: NVIDIA/nccl@01afd20a src/graph/tuning.cc.
    """
    doublings = np.log2(np.maximum(nodes, 2.0))
    up_and_down = {"inside": 2.0 * (ranks / nodes - 1.0), "across": 2.0 * doublings}
    ramp_s = fabric.ramp_s_per_sqrt_byte * np.sqrt(wire * doublings)
    seconds = latency_s(cluster, fabric.start_s + fabric.hop_s * doublings, **up_and_down) + wire / rate + ramp_s
    if small := fabric.small:
        payload = wire * ranks / (2.0 * np.maximum(ranks - 1.0, 1.0))
        sent_s = np.maximum(payload / small.bandwidth_bytes_per_s, wire / rate)
        ramp_s = small.ramp_s_per_sqrt_byte * np.sqrt(payload)
        started_s = latency_s(cluster, small.start_s + small.hop_s * doublings, **up_and_down)
        seconds = np.minimum(seconds, started_s + sent_s + ramp_s)
    if fabric.all_reduce_ring_step_s is not None:
        steps = 2.0 * (nodes - 1.0)
        started_s = latency_s(cluster, steps * fabric.all_reduce_ring_step_s, inside=2.0 * (ranks - nodes), across=steps)
        seconds = np.minimum(seconds, started_s + wire / rate)
    return seconds


def _rings_s(cluster: Cluster, fabric: Fabric, wire: Floats, ranks: Floats, nodes: Floats, rate: Floats) -> Floats:
    """What goes along rings: a step for each further node, which the law states with those between the ranks of a node.

    Measured on 2 to 32 AWS p5 nodes, all-gather: linear fits with a median error of 7 %, the logarithm with 44 %
    (crazyguitar/aws-gpu-communication-benchmark).
    """
    steps = nodes - 1.0
    start_s, ramp = fabric.start_s + fabric.ring_start_s, fabric.ring_ramp_s_per_sqrt_byte
    started_s = latency_s(cluster, start_s + steps * fabric.ring_step_s, inside=ranks - nodes, across=steps)
    seconds = started_s + wire / rate + ramp * np.sqrt(wire)
    for each in fabric.ring_small:
        sent_s = wire / np.minimum(each.bandwidth_bytes_per_s, rate)
        started_s = latency_s(cluster, each.start_s + steps * each.step_s, inside=ranks - nodes, across=steps)
        seconds = np.minimum(seconds, started_s + sent_s)
    return seconds


def _combining_gain(operation: str, ranks: Floats, nodes: Floats) -> Floats:
    """How much less than a ring's traffic has to cross the NICs when the ranks of a node combine first: (n - 1) k / (n (k - 1)).

    Source: the hierarchical all-reduce's 2 (k - 1) / k of the payload a node, over the ring's 2 (n - 1) / n.
    """
    if operation not in _SPLIT:
        return np.ones_like(ranks)
    return np.maximum(ranks - 1.0, 1.0) * nodes / (ranks * np.maximum(nodes - 1.0, 1.0))


def _nic_rate(cluster: Cluster, fabric: Fabric, operation: str, ranks: Floats, distance: Floats, inside: Floats, nodes: Floats) -> Floats:
    share = inside * device_nic_rate(cluster, fabric) * ring_uplinks(cluster, fabric, ranks, distance)
    if operation != "all_reduce":
        return share * (fabric.efficiency if fabric.ring_efficiency is None else fabric.ring_efficiency)
    gain = np.minimum(fabric.two_node_gain, np.maximum(_combining_gain(operation, ranks, nodes), 1.0))
    used = min((fabric.all_reduce_nics or cluster.nics_per_node) / max(cluster.nics_per_node, 1), 1.0)
    part = np.where(inside > 1, np.minimum(used * cluster.node.devices_per_node / inside, 1.0), 1.0)
    return share * part * fabric.efficiency * np.where(nodes <= fabric.gain_nodes, gain, 1.0)


def _all_to_all_s(
    cluster: Cluster, fabric: Fabric, operation: str, wire: Floats, ranks: Floats, distance: Floats, inside: Floats, nodes: Floats
) -> Floats:
    """Each device's NIC share carries what leaves the node, while the node's links carry the rest; for k > 1 nodes."""
    law = _exchange(fabric)
    leaving = wire * (ranks - inside) / np.maximum(ranks - 1.0, 1.0)
    staying_s = np.where(inside > 1, (wire - leaving) / _node_rate(cluster.node, operation, inside, distance), 0.0)
    by_nic = device_nic_rate(cluster, fabric) * all_to_all_uplinks(cluster, fabric, ranks, distance, inside, nodes)
    charged = leaving + law.in_turn * (wire - leaving)
    sent_s = np.maximum(staying_s, charged / (by_nic * law.efficiency))
    started_s = latency_s(cluster, law.start_s, inside=inside - 1.0, across=ranks - inside)
    seconds = started_s + sent_s + law.ramp_s_per_sqrt_byte * np.sqrt(leaving * ranks)
    return np.maximum(seconds, np.maximum(leaving / by_nic, (wire - leaving) / cluster.node.link.bandwidth_bytes_per_s))


def all_to_all_rates(cluster: Cluster, ranks: Floats, distance: Floats, inside: Floats, nodes: Floats) -> tuple[Floats, Floats]:
    """Seconds until an all-to-all between nodes has started, and the bytes per second that a device's NICs carry there; of k > 1 nodes."""
    fabric = fabric_of(cluster)
    law, uplinks = _exchange(fabric), all_to_all_uplinks(cluster, fabric, ranks, distance, inside, nodes)
    started_s = latency_s(cluster, law.start_s, inside=1.0, across=1.0)
    return started_s, device_nic_rate(cluster, fabric) * uplinks


def _exchange(fabric: Fabric) -> AllToAllLaw:
    return fabric.all_to_all or AllToAllLaw(fabric.start_s, fabric.efficiency, 0.0)
