"""The price of a communication: its seconds, and the load that it puts on each link of its way while it takes them.

Pricing costs no more than its seconds; a load is worked out where somebody asks for it, from what the price keeps of its question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from parsim import units
from parsim.cluster.cluster import Cluster
from parsim.cluster.dispatch import by_node_s
from parsim.cluster.network import binding_link, collective_s, leaves_node, p2p_s, placement, rates
from parsim.cluster.ports import device_nic_rate, nic_port
from parsim.cluster.scalars import Floats, Ints, Scalar, floats, one_each, picoseconds
from parsim.cluster.sharing import ring_crossing
from parsim.cluster.sites import Reach, site_link_of, site_part, site_s, site_share, spread_of
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

MESSAGE: Final = "p2p"


class Price(Struct, frozen=True, eq=False, kw_only=True):
    """Seconds of a communication and the question that they answer; every array has one value per plan."""

    cluster: Cluster
    operation: str  # of a collective, MESSAGE, or "" for what passes no link between devices
    wire_bytes: Floats  # what one rank sends, by the algorithm in whose bytes the laws are fitted
    num_steps: Floats
    num_ranks: Floats
    stride: Floats
    seconds: Floats
    reach: Reach | None = None  # of a collective, over sites
    between_sites: NDArray[np.bool_] | None = None  # of a message
    waits_s: Scalar = 0.0  # beyond what its law says, whatever it sends
    inside_bytes: Floats | None = None  # through a rank's port into its node; None: what of the wire bytes does not leave it

    @property
    def ps(self) -> Ints:
        """The seconds as integer picoseconds."""
        return picoseconds(self.seconds)

    def where(self, happens: NDArray[Any]) -> Price:
        """The same price where the communication happens, and nothing elsewhere."""
        return replace(self, seconds=np.where(happens, self.seconds, 0.0))

    def later(self, seconds: Scalar) -> Price:
        """The same price where each communication waits so long before it begins."""
        return replace(self, seconds=self.seconds + seconds, waits_s=self.waits_s + seconds)


class Load(Struct, frozen=True, kw_only=True):
    """What one rank sends at full rate, while nobody else is on its links; every array has one value per plan.

    The latency is what an empty message takes; both parts add up to the picoseconds of the price.
    """

    latency_ps: Ints
    transfer_ps: Ints
    port_bytes_per_s: Floats  # through its port into the node
    nic_bytes_per_s: Floats  # through NICs
    nic_share: Floats  # nic_bytes_per_s over the device's even part of the node's NICs
    crossing: Floats  # the part of the NIC traffic that goes through uplinks
    site_bytes_per_s: Floats  # to other sites
    site_share: Floats  # the same over the device's even part of the site's link
    wires_share: Floats  # where devices have no ports of their own: the part that is taken of what their wires let them reach


def collective_price(
    cluster: Cluster,
    operation: str,
    wire_bytes: Scalar,
    num_steps: Scalar,
    num_ranks: Scalar,
    stride: Scalar,
    *,
    seconds: Scalar | None = None,
    reach: Reach | None = None,
) -> Price:
    """The price of a collective that all groups like this one run at the same time; arguments and errors as in `collective_s`.

    `seconds`: of an algorithm other than the one that the laws stand for; it sends the same bytes at its own pace.
    """
    _, (wire, steps, ranks, distance) = floats(wire_bytes, num_steps, num_ranks, stride)
    found = collective_s(cluster, operation, wire, steps, ranks, distance, reach=reach) if seconds is None else seconds
    return replace(_price(cluster, operation, wire, steps, ranks, distance, found), reach=reach)


def p2p_price(
    cluster: Cluster,
    payload_bytes: Scalar,
    stride: Scalar,
    *,
    num_ranks: Scalar = 2,
    between_sites: NDArray[np.bool_] | None = None,
    waits_s: Scalar = 0.0,
) -> Price:
    """The price of one message to the neighbour `stride` devices away; arguments and errors as in `p2p_s`.

    `waits_s`: how long its rank waits on top, for what is between sites.
    """
    _, (payload, distance, ranks) = floats(payload_bytes, stride, num_ranks)
    seconds = p2p_s(cluster, payload, distance, num_ranks=ranks, between_sites=between_sites) + waits_s
    found = _price(cluster, MESSAGE, payload, np.ones_like(payload), ranks, distance, seconds)
    return replace(found, between_sites=between_sites, waits_s=waits_s)


def private_price(cluster: Cluster, seconds: Scalar) -> Price:
    """The price of what passes no link between devices, such as a copy between a device and its host."""
    none = np.zeros(np.size(seconds))
    return _price(cluster, "", none, none, none, none, seconds)


def load_of(price: Price) -> Load:
    """The load that a price puts on links.

    A price that is not that of the laws, or none where nothing happens, carries the same bytes in its own time.

    Returns:
        Bytes per second of the time beyond the latency; 0 where nothing is sent between devices.
    """
    empty_ps, whole_ps = _law_ps(price, 0.0 * price.wire_bytes), _law_ps(price, price.wire_bytes)
    law_ps = whole_ps - np.minimum(empty_ps, whole_ps)
    latency_ps = np.minimum(whole_ps - law_ps, price.ps)
    transfer_ps = price.ps - latency_ps
    rate = np.where(law_ps > 0, price.wire_bytes * PS_PER_S / np.maximum(law_ps, 1), 0.0)
    gain = np.where(transfer_ps > 0, law_ps / np.maximum(transfer_ps, 1), 0.0)
    leaving = _nic_part(price)
    nic_share, nic_bytes_per_s, crossing = _through_nics(price, rate * leaving)
    port = rate * (1.0 - leaving) * gain
    to_sites = rate * gain * _site_part(price)
    if price.inside_bytes is not None:
        port = np.where(transfer_ps > 0, price.inside_bytes * PS_PER_S / np.maximum(transfer_ps, 1), 0.0)
    return Load(
        latency_ps=latency_ps,
        transfer_ps=transfer_ps,
        port_bytes_per_s=port,
        nic_bytes_per_s=nic_bytes_per_s * gain,
        nic_share=nic_share * gain,
        crossing=crossing,
        site_bytes_per_s=to_sites,
        site_share=to_sites / site_share(price.cluster, 0) if np.any(to_sites) else to_sites,
        wires_share=_of_wires(price, rate) * gain,
    )


def by_node_price(price: Price, inside_bytes: Ints, between_bytes: Ints) -> Price:
    """The price of an exchange by nodes in place of an all-to-all's; NICs are loaded with what passes between nodes."""
    seconds = by_node_s(price.cluster, inside_bytes, between_bytes, price.num_ranks, price.stride, reach=price.reach)
    leaving = _nic_part(price)
    wire = np.where(leaving > 0, between_bytes / np.where(leaving > 0, leaving, 1.0), inside_bytes)
    return replace(price, wire_bytes=wire, seconds=np.asarray(seconds), inside_bytes=np.asarray(inside_bytes, dtype=float))


