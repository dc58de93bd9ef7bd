"""What error is to be expected of a prediction: a mixture of those of comparable runs, and the interval that holds 8 of 10 of them."""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, combinations
from statistics import NormalDist, median
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.confidence.runs import FIGURES, STEP, ComparedRun, known_runs
from parsim.confidence.setting import Setting

LOW, HIGH = 0.1, 0.9  # percentiles of an interval that holds 80 %
# Runs of one source are alike, since what is wrong with one is wrong with its others: n of them are worth n / (1 + ALIKE n), at most 9, as
# sources of one software are 2.5 % apart and rows of one source 7.5 % (shrink.py, DEVIATIONS), squared.  With 0, as if all
# were independent, 75.7 % of 888 steps and 77.3 % of 445 peaks are inside, instead of 81.6 and 82.5 %.
ALIKE: Final = 1 / 9
# Runs, in worth, of a pool that weigh as much as all that is known around it: two thirds of the most that one source is worth.  From 4 to
# 20 are 80.4 to 83.8 % of 383 published steps inside, each without its source and what was fitted to that, and with 6 82.5 %.
PRIOR: Final = 6
# How much further off predictions were: 484 steps 1.04 times and 208 allocated peaks 1.4 times where no run of their stack is on their
# accelerator; 629 steps 1.17 times where those of their stack have at most half their devices; 17 steps 1.45 times that do not say whether
# anything runs again.  All of these are parsim fits.
OTHER_ACCELERATOR, MORE_DEVICES, ASSUMED = 1.1, 1.2, 1.4
# Of a normal distribution: a standard deviation over the median distance from its middle, and how many of them the interval reaches.
_DEVIATION, _REACH = 1 / NormalDist().inv_cdf(0.75), NormalDist().inv_cdf(HIGH)
_WORDS: Final = ((0.9, "yes"), (0.5, "likely"), (0.1, "unlikely"), (0.0, "no"))


class ErrorSpread(Struct, frozen=True):
    """The errors to expect of a prediction, log(measured / predicted), each with the share of all that is below its middle."""

    errors: tuple[float, ...]  # ascending
    shares: tuple[float, ...]
    wider: float  # times which all are
    level: str  # the narrowest pool that has runs: stack, class, or all where nothing is comparable
    num_runs: int  # of it
    sources: tuple[str, ...]
    reasons: tuple[str, ...]  # why it is wider
    weight: float = 1.0  # with which that pool counts, beside those around it

    def quantile(self, share: float) -> float:
        """The error below which that share of all is to be expected; between errors along a line, the last ones beyond them."""
        place = bisect_left(self.shares, share)
        if place in (0, len(self.shares)):
            return self.wider * self.errors[min(place, len(self.errors) - 1)]
        low, high = self.shares[place - 1], self.shares[place]
        part = (share - low) / (high - low)
        return self.wider * (self.errors[place - 1] * (1 - part) + self.errors[place] * part)

    def below(self, error: float) -> float:
        """The share of errors below one: what `quantile` inverts.

        >>> even = ErrorSpread((-0.2, 0.0, 0.2), (0.25, 0.5, 0.75), 1.0, "all", 3, (), ())
        >>> even.below(0.1), even.below(-1.0), even.below(1.0), even.quantile(0.625)
        (0.625, 0.0, 1.0, 0.1)
        """
        own = error / self.wider
        place = bisect_left(self.errors, own)
        if place == len(self.errors):
            return 1.0
        if place == 0:
            return self.shares[0] if own == self.errors[0] else 0.0
        low, high = self.errors[place - 1], self.errors[place]
        part = (own - low) / (high - low)
        return self.shares[place - 1] * (1 - part) + self.shares[place] * part

    def around(self, predicted: float) -> tuple[float, float]:
        """The interval that holds 80 % of what will be measured, and the prediction itself.

        >>> low, high = ErrorSpread((-0.1, 0.0, 0.1), (0.1, 0.5, 0.9), 2.0, "all", 3, (), ()).around(10.0)
        >>> round(low, 3), round(high, 3)
        (8.187, 12.214)
        """
        return predicted * math.exp(min(self.quantile(LOW), 0.0)), predicted * math.exp(max(self.quantile(HIGH), 0.0))


