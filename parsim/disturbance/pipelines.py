"""Which devices of a plan wait for one another inside passes, which only at the end of a step, and where they lie."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from math import prod

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Ints
from parsim.cost.workload import Workload
from parsim.parallel.dimensions import EXPERT, axes_of, rules, switched_on
from parsim.parallel.group import Group
from parsim.parallel.mesh import Mesh
from parsim.parallel.plan import Plan
from parsim.step.task import Collective


class Pipelines(Struct, frozen=True, dict=True, eq=False):
    """The devices of a plan as pipelines, each of as many ranks as there are, each rank of as many devices.

    >>> from parsim import load
    >>> from parsim.simulator.run import workload_in
    >>> scenario = load("scenarios/table5-22b.yaml")
    >>> Pipelines.of(workload_in(scenario, scenario.plan("full")), scenario.plan("full")).devices.tolist()
    [[[0, 1, 2, 3, 4, 5, 6, 7]]]
    """

    mesh: Mesh
    pipeline: Ints  # of each device of a stage
    devices: Ints  # numbers, as they lie on nodes, [pipeline, rank, device]
    replicas: int  # whose micro_batches a pipeline passes side by side

    @classmethod
    def of(cls, workload: Workload, plan: Plan) -> Pipelines:
        """That of the only plan of a workload."""
        sizes = workload.sizes
        mesh = Mesh({axis: int(degree[0]) for axis, degree in sizes.degrees.items()}, sizes.orders[int(sizes.order[0])])
        numbered = [axis for axis in mesh.degrees if axis not in axes_of(EXPERT)]
        extents = [mesh.degrees[axis] for axis in numbered]
        at = dict(zip(numbered, np.unravel_index(np.arange(prod(extents)), extents), strict=True))
        number, stride = np.zeros(prod(extents), dtype=np.int64), 1
        for axis in (axis for axis in mesh.order if axis in at):
            number, stride = number + at[axis] * stride, stride * mesh.degrees[axis]
        stage = prod(extents) // workload.num_ranks
        pipeline = _lots(np.arange(stage), mesh, _groups_in_passes(workload))
        by_rank = number.reshape(workload.num_ranks, stage)
        devices = np.stack([by_rank[:, pipeline == each] for each in range(int(pipeline.max()) + 1)])
        over = [axis for axis in rules(switched_on(plan)).get("B", ()) if axis in at]
        first = np.flatnonzero(pipeline == 0)
        return cls(mesh, pipeline, devices, len({tuple(int(at[axis][each]) for axis in over) for each in first.tolist()}))

    @property
    def num_pipelines(self) -> int:
        """Lots of devices that pass by themselves."""
        return len(self.devices)

    @functools.cached_property
    def _known(self) -> dict[tuple[str, ...], Ints]:
        return {}

    def meetings(self, group: Group) -> Ints:
        """Which pipelines a group joins at the step's end: a number for each, the same for those that are in it together."""
        axes = tuple(axis for axis in group.axes if axis != "pp")
        if axes not in self._known:
            self._known[axes] = _lots(self.pipeline, self.mesh, {axes} if axes else set())[np.unique(self.pipeline, return_index=True)[1]]
        return self._known[axes]


def _groups_in_passes(workload: Workload) -> set[tuple[str, ...]]:
    """The axes of the collectives that passes have but for the last of a step."""
    stages = ((stage, phase) for stage in range(workload.num_stages) for phase in workload.phases)
    tasks = (task for stage, phase in stages for run in workload.pass_of(stage, phase).lists for task in run.tasks)
    found = {tuple(axis for axis in task.group.axes if axis != "pp") for task in tasks if isinstance(task, Collective)}
    return {axes for axes in found if axes}


def _lots(start: Ints, mesh: Mesh, groups: Iterable[Sequence[str]]) -> Ints:
    """A number for the lot of each device of a stage, in order of its first one: those of a lot are joined by groups along such axes."""
    lot = start.copy()
    for members in _members(len(start), mesh, groups):
        own = lot[members]
        if (own != own[0]).any():
            lot[np.isin(lot, own)] = own.min()
    return np.unique(lot, return_inverse=True)[1]


def _members(count: int, mesh: Mesh, groups: Iterable[Sequence[str]]) -> Iterator[list[int]]:
    for axes in sorted(map(tuple, groups)):
        seen = np.zeros(count, dtype=bool)
        for rank in range(count):
            if not seen[rank]:
                members = [*mesh.members(rank, Group(tuple(axes)))]
                seen[members] = True
                yield members
