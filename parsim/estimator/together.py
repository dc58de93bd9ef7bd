"""What pairs change: a forward and a backward that run together take less than one after the other."""

from __future__ import annotations

import numpy as np

from parsim import schedules
from parsim.cluster.scalars import distinct
from parsim.cost.shape import Shape
from parsim.cost.sizes import Ints
from parsim.cost.workload import Workload
from parsim.estimator.passes import Stages


def more_of_ranks(stages: Stages, together: Ints, alone: Ints) -> Ints:
    """By how much pairs of a step come to more than their parts by themselves, on each rank of the one pipeline of all plans, [rank, plan].

    Args:
        stages: of the pipeline.
        together: what a pair comes to, [two classes, plan].
        alone: what each phase of a stage does, [phase, class, plan].
    """
    shape = stages.workload.shape
    found = np.zeros((shape.num_ranks, alone.shape[2]), dtype=np.int64)
    if len(shape.pairs):
        more = _more(shape, together, alone)[shape.pair_index] * _times(stages.workload)
        np.add.at(found, shape.home[shape.pairs[:, 0]], more)
    return found


def charged_more(stages: Stages, name: str) -> Ints:
    """The same of what compute is charged under a name."""
    nothing = stages.workload.rows * 0
    alone = stages.table(lambda kind, phase: stages.charges(kind, phase).get(name, nothing[stages.members[kind].plans]))
    together = stages.spread_pairs(lambda kinds: stages.pair_charges(kinds).get(name, nothing[stages.pair_members[kinds].plans]))
    return more_of_ranks(stages, together, alone)


def most_saved(stages: Stages, together: Ints, alone: Ints) -> Ints:
    """What no rank's pairs save more than in a step, one value a plan; arguments as before."""
    w = stages.workload
    found = w.micro_batches * 0
    for number, shape in enumerate(w.shapes):
        if len(shape.pairs):
            own = np.flatnonzero(w.shape_of == number)
            saved = np.maximum(-_more(shape, together[:, own], alone[:, :, own]), 0).max(axis=0)
            found[own] = saved * shape.chunks * w.micro_batches[own]
    return found


def _more(shape: Shape, together: Ints, alone: Ints) -> Ints:
    """By how much each two classes come to more, [two classes, plan]."""
    ahead, behind = shape.class_pairs.T
    return np.asarray(together[: len(ahead)] - alone[0, ahead] - alone[1:, behind].sum(axis=0))


def _times(workload: Workload) -> Ints:
    """How often each pair of the one pipeline of all plans runs, [pair, plan]."""
    shape = workload.shape
    found = np.zeros((len(shape.pairs), len(workload.rows)), dtype=np.int64)
    for count in distinct(workload.micro_batches).tolist():
        rounds, loops = schedules.rounds(shape.schedule, shape.num_ranks, shape.chunks, count)
        known = (shape.pairs[:, None] == rounds.pairs).all(axis=2)  # [pair, pair of these rounds]
        found[:, workload.micro_batches == count] = (known @ rounds.times(loops))[:, None]
    return found
