"""What V-shaped schedules share: two chunks a rank, one on the way to the last rank and one on the way back, and a split backward."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules.phase import SPLIT
from parsim.schedules.reordering import WEIGHTS, reorder
from parsim.schedules.schedule import Schedule

# What is done next, for the next micro_batch: each phase of the stage on the way down, then of the one on the way up.
DF, DI, DW, UF, UI, UW = TURNS = range(2 * len(SPLIT))
_PERIOD = 6  # slots: three phases of two chunks
_STEADY = 2  # micro_batches for each rank and one, of which those in the middle pass as any further ones would
_INSIDE = 5  # actions of a rank for each of these, behind which the middle goes on


class VShaped(Schedule):
    """The first rank holds the first and the last stage.  Source: Qi et al. 2023 (arXiv:2401.10241), section 6."""

    phases = SPLIT

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Two chunks a rank."""
        return None if chunks == 2 else f"runs two chunks of the model a rank: virtual_pipeline = 2, not {chunks}"

    def rank_of(self, stage: int, num_ranks: int) -> int:
        """Down the ranks and up again."""
        return min(stage, 2 * num_ranks - 1 - stage)


def in_order(turns: Sequence[int], stages: tuple[int, int], num_micro_batches: int) -> Ints:
    """Each turn of a rank, which holds these stages, with the next micro_batch; those beyond the last are left out."""
    own, number = np.array(turns), np.empty(len(turns), dtype=np.int64)
    for turn in TURNS:
        number[own == turn] = np.arange(np.sum(own == turn))
    chunk, phase = divmod(own, len(SPLIT))
    return np.stack([np.array(stages)[chunk], phase, number])[:, number < num_micro_batches]


class BuildingBlocks(VShaped, ABC):
    """A micro_batch passes down and up the V in fixed slots, the next one six slots later; weights take the slots that are left.

    Warm-up and end are reordered.  Source: Qi et al. 2024 (arXiv:2405.15362), section 3: what lies between F and I of a stage is what its
    activations live for.
    """

    steady_rounds = 6

    @abstractmethod
    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        """Of F down, F up, I up and I down, for micro_batch 0; no two of one rank are equal modulo six."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """In the order of reordered slots, of which a steady state repeats."""
        least, cut = _STEADY * (num_ranks + 1), _INSIDE * (num_ranks + 1)
        kinds, more = _kinds(self, num_ranks, min(num_micro_batches, least))[rank], max(0, num_micro_batches - least)
        kinds = np.concatenate([kinds[:cut], np.tile(kinds[cut : cut + _PERIOD], more), kinds[cut:]])
        down, up = rank, 2 * num_ranks - 1 - rank
        stages, phases = np.array([down, up, up, down, -1])[kinds], np.array([0, 0, 1, 1, 2])[kinds]
        number = np.empty_like(kinds)
        for kind in range(WEIGHTS):
            number[kinds == kind] = np.arange(num_micro_batches)
        backwards = phases == 1
        for column in (stages, number):
            column[kinds == WEIGHTS] = column[backwards]
        return np.stack([stages, phases, number])


@functools.lru_cache(maxsize=256)
def _kinds(blocks: BuildingBlocks, num_ranks: int, num_micro_batches: int) -> list[Ints]:
    """What each rank runs, first to last, as indices of kinds of slots."""
    starts = (blocks.slots(rank, num_ranks) for rank in range(num_ranks))
    ranks = reorder([[[*range(start, start + _PERIOD * num_micro_batches, _PERIOD)] for start in each] for each in starts])
    kind = np.repeat(range(WEIGHTS + 1), [len(own) for own in ranks[0]])
    return [kind[np.argsort(np.concatenate(slots))] for slots in ranks]
