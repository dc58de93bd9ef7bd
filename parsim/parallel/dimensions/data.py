"""Data parallelism: the micro_batch split over `dp`.  Weight gradients contract B, so they are partial sums over dp.

With a `zero_group` these are the ranks of one group, over which ZeRO shards; replicas.py has the groups.
"""

from __future__ import annotations

from parsim.parallel.dimensions import DIMENSIONS, Degrees, Dimension


def _degree(plan: Degrees) -> int:
    return plan.zero_group or plan.data_parallel


DIMENSIONS.register(
    "data_parallel",
    Dimension(
        "data_parallel",
        "dp",
        ("B",),
        "Li et al. 2020 (arXiv:2006.15704)",
        nesting=20,
        degree=_degree,
        replicates=True,
        waits_for="the sum of gradients over the replicas, or for parameters that they shard",
    ),
)