@functools.lru_cache(maxsize=256)
def spread_of(figure: str, setting: Setting, without: str = "") -> ErrorSpread:
    """What error to expect of a figure there.

    Args:
        figure: one of FIGURES.
        without: a family of sources whose runs are left out.
    """
    assert figure in FIGURES
    return mixture(_others(figure, without), setting, figure)


@functools.lru_cache(maxsize=256)
def _others(figure: str, without: str) -> tuple[ComparedRun, ...]:
    """The runs that state a figure, but for those of a source."""
    return tuple(run for run in known_runs() if getattr(run, figure) is not None and run.source != without)


def _error_of(run: ComparedRun, figure: str, setting: Setting) -> float:
    """The error that a run teaches, of figures that did not see it, as they did not see a new one.

    Of its own stack: fitted to other models.  Of another: without what was fitted to its source, which that stack has nothing of.  As they
    are, with the figures that saw them, 76.5 % of 888 steps are inside, not 81.6 %.  What a run assumed made its error larger, which is
    put back where it is asked for: with it, 92.7 % of 247 allocated peaks are inside where each one's source is left out, not 87.4 %.
    """
    unseen = run.step_unseen if run.stack == setting.stack else run.step_left_out
    error = float(getattr(run, figure)) if figure != STEP or unseen is None else unseen
    return error / ASSUMED**run.num_assumed


def mixture(known: Sequence[ComparedRun], setting: Setting, figure: str) -> ErrorSpread:
    """The mixture over pools of these runs, all of which state the figure."""
    told = sorted((_error_of(run, figure, setting), run.id, run) for run in known)
    own = [run for *_, run in told]
    # Bytes of a class are counted alike on any accelerator and by any stack; times are not.
    comparable = figure != STEP or any(setting.stack == run.stack or setting.accelerator == run.accelerator for run in own)
    alike = [comparable and run.kind == setting.kind for run in own]
    ours = [same and run.stack == setting.stack for same, run in zip(alike, own, strict=True)]
    here = [same and run.accelerator == setting.accelerator for same, run in zip(ours, own, strict=True)]
    everything = [True] * len(own)
    level, pool = ("stack", ours) if any(ours) else ("class", alike) if any(alike) else ("all", everything)
    weights, left, weight_of_nearest = [0.0] * len(own), 1.0, 0.0
    for each in (here, ours, alike, everything):
        worth = _worth(own, each)
        if size := sum(worth):
            mass = left * size / (size + PRIOR) if each is not everything else left
            weights = [weight + mass / size * part for weight, part in zip(weights, worth, strict=True)]
            left -= mass
        if each is pool:
            weight_of_nearest = 1 - left
    ends = [*accumulate(weights)]
    nearest = [run for run, held in zip(own, pool, strict=True) if held]
    spread = ErrorSpread(
        errors=tuple(error for error, *_ in told),
        shares=tuple((end - weight / 2) / ends[-1] for end, weight in zip(ends, weights, strict=True)),
        wider=1.0,
        level=level,
        num_runs=len(nearest),
        sources=tuple(sorted({run.source for run in nearest})),
        reasons=(),
        weight=weight_of_nearest,
    )
    is_new = figure == STEP and all(run.accelerator != setting.accelerator for run in own)
    found = [*_reasons(setting, level, nearest, figure, is_new=is_new), *((_of_new_accelerator(spread, told, setting),) if is_new else ())]
    return replace(spread, wider=math.prod(factor for factor, _ in found), reasons=tuple(why for _, why in found))


