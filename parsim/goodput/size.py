"""How many bytes a checkpoint has, and which device writes how many of them: integers, of what the estimator counts as lasting.

A checkpoint is what training changes: weights as they lie, and the optimizer's states with the float32 weights, on devices or hosts.
Narrow copies of weights follow from these, and weights that are not trained are where they were read from.  What all replicas of a weight
hold is written once, what ZeRO shards by the rank that has it, padding included.  With `writers: each` every rank writes all that lives
from one step to the next, as `parsim execute` does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from parsim.cost.buckets import Role, lasting_elements, lasting_parts, lasting_weights
from parsim.cost.count import host_state_bytes, state_bytes
from parsim.cost.sizes import Ints, Sizes
from parsim.estimator.passes import Stages
from parsim.model.dims import FLOAT32, PACKED, QUANTISED
from parsim.parallel.dimensions import view_of
from parsim.parallel.group import Group
from parsim.parallel.mesh import order_of
from parsim.scenario.reliability import ALL, EACH
from parsim.step.task import Weight

_PIPELINE = Group(("pp",))


class HeldBytes(Struct, frozen=True):
    """Bytes that the ranks of a pipeline hold of weights with one group of replicas, [rank, plan]."""

    own: Ints  # that no other rank has
    shared: Ints  # that all of the group have
    on_host: Ints  # of these two, what lies on the host
    frozen: Ints  # of weights that are not trained
    derived: Ints  # narrow copies of weights, and their scales

    def __add__(self, other: HeldBytes) -> HeldBytes:
        return HeldBytes(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class CheckpointBytes(Struct, frozen=True):
    """The bytes of a checkpoint of each plan."""

    total: Ints
    read: Ints  # by a restart: the same, and what is not trained
    busiest_device: Ints  # what the device that writes most writes
    copied: Ints  # what of that it copies to its host first
    busiest_node: Ints
    num_devices: Ints


def held_bytes(stages: Stages) -> dict[Group, HeldBytes]:
    """What the ranks of the one pipeline of all plans hold, by the group that replicates it."""
    found = dict[Group, HeldBytes]()
    itemsize = stages.workload.sizes.itemsize_bytes[FLOAT32]
    for segment in stages.workload.step.segments.values():
        copies = stages.copies(segment.name)
        none = copies * 0
        of_weights = [(weight.group, _of_weight(stages, weight, copies)) for weight in segment.own_weights]
        for each in segment.steers:
            bias = np.asarray(copies * stages.workload.sizes.elements(each.sharding) * itemsize)
            of_weights.append((each.group, HeldBytes(none, bias, none, none, none)))
        for group, of_classes in of_weights:
            of_ranks = HeldBytes(*(stages.workload.shape.own @ getattr(of_classes, name) for name in HeldBytes.__struct_fields__))
            found[group] = found[group] + of_ranks if group in found else of_ranks
    return found


def _of_weight(stages: Stages, weight: Weight, copies: Ints) -> HeldBytes:
    """Bytes of a weight in each class of stages that has so many copies of it, [class, plan]."""
    structure, sizes, parts = stages.workload.step.structure, stages.workload.sizes, lasting_parts(stages.workload.step.structure)
    own, shared, derived, on_host = (copies * 0 for _ in range(4))

    def count_in(role: Role) -> Ints:
        if role not in parts or not lasting_weights([weight], role, structure):
            return copies * 0
        return np.asarray(copies * lasting_elements(weight, parts[role], stages.workload.prices.sizes)[stages.workload.rows])

    kept: Role = "packed" if weight.packed else "parameters"
    kept_bytes = count_in(kept) * sizes.itemsize_bytes[PACKED if weight.packed else structure.parameter_role]
    if "quantised" in parts:
        derived = derived + len(structure.lasting_layouts) * count_in("quantised") * sizes.itemsize_bytes[QUANTISED]
    derived = derived + count_in("scales") * sizes.itemsize_bytes[FLOAT32]
    if not weight.trained:
        return HeldBytes(own, shared, on_host, kept_bytes, derived)
    own, shared = (own + kept_bytes, shared) if parts[kept] == "shard" else (own, shared + kept_bytes)
    count, hosted = count_in("optimizer"), host_state_bytes(structure, sizes)
    states = count * (state_bytes(structure, sizes) + hosted)
    own, shared = (own + states, shared) if parts["optimizer"] == "shard" else (own, shared + states)
    return HeldBytes(own, shared, count * hosted, copies * 0, derived)


def written_bytes(own: Ints, shared: Ints, num_ranks: int, position: Ints, writers: str) -> Ints:
    """What the rank at a position of a group writes: what is its own, and of what all have its part, all if it is the first, or all.

    >>> [int(written_bytes(np.array(1), np.array(10), 4, np.array(at), "all")) for at in range(4)]
    [4, 4, 4, 2]
    """
    if writers != ALL:
        return np.asarray(own + np.where((position == 0) | (writers == EACH), shared, 0))
    part = -(-shared // num_ranks)
    return np.asarray(own + np.clip(shared - position * part, 0, part))


def checkpoint_bytes(stages: Stages, writers: str) -> CheckpointBytes:
    """The checkpoint of each plan, whatever its pipeline; where ranks hold unequal shares of a weight, each counts as the fullest."""
    found = np.zeros((6, len(stages.workload.rows)), dtype=np.int64)
    for number in range(len(stages.workload.shapes)):
        own = np.flatnonzero(stages.workload.shape_of == number)
        found[:, own] = _of_shape(stages.take(own), writers)
    return CheckpointBytes(*found)


def _of_shape(stages: Stages, writers: str) -> Ints:
    sizes, held, found = stages.workload.sizes, held_bytes(stages), []
    for plan in range(sizes.num_plans):
        written, hosted, frozen = device_bytes(sizes, held, plan, writers)
        nodes = _by_node(written, stages.workload.model.cluster.node.devices_per_node)
        found.append((written.sum(), (written + frozen).sum(), written.max(), (written - hosted).max(), nodes.max(), len(written)))
    return np.array(found, dtype=np.int64).T


def device_bytes(sizes: Sizes, held: Mapping[Group, HeldBytes], plan: int, writers: str) -> Ints:
    """What each device of a plan writes, what of it lies on its host, and what is not written but read, [3, device as it lies on nodes]."""
    devices = np.arange(int(sizes.num_devices[plan]))
    order = sizes.orders[sizes.order[plan]]
    rank = _positions(sizes, plan, order, _PIPELINE.axes, devices)
    found = np.zeros((3, len(devices)), dtype=np.int64)
    for group, each in held.items():
        position = _positions(sizes, plan, order_of(view_of(group.axes), order), group.axes, devices)
        own, shared, on_host, frozen, derived = (getattr(each, name)[rank, plan] for name in each.__struct_fields__)
        written = written_bytes(own, shared, int(sizes.num_ranks(group)[plan]), position, writers)
        hosted, read = on_host * written // np.maximum(own + shared, 1), np.where(position == 0, frozen, 0)
        found += np.stack([written + frozen + derived, hosted, read * 0] if writers == EACH else [written, hosted, read])
    return found


def _positions(sizes: Sizes, plan: int, order: tuple[str, ...], axes: tuple[str, ...], devices: Ints) -> Ints:
    """Where each device stands in its group along these axes, whose last is the fastest."""
    at, stride = {}, 1
    for axis in order:
        degree = int(sizes.degrees[axis][plan])
        at[axis] = devices // stride % degree
        stride *= degree
    found = devices * 0
    for axis in axes:
        found = found * int(sizes.degrees[axis][plan]) + at[axis]
    return found


def _by_node(of_devices: Ints, devices_per_node: int) -> Ints:
    count = -(-len(of_devices) // devices_per_node) * devices_per_node
    return np.asarray(np.pad(of_devices, (0, count - len(of_devices))).reshape(-1, devices_per_node).sum(axis=1))
