"""The algorithm and the price of a collective of a group on a cluster, by where its ranks lie."""

from __future__ import annotations

from typing import overload

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import placement
from parsim.cluster.price import Price, collective_price
from parsim.cluster.sites import Reach
from parsim.collectives import DEFAULTS, ChunkTable, ClosedForms, CollectiveAlgorithm, Count, Name, choose, reference
from parsim.collectives.alpha_beta import alpha_beta_s


@overload
def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: int, stride: int, payload_bytes: int, algorithm: Name = ...
) -> CollectiveAlgorithm: ...


@overload
def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: Count, stride: Count, payload_bytes: Count, algorithm: Name = ...
) -> ClosedForms: ...


def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: Count, stride: Count, payload_bytes: Count, algorithm: Name = None
) -> ClosedForms:
    """The algorithm of a group of ranks that are `stride` devices apart; all else as in `choose`.

    The worst placed group of a plan decides for all of them, as it does for their seconds.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not know the operation.
    """
    if algorithm is None and operation in DEFAULTS and operation != "all_reduce":
        return reference(operation)  # wherever the ranks lie
    _, nodes = placement(cluster.node.devices_per_node, num_ranks, stride, cluster.num_nodes)
    in_node, adds = np.less_equal(nodes, 1), cluster.node.switch_adds
    return choose(operation, num_ranks=num_ranks, payload_bytes=payload_bytes, in_node=in_node, switch_adds=adds, algorithm=algorithm)


def group_price(
    cluster: Cluster,
    operation: str,
    *,
    elements: Count,
    itemsize_bytes: int,
    num_ranks: Count,
    stride: Count,
    algorithm: Name = None,
    chunks: ChunkTable = None,
    reach: Reach | None = None,
) -> Price:
    """The price of a collective: by the fitted laws, asked in a ring's bytes whatever NCCL runs, or of an algorithm that is named.

    A named algorithm takes its seconds by latency and bandwidth, and puts the bytes of the ring on the links in that time.

    Args are those of `alpha_beta_s`; an algorithm of None leaves the choice to the library whose laws are fitted.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not run there; see `alpha_beta_s`.
        ScenarioError: a group that leaves its node in a cluster without a fabric.
    """
    ring, seconds = reference(operation), None
    if algorithm:
        group = {"elements": elements, "num_ranks": num_ranks, "stride": stride}
        seconds = alpha_beta_s(cluster, operation, algorithm, itemsize_bytes=itemsize_bytes, chunks=chunks, reach=reach, **group)
    wire_bytes = np.asarray(ring.busiest_elements(operation, num_ranks, elements, chunks)) * itemsize_bytes
    steps = ring.num_steps(operation, num_ranks)
    return collective_price(cluster, operation, wire_bytes, steps, num_ranks, stride, seconds=seconds, reach=reach)
