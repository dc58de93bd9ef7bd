"""Shares of a rate that a group keeps while groups like it send at the same time: on the axes of a torus, and on the uplinks of leaves.

network.py multiplies its rates by these shares.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from parsim.cluster.cluster import Cluster, Fabric
from parsim.cluster.scalars import Floats

if TYPE_CHECKING:
    from numpy.typing import NDArray


def torus_share(torus: tuple[int, ...], ranks: Floats, distance: Floats) -> Floats:
    """The share of a device's links that a group of `ranks` devices, `distance` apart, keeps busy on a torus.

    An axis has as many links as any other.  A group that spans a whole axis sends both ways round it; one that spans a part of it has
    a line without the way back, which halves its rate; groups that interleave on an axis share its wires evenly.

    Source: jax-ml/scaling-book@0819a7d8, sharding.md: an axis without wraparound has half the bandwidth; interleaving is derived here.

    >>> [torus_share((4, 4), np.array([n]), np.array([s])).item() for n, s in ((16.0, 1.0), (4.0, 1.0), (2.0, 1.0), (2.0, 2.0))]
    [1.0, 0.5, 0.25, 0.25]
    """
    share = np.zeros_like(ranks)
    for _, wraps, interleaved, used in _axes(torus, ranks, distance):
        share = share + np.where(used, np.where(wraps, 1.0, 0.5) / interleaved, 0.0)
    return np.where(share > 0.0, share / len(torus), 1.0)


def torus_hops(torus: tuple[int, ...], ranks: Floats, distance: Floats) -> Floats:
    """The steps of an all-gather on a torus: axis by axis, half way round each whole axis from both sides, or along a part of it.

    Source: jax-ml/scaling-book@0819a7d8, sharding.md.

    >>> torus_hops((4, 4, 4), np.array([64.0]), np.array([1.0])).item()
    6.0
    """
    hops = np.zeros_like(ranks)
    for extent, wraps, interleaved, used in _axes(torus, ranks, distance):
        steps = np.where(wraps, np.ceil(extent / 2.0), extent - 1.0) * interleaved
        hops = hops + np.where(used, steps, 0.0)
    return np.where(hops > 0.0, hops, ranks - 1.0)


def _axes(torus: tuple[int, ...], ranks: Floats, distance: Floats) -> Iterator[tuple[NDArray[Any], ...]]:
    """For each axis: the group's ranks along it, whether they span all of it, how many groups interleave on it, and whether it is used."""
    period = 1.0
    for length in torus:
        first, end = np.maximum(distance, period), np.minimum(distance * ranks, period * length)
        yield end / first, end >= period * length, first / period, end > first
        period *= length


def ring_uplinks(cluster: Cluster, fabric: Fabric, ranks: Floats, distance: Floats) -> Floats:
    """The share of its NIC rate that a ring keeps on the uplinks of its leaves, while all rings like it send.

    Neighbours on a ring are d nodes apart, so d nodes of a leaf send beyond it, unless the whole ring stays on the leaf.

    Source: min(1, 1 / (oversubscription x share of the traffic that crosses)): a leaf's uplinks, shared evenly by what crosses them.
    """
    return _share_kept(fabric, ring_crossing(cluster, fabric, ranks, distance))


def ring_crossing(cluster: Cluster, fabric: Fabric, ranks: Floats, distance: Floats) -> Floats:
    """The part of a leaf's traffic that leaves the leaf: that of d nodes, or none where the whole ring stays on it."""
    apart = np.maximum(distance / cluster.node.devices_per_node, 1.0)
    nodes = np.ceil(ranks * distance / cluster.node.devices_per_node)
    return np.where(nodes > fabric.nodes_per_leaf, np.minimum(apart / fabric.nodes_per_leaf, 1.0), 0.0)


def all_to_all_uplinks(cluster: Cluster, fabric: Fabric, ranks: Floats, distance: Floats, inside: Floats, nodes: Floats) -> Floats:
    """The share of its NIC rate that an all-to-all keeps on the uplinks: what goes to peers under other leaves crosses them."""
    apart = np.maximum(distance / cluster.node.devices_per_node, 1.0)
    under_leaf = inside * np.clip(np.floor(fabric.nodes_per_leaf / apart), 1.0, nodes)
    return _share_kept(fabric, (ranks - under_leaf) / np.maximum(ranks - inside, 1.0))


def _share_kept(fabric: Fabric, crossing: Floats) -> Floats:
    return 1.0 / np.maximum(fabric.oversubscription * crossing, 1.0)
