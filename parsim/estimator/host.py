"""Memory of the hosts: what the ranks of a node keep there together, which is to fit one host."""

from __future__ import annotations

import functools
import math

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import distinct, distinct_rows
from parsim.cost.buckets import lasting_parts
from parsim.cost.count import host_gradient_bytes, host_state_bytes
from parsim.cost.sizes import Ints
from parsim.estimator.memory import elements_of
from parsim.estimator.passes import Stages
from parsim.parallel.group import Group


class HostMemory(Struct, frozen=True):
    """Bytes on the host that holds most, [plan]; all are 0 where no rank keeps anything on its host."""

    optimizer: Ints  # states, and the weights that the host updates
    gradients: Ints
    pinned: Ints  # what pinned buffers of gradients are rounded up by
    processes: Ints  # as the stack states

    def of_plan(self, index: int) -> dict[str, int]:
        """The parts of one plan."""
        return {name: int(getattr(self, name)[index]) for name in self.__struct_fields__}

    @property
    def total(self) -> Ints:
        """Of all parts."""
        return self.optimizer + self.gradients + self.pinned + self.processes


def host_memory(stages: Stages) -> HostMemory:
    """Memory of the fullest host of each plan; all have one pipeline."""
    w, parts = stages.workload, _parts(stages)
    devices, strides = w.sizes.num_devices, w.sizes.stride(Group(("pp",)))
    first, which = distinct_rows([devices, strides], w.sizes.num_plans)
    found = np.zeros((len(parts), w.sizes.num_plans), dtype=np.int64)
    for kind, plan in enumerate(first.tolist()):
        own = np.flatnonzero(which == kind)
        crews = _crews(int(devices[plan]), int(strides[plan]), w.num_ranks, w.model.cluster.node.devices_per_node)
        of_crews = np.einsum("cr,prn->pcn", crews, parts[:, :, own])
        found[:, own] = of_crews[:, np.argmax(of_crews.sum(axis=0), axis=0), np.arange(len(own))]
    return HostMemory(*found)


def host_peak_bytes(stages: Stages) -> Ints:
    """Bytes on the fullest host of each plan, whatever its pipeline; 0 where no rank keeps anything there."""
    found, w = stages.workload.rows * 0, stages.workload
    for number in range(len(w.shapes)) if w.step.structure.uses_host else ():
        own = np.flatnonzero(w.shape_of == number)
        found[own] = host_memory(stages.take(own)).total
    return found


def host_bytes(stages: Stages) -> Ints:
    """What each rank keeps on its host, as the kernels count it, [rank, plan]."""
    states, gradients, *_ = _parts(stages)
    return np.asarray(states + gradients)


def _parts(stages: Stages) -> Ints:
    """The parts of HostMemory by pipeline rank, [part, rank, plan]."""
    structure, sizes, stack = stages.workload.step.structure, stages.workload.sizes, stages.workload.model.stack
    count = stages.workload.shape.own @ elements_of(stages, lasting_parts(structure)["optimizer"])
    states, gradients = count * host_state_bytes(structure, sizes), count * host_gradient_bytes(structure, sizes)
    pinned = gradients * 0
    for role in structure.host_gradients if stack.pinned_elements else ():
        pinned = pinned + _pinned_bytes(count, sizes.itemsize_bytes[role], stack.pinned_elements) - count * sizes.itemsize_bytes[role]
    processes = gradients * 0 + (int(stack.process_bytes) if structure.uses_host else 0)
    return np.stack([states, gradients, pinned, processes])


def _pinned_bytes(count: Ints, itemsize: int, most: int) -> Ints:
    """Bytes of elements in buffers of at most so many, each rounded up to a power of two.

    Source: PyTorch, aten/src/ATen/core/CachingHostAllocator.h (roundSize = PowerOf2Ceil(size)); pytorch/pytorch issue 95823.

    >>> _pinned_bytes(np.array([0, 5, 8, 13]), 4, 5).tolist()
    [0, 32, 48, 80]
    """
    full, rest = count // most, count % most
    return full * _power_of_two(np.array(most * itemsize)) + _power_of_two(rest * itemsize)


def _power_of_two(size: Ints) -> Ints:
    """The least power of two that is no less; 0 stays."""
    return np.where(size > 0, np.left_shift(1, np.frexp(size - 1)[1].astype(np.int64)), 0)


@functools.lru_cache(maxsize=4096)
def _crews(num_devices: int, stride: int, num_ranks: int, devices_per_node: int) -> Ints:
    """How many devices of a node are of each pipeline rank, [node, rank]; nodes that are alike count once."""
    device = np.arange(min(num_devices, math.lcm(stride * num_ranks, devices_per_node)))
    counts = np.zeros((-(-len(device) // devices_per_node), num_ranks), dtype=np.int64)
    np.add.at(counts, (device // devices_per_node, device // stride % num_ranks), 1)
    return distinct(counts)
