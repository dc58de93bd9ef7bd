"""What each rank writes into a checkpoint, a second time, by the roles of buffers where parsim.goodput.size goes weight by weight.

Replicas write what they hold, each its own file, as `parsim execute` does; of ranks of a place on the pipeline that hold different amounts
the most is told.  Gradients, the loss and the norm are made anew by each step.
"""

from __future__ import annotations

import numpy as np

from parsim.cost.buckets import lasting_parts
from parsim.cost.count import host_state_bytes
from parsim.cost.sizes import Ints
from parsim.estimator.memory import elements_of, lasting_bytes
from parsim.estimator.passes import Stages
from parsim.model.dims import FLOAT32
from parsim.parallel.optimizer import OPTIMIZERS, OUTER_OPTIMIZERS

_KEPT = ("parameters", "packed", "quantised", "scales", "optimizer")


def written_bytes_of_ranks(stages: Stages) -> Ints:
    """Bytes that each rank writes, at the declared dtypes, headers apart, [rank, plan]."""
    if stages.workload.sizes.torn:
        every, first = stages.on_all_ranks()
        return np.asarray(np.maximum.reduceat(written_bytes_of_ranks(every), first, axis=1))
    structure, sizes, lasting = stages.workload.step.structure, stages.workload.sizes, lasting_bytes(stages)
    on_host = elements_of(stages, lasting_parts(structure)["optimizer"]) * host_state_bytes(structure, sizes)
    on_device = sum((lasting[role] for role in _KEPT), start=_biases(stages) * sizes.itemsize_bytes[FLOAT32])
    return np.asarray(stages.workload.shape.own @ (on_device + on_host))


def written_elements_of_ranks(stages: Stages) -> Ints:
    """How many numbers these are, [rank, plan]; the scales of matrices in 4 bits are none."""
    if stages.workload.sizes.torn:
        every, first = stages.on_all_ranks()
        return np.asarray(np.maximum.reduceat(written_elements_of_ranks(every), first, axis=1))
    structure = stages.workload.step.structure
    copies = {"quantised": len(structure.lasting_layouts)}
    outer = OUTER_OPTIMIZERS[structure.apart.outer_optimizer].states if structure.apart else ()
    copies["optimizer"] = len(OPTIMIZERS[structure.optimizer].states) + len(outer) + (structure.master_weights or structure.offload)
    parts = {role: part for role, part in lasting_parts(structure).items() if role in _KEPT}
    numbers = sum((elements_of(stages, part, role) * copies.get(role, 1) for role, part in parts.items()), start=_biases(stages))
    return np.asarray(stages.workload.shape.own @ numbers)


def _biases(stages: Stages) -> Ints:
    """Biases that steer the choice of experts, [class, plan]."""
    found = np.zeros((stages.num_classes, stages.workload.sizes.num_plans), dtype=np.int64)
    for segment in stages.workload.step.segments.values():
        for each in segment.steers:
            found = found + stages.copies(segment.name) * stages.workload.sizes.elements(each.sharding)
    return found
