"""Replicas of a sharding group (HSDP): the micro_batch split over `dp_replicate` outside `dp`, inside which ZeRO shards."""

from parsim.parallel.dimensions import DIMENSIONS, OUTSIDE, Degrees, Dimension

SOURCE = "Zhao et al. 2023 (arXiv:2304.11277), section 3.2.2"
WAIT = "the sum of gradients over the groups that shard among themselves (zero_group)"


def _degree(plan: Degrees) -> int:
    return plan.data_parallel // plan.zero_group if plan.zero_group else 1


DIMENSIONS.register("replica_groups", Dimension("replica_groups", "dp_replicate", ("B",), SOURCE, 10, _degree, WAIT, view=OUTSIDE))
