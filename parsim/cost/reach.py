"""How far the ranks of a group lie over sites, and which stages of a pipeline hand their results to another site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parsim.cluster.cluster import Cluster
from parsim.cluster.scalars import picoseconds
from parsim.cluster.sites import Reach, leaves_site
from parsim.cost.shape import Shape
from parsim.cost.sizes import Ints, Sizes
from parsim.parallel.dimensions import view_of
from parsim.parallel.group import Group
from parsim.parallel.mesh import order_of
from parsim.schedules.phase import Phase


def reach_of(cluster: Cluster, group: Group, sizes: Sizes) -> Reach | None:
    """From the first rank to the last along the slowest axis; of a pipeline's ends only the ranks of their stages send at once.  None
    where there is one site."""
    if cluster.num_sites == 1:
        return None
    span = np.ones(sizes.num_plans, dtype=np.int64)
    for number, ranks in enumerate(sizes.orders) if group.axes else ():
        order = order_of(view_of(group.axes), ranks)
        within = [sizes.degrees[axis] for axis in order[: max(map(order.index, group.axes)) + 1]]
        span = np.where(sizes.order == number, np.prod(within, axis=0, dtype=np.int64), span)
    return Reach(span, sizes.stride(group) if group.homes else sizes.zero)


def site_latency_ps(cluster: Cluster) -> int:
    """How long what has left a site is on its way to another; others follow it meanwhile."""
    return int(picoseconds(cluster.site_link.latency_s)) if cluster.site_link else 0


def stages_that_leave_sites(cluster: Cluster, shape: Shape, phases: Sequence[Phase], sizes: Sizes) -> Ints:
    """Whether what a stage hands on in a phase goes to another site, 0 or 1, [phase, stage, plan]."""
    found = np.zeros((len(phases), shape.num_stages, sizes.num_plans), dtype=np.int64)
    if cluster.num_sites == 1:
        return found
    stages, each, stride = np.arange(shape.num_stages), shape.stages_a_copy, sizes.stride(Group(("pp",)))
    for number, phase in enumerate(phases):
        to = stages + phase.step
        there = (to >= 0) & (to // each == stages // each)
        ends = shape.home[stages], shape.home[np.where(there, to, stages)]
        rank, neighbour = (end[:, None] for end in ends)
        found[number] = leaves_site(cluster, rank, neighbour, shape.num_ranks, stride)
    return found
