"""Seconds of tokens on their way to experts by nodes: those between nodes pass NICs while those inside pass the node's links.

Source: deepseek-ai/DeepEP, README ("NVLink and RDMA forwarding"; NVIDIA's HybridEP likewise), in place of a message a slot: DeepSeek-AI
2024 (arXiv:2412.19437), section 3.2.2.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import all_to_all_rates, in_node_s, placement
from parsim.cluster.scalars import Scalar, floats, reshape
from parsim.cluster.sites import Reach, site_link_of, site_rate, spread_of

# Of what NICs carry.  Source: deepseek-ai/DeepEP, README: 43 to 47 GB/s of 50 GB/s between nodes.
NIC_SHARE: Final = 0.9


def by_node_s(
    cluster: Cluster, inside_bytes: Scalar, between_bytes: Scalar, num_ranks: Scalar, stride: Scalar, *, reach: Reach | None = None
) -> Scalar:
    """Seconds of tokens to experts or back.

    Args:
        inside_bytes: through the busiest rank's port to others of its node [bytes].
        between_bytes: the same to other nodes [bytes].
        num_ranks: over which the experts lie, `stride` devices apart.
        reach: as in `collective_s`.

    Raises:
        ScenarioError: a group that leaves its node in a cluster without a fabric.
    """
    shape, (within, across, ranks, distance) = floats(inside_bytes, between_bytes, num_ranks, stride)
    inside, nodes = placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    within_s = in_node_s(cluster, "all_to_all", within, np.ones_like(within), inside, distance)
    if not np.any(nodes > 1):
        return reshape(np.where(ranks > 1, within_s, 0.0), shape)
    started_s, rate = all_to_all_rates(cluster, ranks, distance, inside, nodes)
    across_s = started_s + across / (NIC_SHARE * rate)
    spread = spread_of(cluster, ranks, distance, reach)
    if np.any(spread.sites > 1):  # of what goes to other nodes, what goes to those of other sites
        far = across * (ranks - spread.inside) / np.maximum(ranks - inside, 1.0) / site_rate(cluster, spread, reach)
        across_s = np.where(spread.sites > 1, np.maximum(across_s, started_s + far) + site_link_of(cluster).latency_s, across_s)
    return reshape(np.where(nodes > 1, np.maximum(within_s, across_s), np.where(ranks > 1, within_s, 0.0)), shape)