def _of_new_accelerator(spread: ErrorSpread, told: Sequence[tuple[float, str, ComparedRun]], setting: Setting) -> tuple[float, str]:
    """How much wider where nobody measured the accelerator, whose figures are off by as much on all of its runs: a tenth at least.

    What accelerators are apart comes on top of what runs of those measured are, as of two normal distributions.
    """
    half, apart = (spread.quantile(HIGH) - spread.quantile(LOW)) / 2, accelerators_apart(told)
    wider = math.hypot(half, _REACH * apart) / half if half else 1.0
    return max(wider, OTHER_ACCELERATOR), f"none of any on {setting.accelerator}, and accelerators are {100 * apart:.0f} % apart"


def accelerators_apart(told: Sequence[tuple[float, str, ComparedRun]]) -> float:
    """The standard deviation of the accelerators' own median errors, by medians, since one of them may be wrong by half."""
    medians = [median(error for error, _, run in told if run.accelerator == name) for name in {run.accelerator for *_, run in told}]
    middle = median(medians)
    return _DEVIATION * median(abs(each - middle) for each in medians)


def _worth(runs: Sequence[ComparedRun], pool: Sequence[bool]) -> list[float]:
    """What each run of a pool is worth, 0 outside of it: the less, the more of its source are in it."""
    sizes = Counter(run.source for run, held in zip(runs, pool, strict=True) if held)
    return [held / (1 + ALIKE * sizes[run.source]) for run, held in zip(runs, pool, strict=True)]


def _reasons(setting: Setting, level: str, nearest: Sequence[ComparedRun], figure: str, *, is_new: bool) -> list[tuple[float, str]]:
    """What makes an interval wider than the errors of the nearest runs, and by how much; `is_new`: nobody compared a step there."""
    found = []
    if not is_new and (level != "class" or figure != STEP) and all(run.accelerator != setting.accelerator for run in nearest):
        found.append((OTHER_ACCELERATOR, f"none of these on {setting.accelerator}"))
    most = max(run.num_devices for run in nearest)
    if setting.num_devices > most:
        found.append((MORE_DEVICES, f"{setting.num_devices:,} devices, they have {most:,} at most"))
    if setting.num_assumed:
        found.append((ASSUMED**setting.num_assumed, "what runs again, or the micro_batch, is assumed"))
    return found


def verdict(probability: float) -> str:
    """Whether a plan fits, in a word, from the probability that it does.

    >>> [verdict(each) for each in (1.0, 0.9, 0.89, 0.5, 0.49, 0.1, 0.09)]
    ['yes', 'yes', 'likely', 'likely', 'unlikely', 'unlikely', 'no']
    """
    return next(word for least, word in _WORDS if probability >= least)


@functools.cache
def pair_spread(kind: str) -> float:
    """How far the errors of two plans of one sweep differ in 8 of 10 pairs, log of a ratio: most of their error is the same.

    A sweep counts as often as it has runs; pairs of all sweeps weigh as PRIOR runs beside those of one class.
    """
    return pair_spread_of(known_runs(), kind)


def pair_spread_of(known: Sequence[ComparedRun], kind: str) -> float:
    """The same, from these runs."""
    sweeps: dict[str, list[ComparedRun]] = {}
    for run in known:
        if run.sweep and run.step is not None:
            sweeps.setdefault(run.sweep, []).append(run)
    several = [each for each in sweeps.values() if len(each) > 1]
    num_all, num_alike = (sum(len(each) for each in several if each[0].kind in kinds) for kinds in ({run.kind for run in known}, {kind}))
    pairs = []
    for each in several:
        weight = (1 / (num_alike + PRIOR) if each[0].kind == kind else 0.0) + PRIOR / (num_alike + PRIOR) / num_all
        steps = [run.step or 0.0 for run in each]
        pairs += [(abs(one - other), 2 * weight / (len(each) - 1)) for one, other in combinations(steps, 2)]
    pairs.sort()
    ends = [*accumulate(weight for _, weight in pairs)]
    shares = tuple((end - weight / 2) / ends[-1] for end, (_, weight) in zip(ends, pairs, strict=True))
    return ErrorSpread(tuple(error for error, _ in pairs), shares, 1.0, "all", 0, (), ()).quantile(HIGH - LOW)
