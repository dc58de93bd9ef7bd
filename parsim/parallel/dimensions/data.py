"""Data parallelism: the micro_batch split over `dp`.  Weight gradients contract B, so they are partial sums over dp.

With a `zero_group` these are the ranks of one group, over which ZeRO shards; replicas.py has the groups.
"""

from parsim.parallel.dimensions import DIMENSIONS, Dimension

SOURCE, WAIT = "Li et al. 2020 (arXiv:2006.15704)", "the sum of gradients over the replicas, or for parameters that they shard"
DIMENSIONS.register(
    "data_parallel",
    Dimension("data_parallel", "dp", ("B",), SOURCE, 20, lambda plan: plan.zero_group or plan.data_parallel, WAIT, replicates=True),
)
