"""What failures cost on average, in closed forms: a run renews itself at each checkpoint that is safe.

Failures come at random at a constant rate, whatever the run does but wait for a node.  All functions take numbers, or arrays of them.

Source: Daly 2006, Future Generation Computer Systems 22(3), for a run that stands still while it writes; Young 1974, CACM 17(9); Erlang
1917 for the wait.  That of a run that goes on while it writes is derived at `seconds_a_cycle`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from msgspec import Struct

from parsim.cluster.scalars import Scalar

_MOST_EXPONENT: Final = 600.0  # nothing is ever done beyond e to this, and floats end
_MOST_TURNS: Final = 100  # of Newton's method, which needs about log2 of the root and a few more


class Cycle(Struct, frozen=True):
    """What a checkpoint and a failure cost a run."""

    stall_s: Scalar  # that steps wait for each checkpoint
    hidden_s: Scalar  # then it is written for so long while they go on; 0 where they wait for that, too
    restart_s: Scalar  # from a failure until steps go on
    failures_per_s: Scalar

    def waits_s(self, interval_s: Scalar) -> Scalar:
        """How long a checkpoint must wait, on top of the stall, until the one before is written."""
        return np.maximum(0.0, np.asarray(self.hidden_s) - interval_s)

    def stalls_s(self, interval_s: Scalar) -> Scalar:
        """How long steps wait for a checkpoint on average: behind a restart none is being written."""
        waits = self.waits_s(interval_s)
        return self.stall_s + waits * np.exp(-np.asarray(self.failures_per_s) * (interval_s + self.stall_s + waits))


def seconds_a_cycle(cycle: Cycle, interval_s: Scalar) -> Scalar:
    """The mean time that takes a run from one safe checkpoint to the next, with `interval_s` of work between them.

    Let M be the time between failures, tau the work, d the stall, R the restart, w the time for which a checkpoint is written while steps
    go on, and s = max(0, w - tau) what the next waits for that.  Checkpoint k is safe w after its stall.  From there to the next such time
    a run needs P = tau + d + s without failure.  If one comes, it begins again at checkpoint k: R, the work behind it, the stall, and w,
    E2 = M (e^((R + tau + d + w) / M) - 1) in all, the mean time until so long a span passes without failure.  With the span before the
    first failure, of mean M (1 - e^(-P / M)), the whole is

        (1 - e^(-P / M)) (M + E2)  =  M e^((R + tau + d + w) / M) (1 - e^(-P / M)).

    Where w = 0 that is Daly's complete cost function, M e^(R / M) (e^((tau + d) / M) - 1); where w <= tau the same with R + w in place of
    R: a checkpoint that hides makes each restart longer by w, and no more.

    >>> minute = 60.0
    >>> daly = Cycle(5 * minute, 0.0, 10 * minute, 1 / (24 * 60 * minute))
    >>> round(float(seconds_a_cycle(daly, 117 * minute)) / minute, 2)
    128.2
    """
    rate, span = np.asarray(cycle.failures_per_s, dtype=float), interval_s + cycle.stall_s
    safe = np.where(rate > 0, rate, 1.0)
    turns = safe * (cycle.restart_s + span + cycle.hidden_s)
    again = np.where(turns > _MOST_EXPONENT, np.inf, np.exp(np.minimum(turns, _MOST_EXPONENT)))
    whole = span + cycle.waits_s(interval_s)
    return np.where(rate > 0, again * -np.expm1(-safe * whole) / safe, whole)


def efficiency(cycle: Cycle, interval_s: Scalar) -> Scalar:
    """Work over time."""
    return interval_s / seconds_a_cycle(cycle, interval_s)


def young_s(stall_s: Scalar, failures_per_s: Scalar) -> Scalar:
    """The interval of least cost to first order: sqrt(2 d M) (Young 1974)."""
    return np.sqrt(2 * stall_s / failures_per_s)


def daly_s(stall_s: Scalar, failures_per_s: Scalar) -> Scalar:
    """The same to higher order, of the work between two checkpoints.

    sqrt(2 d M) (1 + 1/3 sqrt(d / 2M) + 1/9 d / 2M) - d where d < 2M, else M.
    """
    half = stall_s * failures_per_s / 2
    found = young_s(stall_s, failures_per_s) * (1 + np.sqrt(half) / 3 + half / 9) - stall_s
    return np.where(half < 1, found, 1 / np.asarray(failures_per_s))


def optimum_s(cycle: Cycle) -> Scalar:
    """The interval at which a cycle takes least time for its work, exactly: also no shorter than a checkpoint is
    written for, unless that is longer than runs live.

    With x = (tau + d) / M the derivative of (e^x - 1) / tau vanishes where x + e^-x - 1 = d / M, whose left side is convex: Newton's
    method comes down to the root from 1 + d / M.

    >>> minute = 60.0
    >>> round(float(optimum_s(Cycle(5 * minute, 0.0, 10 * minute, 1 / (24 * 60 * minute)))) / minute)  # Daly 2006, figure 3
    117
    """
    share = np.asarray(cycle.stall_s * cycle.failures_per_s, dtype=float)
    x = 1 + share
    for _ in range(_MOST_TURNS):
        x = x - (x + np.expm1(-x) - share) / np.maximum(-np.expm1(-x), 1e-300)
    return np.maximum(x / cycle.failures_per_s - cycle.stall_s, np.minimum(cycle.hidden_s, 1 / np.asarray(cycle.failures_per_s)))


def waiting_share(servers: int, load: Any) -> Any:
    """The share of time in which all of `servers` are busy, where who finds them so goes away (Erlang 1917, formula B).

    Here a server is a node that may be missing, and the run stops when all are: it fails no more then, as if failures went away.  The
    share does not depend on how repair times are distributed (Sevastyanov 1957).

    >>> waiting_share(1, 0.25), round(waiting_share(2, 0.5), 4)
    (0.2, 0.0769)
    """
    found: Any = 1.0
    for number in range(1, servers + 1):
        found = load * found / (number + load * found)
        if not np.any(found):  # nor with more of them
            break
    return found


def missing_shares(loads: list[float]) -> list[float]:
    """The share of time in which so many nodes are missing, 0 to len(loads): `loads[j]` nodes fail in a repair time while j are missing.

    A birth-death process: p_j is as the product of loads[i] / (i + 1) over i < j, whatever the distribution of repairs.

    >>> [round(each, 4) for each in missing_shares([0.5, 0.5])] == [round(each / 1.625, 4) for each in (1, 0.5, 0.125)]
    True
    """
    with np.errstate(divide="ignore"):  # of 0, whose logarithm is -inf
        logarithms = np.log(np.asarray(loads, dtype=float)) - np.log(np.arange(1, len(loads) + 1))
    found = np.concatenate([[0.0], np.cumsum(logarithms)])  # floats would end where many are missing
    shares = np.exp(found - found.max())
    return [float(each) for each in shares / shares.sum()]
