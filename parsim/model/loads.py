"""How many slots of a run of tokens each expert takes, and which tokens: tables of whole numbers that all readers of a step share."""

from __future__ import annotations

import functools
import heapq
import math
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np


class Slots(NamedTuple):
    """The slots of a run of tokens, those of one expert side by side."""

    loads: tuple[int, ...] = ()  # slots of each expert
    tokens: tuple[int, ...] = ()  # of each slot

    def by_rank(self, items: tuple[int, ...], num_ranks: int) -> tuple[tuple[int, ...], ...]:
        """What is told of each slot, by the ranks over which experts lie.

        >>> Slots((2, 0, 1, 1)).by_rank((7, 8, 9, 0), 2)
        ((7, 8), (9, 0))
        """
        starts = np.cumsum((0, *self.loads))[:: len(self.loads) // num_ranks].tolist()
        return tuple(items[start:stop] for start, stop in pairwise(starts))

    def within(self, capacity: int, *, padded: bool, policy: str = "position") -> Slots:
        """Of each expert no more than `capacity` tokens of a run, or as many slots, of which some are empty: token -1.

        By position the first are kept; by probs those of the largest gates, which are drawn as choices are.

        >>> Slots((3, 1), (0, 1, 2, 2)).within(2, padded=True)
        Slots(loads=(2, 2), tokens=(0, 1, 2, -1))
        """
        ends, draw = np.cumsum(self.loads).tolist(), np.random.default_rng(len(self.loads))
        kept = [sorted(self.tokens[end - load : end]) for end, load in zip(ends, self.loads, strict=True)]
        if policy == "probs":
            kept = [draw.permutation(own).tolist() for own in kept]
        kept = [sorted(own[:capacity]) for own in kept]
        kept = [[*own, *[-1] * (capacity - len(own))] for own in kept] if padded else kept
        return Slots(tuple(map(len, kept)), tuple(token for own in kept for token in own))


NO_SLOTS: Final = Slots()


def zipf(num_experts: int, skew: float, *seed: int) -> tuple[float, ...]:
    """Shares by Zipf's law with exponent `skew`, of experts whose places are drawn from a seed; a fixed one where none is given."""
    places = np.random.default_rng((num_experts, *seed) if seed else num_experts).permutation(num_experts)
    return tuple(float(place + 1) ** -skew for place in places)


@functools.lru_cache(maxsize=256)
def expert_loads(slots: int, num_experts: int, most: int, shares: tuple[float, ...] = ()) -> tuple[int, ...]:
    """Slots by expert, in proportion to their shares as near as whole numbers are; none above `most`.

    Without shares all have the same, the larger ones spread over them.

    >>> expert_loads(16, 3, 8), expert_loads(16, 4, 8, (1.0, 4.0, 2.0, 1.0))
    ((5, 5, 6), (2, 8, 4, 2))
    """
    if not shares:
        return tuple((expert + 1) * slots // num_experts - expert * slots // num_experts for expert in range(num_experts))
    fractions = [Fraction(share) for share in shares]
    scale = math.lcm(*(each.denominator for each in fractions))
    weights = [int(each * scale) for each in fractions]
    # Each slot goes to the expert that has least of what it should have, by weight / (2 n + 1) where it has n: Webster's method.  So many
    # have all whoever comes next; the rest by whole numbers that differ wherever such quotients do.
    sure, whole = max(2 * slots - num_experts, 0), sum(weights)
    found = [min(most, (weight * sure // whole + 1) // 2) for weight in weights]
    shift = 2 * (2 * most + 1).bit_length() + 1
    waiting = [(-((weight << shift) // (2 * own + 1)), expert) for expert, (weight, own) in enumerate(zip(weights, found, strict=True))]
    waiting = [each for each in waiting if found[each[1]] < most]
    heapq.heapify(waiting)
    for _ in range(slots - sum(found)):
        _, expert = heapq.heappop(waiting)
        found[expert] += 1
        if found[expert] < most:
            heapq.heappush(waiting, (-((weights[expert] << shift) // (2 * found[expert] + 1)), expert))
    return tuple(found)


@functools.lru_cache(maxsize=256)
def slot_tokens(loads: tuple[int, ...], run: int) -> tuple[int, ...]:
    """The token of each slot of a run, those of one expert side by side: experts, in an order drawn once, take turns round the run.

    So no expert has a token twice, each token has as many experts, and those of neighbouring ones meet as seldom as others do.

    >>> slot_tokens((1, 1, 2), 2)
    (1, 0, 0, 1)
    """
    order = np.random.default_rng(len(loads)).permutation(len(loads))
    starts = dict(zip(order.tolist(), np.cumsum([0, *(loads[expert] for expert in order)]).tolist(), strict=False))
    return tuple((starts[expert] + i) % run for expert, load in enumerate(loads) for i in range(load))


@functools.lru_cache(maxsize=256)
def slots_in_groups(loads: tuple[int, ...], run: int, num_groups: int, groups_per_token: int) -> Slots:
    """Slots of tokens of which none uses experts of more groups than so many, with loads as near to those asked for as that allows.

    One token after another takes the groups whose best experts still want most together, then of them the experts that want most.
    Loads come out as asked where all are equal and groups_per_token divides the experts of a token.
    Source: DeepSeek-AI 2024 (arXiv:2412.19437), section 2.1.2, with what experts want in place of affinities; how many of a group's best
    count: NVIDIA/Megatron-LM, megatron/core/transformer/moe/moe_utils.py (group_limited_topk).

    >>> slots_in_groups((1, 1, 1, 1), 2, 2, 1)
    Slots(loads=(1, 1, 1, 1), tokens=(0, 0, 1, 1))
    """
    experts, size = len(loads), len(loads) // num_groups
    chosen = sum(loads) // run
    order = np.random.default_rng(experts).permutation(experts)
    left, found, best = np.array(loads), np.zeros((experts, run), dtype=bool), max(1, chosen // groups_per_token)
    by_group, ends = left.reshape(num_groups, size), np.arange(num_groups)[:, None] * size
    places = np.empty(experts, dtype=np.int64)  # of experts in their groups
    for token in range(run):
        ranked = (-(left * experts + order)).reshape(num_groups, size).argsort(axis=1) + ends
        places[ranked] = np.arange(size)
        groups = np.lexsort((-by_group.sum(axis=1), -left[ranked[:, :best]].sum(axis=1)))[:groups_per_token]
        inside = (groups[:, None] * size + np.arange(size)).ravel()
        turns = (-left[inside] * size + places[inside]) * experts + order[inside]  # round the groups where experts want alike
        own = inside[turns.argpartition(chosen - 1)[:chosen]]
        left[own] -= 1
        found[own, token] = True
    return Slots(tuple(found.sum(axis=1).tolist()), tuple(np.nonzero(found)[1].tolist()))
