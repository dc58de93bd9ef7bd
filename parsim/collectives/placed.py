"""The choice of an algorithm for a group on a cluster: `choose`, asked by where the ranks lie."""

from __future__ import annotations

from typing import overload

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.network import placement
from parsim.collectives import DEFAULTS, ClosedForms, Collective, Count, choose, reference


@overload
def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: int, stride: int, payload_bytes: int, algorithm: str | None = ...
) -> Collective: ...


@overload
def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: Count, stride: Count, payload_bytes: Count, algorithm: str | None = ...
) -> ClosedForms: ...


def choose_on(
    cluster: Cluster, operation: str, *, num_ranks: Count, stride: Count, payload_bytes: Count, algorithm: str | None = None
) -> ClosedForms:
    """The algorithm of a group of ranks that are `stride` devices apart; all else as in `choose`.

    The worst placed group of a plan decides for all of them, as it does for their seconds.

    Raises:
        ParsimError: an unknown operation or algorithm, or one that does not know the operation.
    """
    if algorithm is None and operation in DEFAULTS and operation != "all_reduce":
        return reference(operation)  # wherever the ranks lie
    _, nodes = placement(cluster.node.devices_per_node, num_ranks, stride, cluster.num_nodes)
    return choose(
        operation,
        num_ranks=num_ranks,
        payload_bytes=payload_bytes,
        in_node=np.less_equal(nodes, 1),
        switch_adds=cluster.node.switch_adds,
        algorithm=algorithm,
    )
