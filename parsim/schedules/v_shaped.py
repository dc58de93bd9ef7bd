"""What V-shaped schedules share: two chunks a rank, one on the way to the last rank and one on the way back, and a split backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.schedules.action import Action
from parsim.schedules.phase import SPLIT, Phase
from parsim.schedules.schedule import Schedule

Turn = tuple[int, Phase]  # a stage of the rank, and what is done for its next micro_batch
_PERIOD = 6  # slots: three phases of two chunks


class VShaped(Schedule):
    """The first rank holds the first and the last stage.  Source: Qi et al. 2023 (arXiv:2401.10241), section 6."""

    phases = SPLIT

    def legal(self, num_ranks: int, chunks: int, num_micro_batches: int | None) -> str | None:
        """Two chunks a rank."""
        return None if chunks == 2 else f"runs two chunks of the model a rank: virtual_pipeline = 2, not {chunks}"

    def rank_of(self, stage: int, num_ranks: int) -> int:
        """Down the ranks and up again."""
        return min(stage, 2 * num_ranks - 1 - stage)


def in_order(turns: Iterable[Turn], num_micro_batches: int) -> Iterator[Action]:
    """Each turn with the next micro_batch of its stage and phase; those beyond the last are left out."""
    count: Counter[Turn] = Counter()
    for stage, phase in turns:
        if count[stage, phase] < num_micro_batches:
            yield Action(stage, phase, count[stage, phase])
        count[stage, phase] += 1


class BuildingBlocks(VShaped, ABC):
    """A micro_batch passes down and up the V in fixed slots, the next one six slots later; weights take the slots that are left.

    Source: Qi et al. 2024 (arXiv:2405.15362), section 3: what lies between F and I of a stage is what its activations live for.
    """

    steady_rounds = 6

    @abstractmethod
    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        """Of F down, F up, I up and I down, for micro_batch 0; no two of one rank are equal modulo six."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        """By slot."""
        down, up = rank, 2 * num_ranks - 1 - rank
        m = np.arange(num_micro_batches)
        taken = [_PERIOD * m + first for first in self.slots(rank, num_ranks)]
        backward = np.concatenate(taken[2:])
        order = np.argsort(backward)
        weights = np.empty_like(backward)
        weights[order] = _free(np.concatenate(taken), backward[order])
        rows = [(down, 0), (up, 0), (up, 1), (down, 1), (up, 2), (down, 2)]
        when = np.concatenate([*taken, weights])
        stages, phases = (np.repeat([row[i] for row in rows], num_micro_batches) for i in (0, 1))
        return np.stack([stages, phases, np.tile(m, len(rows))])[:, np.argsort(when, kind="stable")]


def _free(taken: Ints, after: Ints) -> Ints:
    """For each of some times, in order, the next slot behind it that nobody has."""
    free = np.setdiff1d(np.arange(after[-1] + len(after) + 2), taken)
    k = np.arange(len(after))
    return np.asarray(free[k + np.maximum.accumulate(np.searchsorted(free, after) - k)])