def explain_collective(price: Price) -> str:
    """Text on the only plan, a fact a line: how its group lies on the nodes, which link binds, its numbers and their source, seconds."""
    cluster, operation = price.cluster, price.operation
    num_ranks, stride, wire_bytes = (int(each[0]) for each in (price.num_ranks, price.stride, price.wire_bytes))
    inside, nodes = (int(each) for each in placement(cluster.node.devices_per_node, num_ranks, stride, cluster.num_nodes))
    head = f"{operation} of {num_ranks} ranks, {stride} apart: {inside} a node on {nodes} node{'s' if nodes > 1 else ''}"
    if num_ranks == 1:
        return f"{head}; nothing is sent"
    by_node, by_nic = (float(each[0]) for each in rates(cluster, operation, num_ranks, stride))
    leaving = float(_nic_part(price)[0]) if operation == "all_to_all" else 0.0  # what stays passes no NIC, and what leaves no link inside
    lines = [head, f"{binding_link_of(price)} binds"]
    if np.isfinite(by_node):
        link = cluster.node.link
        reached = f"{_rate(by_node * (1.0 - leaving))} reached of {_rate(link.bandwidth_bytes_per_s)}{_by_part(1.0 - leaving)}"
        lines.append(f"{link.name}: {reached} ({cluster.node.source or link.source})")
    if cluster.fabric and np.isfinite(by_nic):
        port = nic_port(cluster.node, cluster.fabric)
        nics = f"{cluster.nics_per_node} x {_rate(port.bandwidth_bytes_per_s)}"
        groups = cluster.node.devices_per_node / inside
        sharing = f"shared by {groups:g} groups" if groups > 1 else "all for this group"
        reached = f"{_rate(by_nic * (leaving or 1.0))} reached{_by_part(leaving or 1.0)}"
        lines.append(f"{port.name}: {reached}; {nics} a node, {sharing} ({cluster.fabric.source or port.source})")
    wire_s = units.format(wire_bytes / min(by_node, by_nic), "s")
    seconds = units.format(float(price.seconds[0] - np.ravel(price.waits_s)[0]), "s")
    lines.append(f"{units.format(wire_bytes, 'bytes')} on the wire: {seconds}, of it {wire_s} at that rate")
    lines += _between_sites(price)
    return "\n  ".join(lines)


def binding_link_of(price: Price) -> str:
    """The name of the link that bounds a collective: what joins sites where that takes most of its time, else that of a large one."""
    spread = spread_of(price.cluster, price.num_ranks, price.stride, price.reach)
    if spread.sites[0] > 1:
        waiting_s, sent_s = site_s(price.cluster, price.operation, price.wire_bytes, price.num_ranks, spread, price.reach)
        if 2 * float(waiting_s[0] + sent_s[0]) > float(price.seconds[0]):
            return site_link_of(price.cluster).name
    return binding_link(price.cluster, price.operation, int(price.num_ranks[0]), int(price.stride[0]))


