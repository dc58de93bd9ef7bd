"""Tokens on their way to experts where software sends each to a node once, and from there once to each rank that has an expert for it.

Source: deepseek-ai/DeepEP, README ("NVLink and RDMA forwarding"; NVIDIA's HybridEP likewise), in place of a message a slot: DeepSeek-AI
2024 (arXiv:2412.19437), section 3.2.2.  The 43 to 47 GB/s of 50 GB/s between nodes that it states are the law's.
"""

from __future__ import annotations

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import all_to_all_rates, in_node_s, placement
from parsim.cluster.scalars import Floats, Scalar, floats, reshape


def share_that_meets(num_experts: int, held: Scalar, chosen: int) -> Floats:
    """The share of tokens that have one of `held` experts among the `chosen` ones, all choices of different experts being as likely.

    >>> float(share_that_meets(4, 2, 1)), round(float(share_that_meets(4, 2, 2)), 4)
    (0.5, 0.8333)
    """
    (missed, *more) = (np.maximum(num_experts - np.asarray(held, dtype=np.float64) - i, 0.0) / (num_experts - i) for i in range(chosen))
    for each in more:
        missed = missed * each
    return 1.0 - missed


def per_node_s(
    cluster: Cluster, wire_bytes: Scalar, num_ranks: Scalar, stride: Scalar, *, num_experts: int, experts_per_token: int
) -> Scalar:
    """Seconds of tokens to experts or back.

    Args:
        wire_bytes: what a rank would send to others with a message a slot [bytes].
        num_ranks: over which the experts lie, `stride` devices apart.
        num_experts: of a layer.
        experts_per_token: that each token chooses.

    Raises:
        ScenarioError: a group that leaves its node in a cluster without a fabric.
    """
    shape, (wire, ranks, distance) = floats(wire_bytes, num_ranks, stride)
    inside, nodes = placement(cluster.node.devices_per_node, ranks, distance, cluster.num_nodes)
    copy = wire * ranks / np.maximum(ranks - 1.0, 1.0) / experts_per_token  # of all tokens of a rank
    to_ranks = ranks * share_that_meets(num_experts, num_experts / ranks, experts_per_token) * (inside - 1.0) / inside
    within_s = in_node_s(cluster, "all_to_all", copy * to_ranks, np.ones_like(wire), inside, distance)
    if not np.any(nodes > 1):
        return reshape(np.where(ranks > 1, within_s, 0.0), shape)
    to_nodes = (nodes - 1.0) * share_that_meets(num_experts, num_experts / nodes, experts_per_token)
    started_s, rate = all_to_all_rates(cluster, ranks, distance, inside, nodes)
    across_s = started_s + copy * to_nodes / rate
    return reshape(np.where(nodes > 1, np.maximum(within_s, across_s), np.where(ranks > 1, within_s, 0.0)), shape)
