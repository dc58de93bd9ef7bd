"""What passes between sites: which groups and messages do, how many bytes of a collective, and how long that takes.

A site's link carries what all its devices send to other sites, shared evenly by those that send at once.  Between sites nothing is fitted:
a message takes the link's latency and its bytes over the share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.link import Link
from parsim.cluster.ports import device_nic_rate, fabric_of, latency_s
from parsim.cluster.scalars import Floats, Scalar
from parsim.errors import ScenarioError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Reach(NamedTuple):
    """How far the ranks of a group lie apart, and who sends when they do."""

    span: Scalar  # devices from the first to the last of them, those in between and beside them included
    together: Scalar  # devices of a site that send at the same time, a rank of the group there; 0: all of them


class Asked(NamedTuple):
    """What a collective sends, as the laws are asked: see `collective_s`."""

    wire: Floats
    steps: Floats
    ranks: Floats
    distance: Floats


class Spread(NamedTuple):
    """The ranks of a group in one site, and the sites that it spans."""

    inside: Floats
    sites: Floats


def site_link_of(cluster: Cluster) -> Link:
    """What joins a site to the others.

    Raises:
        ScenarioError: there is none.
    """
    if cluster.site_link is None:
        raise ScenarioError("a group leaves its site, and no link joins the sites", where="cluster", remedy="Give cluster.site_link.")
    return cluster.site_link


def spread_over_sites(cluster: Cluster, ranks: Floats, span: Scalar) -> Spread:
    """Where a group lies; groups follow one another, and that which touches most sites sets the pace of all.

    >>> from types import SimpleNamespace
    >>> two = SimpleNamespace(num_sites=2, devices_per_site=24)
    >>> [tuple(int(each) for each in spread_over_sites(two, np.array(n), s)) for n, s in ((24.0, 24), (48.0, 48), (2.0, 16), (2.0, 48))]
    [(24, 1), (24, 2), (1, 2), (1, 2)]
    """
    devices, reached = cluster.devices_per_site, np.maximum(np.asarray(span, dtype=np.int64), 1)
    touched = np.ceil((devices - np.gcd(reached, devices) + reached) / devices)
    sites = np.minimum(np.minimum(touched, cluster.num_sites), np.maximum(ranks, 1.0))
    return Spread(np.ceil(ranks / sites), sites)


def leaves_site(cluster: Cluster, rank: Scalar, to: Scalar, num_ranks: Scalar, stride: Scalar) -> NDArray[np.bool_]:
    """Whether a message from one rank of a pipeline to another goes to another site, in any of the pipelines.

    Pipelines of num_ranks x stride devices follow one another, so that they begin, modulo a site, at each multiple of the greatest common
    divisor of both.

    >>> from types import SimpleNamespace
    >>> two = SimpleNamespace(num_sites=2, devices_per_site=16)
    >>> [bool(leaves_site(two, rank, rank + 1, 4, 8)) for rank in range(3)]  # 4 ranks of 8 devices each
    [False, True, False]
    """
    start, end = np.minimum(rank, to) * np.asarray(stride), np.maximum(rank, to) * np.asarray(stride)
    step = np.gcd(np.asarray(num_ranks) * np.asarray(stride), cluster.devices_per_site)
    found: NDArray[Any] = ((end + stride - 1) // step > start // step) & (end > start) & (cluster.num_sites > 1)
    return found


def site_part(operation: str, ranks: Floats, spread: Spread) -> Floats:
    """What a rank sends to other sites over what it sends in all, by the algorithm in whose bytes the laws are fitted.

    Of what is reduced or gathered 2 (s - 1) / s of the payload (all_reduce) or half of it leave a site, cut among the ranks there: they
    combine first.  Source: Jia et al. 2018 (arXiv:1807.11205), hierarchical all-reduce; the ring's bytes are n / (n - 1) of all chunks.
    """
    inside, sites = spread
    whole = ranks / np.maximum(ranks - 1.0, 1.0)
    if operation == "all_to_all":
        return np.where(sites > 1, (ranks - inside) / np.maximum(ranks - 1.0, 1.0), 0.0)
    if operation in ("reduce", "broadcast"):  # the payload once for each further site
        return (sites - 1.0) / np.maximum(ranks - 1.0, 1.0) / inside
    return whole * (sites - 1.0) / sites / inside


def site_latencies(operation: str, sites: Floats) -> Floats:
    """The messages between sites that follow one another: of an exchange all are on their way at once, others go along a ring of sites."""
    steps = sites - 1.0
    return np.minimum(steps, 1.0) if operation == "all_to_all" else steps * (2.0 if operation == "all_reduce" else 1.0)


def site_share(cluster: Cluster, together: Scalar) -> Floats:
    """What a device can send to other sites a second, while so many of its site do; all of them where that is 0."""
    devices = cluster.devices_per_site
    sharing = np.where(np.greater(together, 0), np.clip(together, 1, devices), devices)
    return np.asarray(site_link_of(cluster).bandwidth_bytes_per_s / sharing)


def spread_of(cluster: Cluster, ranks: Floats, distance: Floats, reach: Reach | None) -> Spread:
    """The ranks of a group in one site, and the sites that it spans."""
    if cluster.num_sites == 1:
        return Spread(ranks, np.ones_like(ranks))
    return spread_over_sites(cluster, ranks, ranks * distance if reach is None else reach.span)


def site_rate(cluster: Cluster, spread: Spread, reach: Reach | None) -> Floats:
    """Bytes a second of what a rank sends to other sites: its share of the site's link or of its node's NICs, whichever is less."""
    together = 0.0 if reach is None else spread.inside * np.asarray(reach.together)
    return np.minimum(site_share(cluster, together), device_nic_rate(cluster, fabric_of(cluster)))


def site_s(cluster: Cluster, operation: str, wire: Floats, ranks: Floats, spread: Spread, reach: Reach | None) -> tuple[Floats, Floats]:
    """Seconds that the messages of a collective between sites wait for their latencies, and that their bytes take."""
    sent_s = wire * site_part(operation, ranks, spread) / site_rate(cluster, spread, reach)
    return site_latencies(operation, spread.sites) * site_link_of(cluster).latency_s, sent_s


def over_sites_s(cluster: Cluster, operation: str, asked: Asked, reach: Reach | None, in_site_s: Callable[[Asked], Floats]) -> Floats:
    """The ranks of a site by its laws, then each with those at its place in the other sites; of an exchange both at once."""
    wire, steps, ranks, distance = asked
    spread = spread_of(cluster, ranks, distance, reach)
    waiting_s, sent_s = site_s(cluster, operation, wire, ranks, spread, reach)
    if operation == "all_to_all":
        return waiting_s + np.maximum(in_site_s(asked), sent_s)
    inside, several = spread.inside, np.maximum(ranks - 1.0, 1.0)
    own = Asked(wire * (inside - 1.0) / inside * ranks / several, steps * (inside - 1.0) / several, inside, distance)
    start_s = latency_s(cluster, fabric_of(cluster).start_s, across=site_latencies(operation, spread.sites))
    return np.where(inside > 1, in_site_s(own), 0.0) + start_s + waiting_s + sent_s
