"""Actions of ZeRO 2 and 3: every pass gathers a segment's parameters, or scatters its gradients, over the data-parallel ranks.

With overlap both run on one stream beside compute: the next segment's parameters are gathered while this one runs (prefetch), and
an action ends when its last reduction has, as FSDP waits at the end of backward (Zhao et al. 2023, arXiv:2304.11277, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from parsim.estimator import maxplus
from parsim.step.sizes import Ints


class Part(NamedTuple):
    """Copies of a segment that follow one another in an action; picoseconds and bytes of one, by plan."""

    copies: Ints
    own_ps: Ints
    gather_ps: Ints | None  # of its parameters; None: they stay
    reduce_ps: Ints | None  # of its gradients; None in forward


def total_ps(parts: Sequence[Part], overlap: bool) -> Ints:
    """Picoseconds of an action whose segments run in this order."""
    if not overlap:
        return sum(
            (p.copies * (p.own_ps + _or_zero(p.gather_ps) + _or_zero(p.reduce_ps)) for p in parts), start=np.int64(0) * parts[0].copies
        )
    num_plans = len(parts[0].copies)
    first = _or_zero(parts[0].gather_ps) + np.zeros(num_plans, dtype=np.int64)
    state = np.stack([np.zeros(num_plans, dtype=np.int64), first, first], axis=1)  # compute, beside, when the parameters are there
    for index, part in enumerate(parts):
        following = parts[index + 1].gather_ps if index + 1 < len(parts) else None
        same = maxplus.power(_step(part, part.gather_ps, num_plans), np.maximum(part.copies - 1, 0))
        last = _step(part, following, num_plans)
        after = maxplus.apply(last, maxplus.apply(same, state))
        state = np.where((part.copies > 0)[:, None], after, state)
    return np.asarray(np.maximum(state[:, 0], state[:, 1]))


def _step(part: Part, following: Ints | None, num_plans: int) -> Ints:
    """One segment: it starts when its parameters are there, gathers the following one's beside itself, then reduces."""
    own, reduce = part.own_ps, _or_zero(part.reduce_ps)
    compute: list[Ints | None] = [own, None, own]
    if following is None:
        beside: list[Ints | None] = (
            [None, reduce + 0 * own, None] if part.reduce_ps is None else [own + reduce, reduce + 0 * own, own + reduce]
        )
        return maxplus.matrix([compute, beside, [None, None, None]], num_plans)
    ready: list[Ints | None] = [following, following, following]
    if part.reduce_ps is None:
        return maxplus.matrix([compute, ready, ready], num_plans)
    longer = np.maximum(own, following) + reduce
    return maxplus.matrix([compute, [longer, following + reduce, longer], ready], num_plans)


def _or_zero(ps: Ints | None) -> Ints:
    return np.zeros(1, dtype=np.int64) if ps is None else ps
