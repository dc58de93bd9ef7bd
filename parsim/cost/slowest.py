"""Factors of time around a mean of 1, and the largest of several: exactly, by the order statistic where it has a closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from parsim.cluster.scalars import Floats, Ints
from parsim.scenario.disturbance import Jitter


def _normal(rng: np.random.Generator, cv: float, shape: tuple[int, ...]) -> Floats:
    return np.maximum(1.0 + cv * rng.standard_normal(shape), 0.0)


def _lognormal(rng: np.random.Generator, cv: float, shape: tuple[int, ...]) -> Floats:
    variance = np.log1p(cv * cv)  # of the logarithm, whose mean is such that the factor's is 1
    return np.asarray(np.exp(np.sqrt(variance) * rng.standard_normal(shape) - variance / 2.0))


def _gamma(rng: np.random.Generator, cv: float, shape: tuple[int, ...]) -> Floats:
    return rng.standard_gamma(cv**-2.0, shape) * (cv * cv)


_OF_ONE: Final[Mapping[str, Callable[[np.random.Generator, float, tuple[int, ...]], Floats]]] = {
    "normal": _normal,
    "lognormal": _lognormal,
    "gamma": _gamma,
}


def _exponential(rng: np.random.Generator, cv: float, shape: tuple[int, ...], count: Ints) -> Floats:
    # The largest of n is below x with probability (1 - e^-x)^n, which is a uniform u: x = -ln(1 - u^(1/n)), and -ln u is exponential.
    return 1.0 - cv - cv * np.log(-np.expm1(-rng.standard_exponential(shape) / np.maximum(count, 1)))


def _uniform(rng: np.random.Generator, cv: float, shape: tuple[int, ...], count: Ints) -> Floats:
    half = np.sqrt(3.0) * cv  # a uniform number from 1 - half to 1 + half has this coefficient of variation
    return np.asarray(1.0 - half + 2.0 * half * np.exp(-rng.standard_exponential(shape) / np.maximum(count, 1)))


_OF_SEVERAL: Final = {"exponential": _exponential, "uniform": _uniform}


def draw_slowest(jitter: Jitter | None, rng: np.random.Generator, shape: tuple[int, ...], count: int | Ints) -> Floats:
    """The largest of `count` independent factors of each place; 0 where that is 0, and 1 without jitter.

    Args:
        jitter: what they follow; None: each is 1.
        rng: the source of numbers.
        shape: of the places.
        count: how many, broadcast over the places.

    >>> bool(np.all(draw_slowest(Jitter("uniform", 0.1), np.random.default_rng(0), (5,), 1000) > 1.15))
    True
    """
    many = np.asarray(count, dtype=np.int64)
    if jitter is None or not jitter.cv:
        found = np.ones(shape)
    elif jitter.distribution in _OF_SEVERAL:
        found = _OF_SEVERAL[jitter.distribution](rng, jitter.cv, shape, many)
    else:
        draw, found = _OF_ONE[jitter.distribution], np.zeros(shape)
        for number in range(int(many.max(initial=0))):
            each = draw(rng, jitter.cv, shape)
            np.maximum(found, each if many.ndim == 0 else np.where(many > number, each, 0.0), out=found)
    return found if many.min(initial=1) > 0 else np.where(many > 0, found, 0.0)
