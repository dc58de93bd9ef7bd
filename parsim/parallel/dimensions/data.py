"""Data parallelism: the micro_batch split over `dp`.  Weight gradients contract B, so they are partial sums over dp.

With a `zero_group` these are the ranks of one group, over which ZeRO shards; replicas.py has the groups.
"""

from __future__ import annotations

from parsim.parallel.dimensions import DIMENSIONS, Degrees, Dimension


def _degree(plan: Degrees) -> int:
    return plan.zero_group or plan.data_parallel


SOURCE, WAIT = "Li et al. 2020 (arXiv:2006.15704)", "the sum of gradients over the replicas, or for parameters that they shard"
data = Dimension("data_parallel", "dp", ("B",), SOURCE, nesting=20, degree=_degree, waits_for=WAIT, replicates=True)
DIMENSIONS.register("data_parallel", data)
