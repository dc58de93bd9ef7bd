"""Replicas of a sharding group (HSDP): the micro_batch split over `rp` outside `dp`, inside which ZeRO shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parsim.parallel.dimensions import DIMENSIONS, Dimension

if TYPE_CHECKING:
    from parsim.parallel.plan import Plan


def _degree(plan: Plan) -> int:
    return plan.data_parallel // plan.zero_group if plan.zero_group else 1


DIMENSIONS.register(
    "replica_groups", Dimension("replica_groups", "rp", ("B",), "Zhao et al. 2023 (arXiv:2304.11277), section 3.2.2", 10, _degree)
)
