"""How a pipeline lies, without sizes: which stages do the same, on which ranks they live, and what each rank holds of them."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.model.spec import Layout
from parsim.schedules.phase import SPLIT, Phase
from parsim.step.stages import Parts, parts_of


class StageKind(NamedTuple):
    """What sets the tasks of a stage apart, whatever its number of layers."""

    names: tuple[str, ...]  # of its segments, in forward order
    below: bool  # the stage before it lives on another rank
    above: bool  # and so does the one after it
    nodes: tuple[int, int, int] = (0, 0, 0)  # the kinds of node of the one before it, of its own rank, and of the one after it

    @property
    def node(self) -> int:
        """The kind of node on which its rank lies."""
        return self.nodes[1]

    def ends(self, phase: Phase) -> tuple[int, ...]:
        """The kinds of node between which what a phase hands on goes, each once."""
        return tuple(dict.fromkeys((self.node, self.nodes[1 + phase.step])))

    def receives(self, phase: Phase) -> bool:
        """Whether what a phase starts from comes from another rank."""
        return self.below if phase.step > 0 else phase.step < 0 and self.above

    def sends(self, phase: Phase) -> bool:
        """Whether what a phase hands on goes to another rank."""
        return self.above if phase.step > 0 else phase.step < 0 and self.below


class StageClass(NamedTuple):
    """Stages of a pipeline that do the same."""

    kind: StageKind
    copies: tuple[int, ...]  # of each of its segments

    @property
    def parts(self) -> Parts:
        """Its segments in forward order, with their copies."""
        return tuple(zip(self.kind.names, self.copies, strict=True))


class Shape(Struct, frozen=True, eq=False):
    """The pipeline of a plan.  Equal to itself only: `shape_of` makes each once."""

    schedule: str | tuple[str, ...]
    num_ranks: int
    nodes: Ints  # kind of node of each rank
    layers: tuple[int, ...]  # of each virtual stage, those of one copy of the model after those of another
    num_copies: int
    phases: tuple[Phase, ...]
    pair_phases: tuple[Phase, ...]  # of the stages of a pair
    classes: tuple[StageClass, ...]
    index: Ints  # class of each stage
    home: Ints  # rank of each stage
    by_rank: Ints  # the stages of each rank, its chunks in order, [rank, chunk]
    counts: Ints  # a one for the class of each stage, [stage, class]
    own: Ints  # how many stages of each class a rank holds, [rank, class]
    pairs: Ints  # stages whose forward and backward may run together, ascending, [pair, 2]
    class_pairs: Ints  # the classes of these, each two once, [two classes, 2]
    pair_index: Ints  # of which classes each pair is

    @property
    def num_stages(self) -> int:
        """Virtual stages."""
        return len(self.layers)

    @property
    def stages_a_copy(self) -> int:
        """Virtual stages of one copy of the model."""
        return self.num_stages // self.num_copies

    @property
    def chunks(self) -> int:
        """Virtual stages of a rank."""
        return self.num_stages // self.num_ranks

    def classes_of(self, forward: Ints, backward: Ints) -> Ints:
        """Which two classes stages of pairs are of."""
        each = np.array([self.num_stages, 1])
        found: Ints = self.pair_index[np.searchsorted(self.pairs @ each, np.stack([forward, backward], axis=-1) @ each)]
        return found


@functools.lru_cache(maxsize=4096)
def shape_of(
    schedule: str | tuple[str, ...],
    num_ranks: int,
    layers: tuple[int, ...],
    layout: Layout,
    recompute_every: int,
    nodes: tuple[int, ...] = (),
) -> Shape:
    """The shape of a pipeline.

    Args:
        schedule: named or written.
        num_ranks: of the pipeline.
        layers: of each virtual stage of the model.
        layout: of the model.
        recompute_every: of its layers, each so many-th is recomputed.
        nodes: the kind of node of each rank; none: all are of the first.
    """
    found = schedules.find(schedule, num_ranks)
    stages = [*parts_of(layout, layers, recompute_every)] * found.num_copies
    home = np.array([found.rank_of(stage, num_ranks) for stage in range(len(stages))], dtype=np.int64)
    apart = [False, *(np.diff(home) != 0).tolist(), False]  # of two copies of the model, the one ends on the rank where the other begins
    on = np.array(nodes or (0,) * num_ranks, dtype=np.int64)
    own_nodes = [on[home[0]], *on[home], on[home[-1]]]
    classes: dict[StageClass, int] = {}
    index = []
    for stage, parts in enumerate(stages):
        before, own, behind = map(int, own_nodes[stage : stage + 3])
        beside = before if apart[stage] else own, own, behind if apart[stage + 1] else own
        kind = StageKind(tuple(name for name, _ in parts), apart[stage], apart[stage + 1], beside)
        each = StageClass(kind, tuple(copies for _, copies in parts))
        index.append(classes.setdefault(each, len(classes)))
    by_rank = np.argsort(home, kind="stable").reshape(num_ranks, -1)
    counts = np.eye(len(classes), dtype=np.int64)[index]
    own_classes = counts[by_rank].sum(axis=1)
    pairs = schedules.stage_pairs(schedule, num_ranks, len(stages) // num_ranks)
    class_pairs, pair_index = np.unique(np.array(index)[pairs], axis=0, return_inverse=True)
    of_stages = tuple(classes), np.array(index), home, by_rank, counts, own_classes, pairs, class_pairs, pair_index.ravel()
    in_pairs = SPLIT if found.weights_apart else found.phases
    return Shape(schedule, num_ranks, on, layers * found.num_copies, found.num_copies, found.phases, in_pairs, *of_stages)