def _between_sites(price: Price) -> list[str]:
    """What there is to say of the way to other sites."""
    spread = spread_of(price.cluster, price.num_ranks, price.stride, price.reach)
    if spread.sites[0] < 2:
        return []
    link = site_link_of(price.cluster)
    waiting, sent = (
        units.format(float(each[0]), "s")
        for each in site_s(price.cluster, price.operation, price.wire_bytes, price.num_ranks, spread, price.reach)
    )
    place = f"{int(spread.inside[0])} ranks in each of {int(spread.sites[0])} sites"
    figures = f"{_rate(link.bandwidth_bytes_per_s)} a site, {units.format(link.latency_s, 's')}"
    return [f"{link.name} ({figures}): {place}; latencies {waiting}, bytes {sent} ({link.source or 'stated in the scenario'})"]


def _by_part(part: float) -> str:
    """Said of a rate at which not all bytes pass."""
    return f", by {100 * part:.3g} % of the bytes" if part < 1.0 else ""


def _rate(bytes_per_s: float) -> str:
    return units.format(bytes_per_s, "bytes/s")


def _price(cluster: Cluster, operation: str, wire: Floats, steps: Floats, ranks: Floats, distance: Floats, seconds: Scalar) -> Price:
    paid = one_each(np.asarray(seconds, dtype=np.float64), wire.size)
    return Price(cluster=cluster, operation=operation, wire_bytes=wire, num_steps=steps, num_ranks=ranks, stride=distance, seconds=paid)


def _law_ps(price: Price, wire: Floats) -> Ints:
    """Picoseconds by the laws if each rank sent so many bytes."""
    if price.operation == MESSAGE:
        return picoseconds(_message_s(price, wire))
    if price.operation:
        asked = wire, price.num_steps, price.num_ranks, price.stride
        return picoseconds(collective_s(price.cluster, price.operation, *asked, reach=price.reach) + price.waits_s)
    return price.ps


def _message_s(price: Price, wire: Floats) -> Scalar:
    return p2p_s(price.cluster, wire, price.stride, num_ranks=price.num_ranks, between_sites=price.between_sites) + price.waits_s


def _site_part(price: Price) -> Floats:
    """The part of what a rank sends that goes to other sites."""
    if price.cluster.num_sites == 1 or not price.operation:
        return np.zeros_like(price.wire_bytes)
    if price.operation == MESSAGE:
        return np.zeros_like(price.wire_bytes) + (0.0 if price.between_sites is None else price.between_sites)
    spread = spread_of(price.cluster, price.num_ranks, price.stride, price.reach)
    return np.where(spread.sites > 1, site_part(price.operation, price.num_ranks, spread), 0.0)


def _nic_part(price: Price) -> Floats:
    """The part of what a rank sends that its NIC carries; a ring leaves a node by each of the group's devices in turn."""
    cluster, ranks = price.cluster, price.num_ranks
    if price.operation == MESSAGE:
        return np.where(leaves_node(cluster, price.stride, ranks), 1.0, 0.0)
    inside, nodes = placement(cluster.node.devices_per_node, ranks, price.stride, cluster.num_nodes)
    each = (ranks - inside) / np.maximum(ranks - 1.0, 1.0) if price.operation == "all_to_all" else 1.0 / inside
    return np.where(np.greater(nodes, 1), each, 0.0)


def _through_nics(price: Price, rate: Floats) -> tuple[Floats, Floats, Floats]:
    """For traffic that leaves nodes: its share of a device's even part of the NICs, its bytes per second, the part that crosses uplinks."""
    cluster, fabric = price.cluster, price.cluster.fabric
    if fabric is None or not np.any(rate):
        return np.zeros_like(rate), np.zeros_like(rate), np.zeros_like(rate)
    part = device_nic_rate(cluster, fabric)
    share = rate / part if price.operation == MESSAGE else np.minimum(rate / part, 1.0)  # above 1 where the ranks of a node combine first
    crossing = ring_crossing(cluster, fabric, price.num_ranks, price.stride)
    return share, share * part, np.where(rate > 0.0, crossing, 0.0)


def _of_wires(price: Price, rate: Floats) -> Floats:
    node = price.cluster.node
    if not price.operation:
        return np.zeros_like(rate)
    if price.operation == MESSAGE:
        return np.minimum(rate / (node.link.bandwidth_bytes_per_s * node.p2p_efficiency), 1.0)
    by_node, _ = rates(price.cluster, price.operation, price.num_ranks, price.stride)
    return np.minimum(rate / by_node, 1.0)  # 0 where no rank has another in its node
