"""What disturbs one pipeline in some steps, as drawn: factors of time.  `estimator` and `simulator` read the same ones.

A rank of a pipeline is the devices that wait for one another inside its passes: a factor is that of the slowest of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Floats, Ints


class Factors(Struct, frozen=True, eq=False):
    """Of each action of a pipeline, rank by rank in order of issue, and behind them of each rank's end of the step.

    Arrays [action + rank, sample], or of 1 for all samples; None: all are 1.  `more` and `less` say which documents micro_batches have,
    [micro_batch, sample]: how far each is from the usual ones towards those that cost most, and towards those that cost least.
    """

    num_samples: int
    kernels: Floats | None = None
    links: Floats | None = None
    more: Floats | None = None
    less: Floats | None = None

    def behind(self, num_actions: int) -> Factors:
        """The same of the ends of a step only."""
        kernels, links = (None if each is None else each[num_actions:] for each in (self.kernels, self.links))
        return Factors(self.num_samples, kernels, links)

    def take(self, sample: int) -> Factors:
        """The same of one of the samples."""
        names = ("kernels", "links", "more", "less")
        found = {name: each[:, sample % each.shape[1]][:, None] for name in names if (each := getattr(self, name)) is not None}
        return Factors(1, **found)


class Hosted(Struct, frozen=True, eq=False):
    """Segments that are alike, whose kernels the host launches meanwhile, as fast as ever, [action, 1] each."""

    copies: Ints  # in an action
    kernels: Ints  # picoseconds of a segment
    wait: Ints  # and by how much its launches end after all else, as a rule; below 0: before


class DelayParts(Struct, frozen=True, eq=False):
    """What factors lengthen of actions, picoseconds, [action, 1]: kernels, waits for links, and what other documents change."""

    kernels: Ints
    waits: Ints
    most: Ints  # with the documents that cost most, less the usual ones
    least: Ints  # and with those that cost least: below 0
    hosted: tuple[Hosted, ...] = ()

    def take(self, actions: Ints) -> DelayParts:
        """The same of some of the actions."""
        hosted = tuple(Hosted(*(each[actions] for each in (own.copies, own.kernels, own.wait))) for own in self.hosted)
        return DelayParts(self.kernels[actions], self.waits[actions], self.most[actions], self.least[actions], hosted)


def delays_ps(factors: Factors, rows: Ints | Sequence[int], parts: DelayParts, micro_batches: Ints) -> Ints | None:
    """How much later actions begin than they could, so that all that is in them is later by as much; None where nothing disturbs them.

    A pass whose kernels take k times as long, and its waits for links l times, is (k - 1) kernels + (l - 1) waits longer, less what of
    this its segments wait for launches of the host now, and more what faster kernels wait for them.  It is counted before its first
    kernel: what it hides goes on being hidden.  Rounded once, to whole picoseconds.

    Args:
        factors: as drawn.
        rows: of the actions in these.
        parts: of the same actions.
        micro_batches: of each.
    """
    kernels = factors.kernels[rows] if factors.kernels is not None else None
    found = (kernels - 1.0) * parts.kernels + _waits_ps(kernels - 1.0, parts.hosted) if kernels is not None else None
    if factors.links is not None and parts.waits.any():
        waits = (factors.links[rows] - 1.0) * parts.waits
        found = waits if found is None else found + waits
    if factors.more is not None and factors.less is not None:
        other = factors.more[micro_batches] * parts.most + factors.less[micro_batches] * parts.least
        other = other if kernels is None else other * kernels
        found = other if found is None else found + other
    return None if found is None else np.rint(found).astype(np.int64)


def _waits_ps(more: Floats, hosted: Sequence[Hosted]) -> Floats | float:
    """How much longer actions wait for launches whose kernels take so much more of their time."""
    found: Floats | float = 0.0
    least = float(more.min(initial=0.0))
    for each in hosted:
        if (each.wait > np.minimum(least * each.kernels, 0.0)).any():  # else nobody waits, or would
            found = found + each.copies * (np.maximum(each.wait - more * each.kernels, 0.0) - np.maximum(each.wait, 0.0))
    return found


def stretched_ps(factor: Floats, ps: Ints) -> Ints:
    """What takes so many times as long, in whole picoseconds.

    >>> stretched_ps(np.array([1.0, 1.5]), np.array([3, 3])).tolist()
    [3, 4]
    """
    return np.rint(factor * ps).astype(np.int64)
