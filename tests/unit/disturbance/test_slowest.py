"""The largest of n factors against closed forms, within the error that so many draws have."""

from __future__ import annotations

from math import asin, erf, pi, sqrt

import numpy as np
import pytest

from parsim.cost.slowest import draw_slowest
from parsim.scenario import Jitter

DRAWS = 40_000
FAR = 4.5  # standard errors: one draw in 150,000 is farther off by chance, and the seed is fixed
HARMONIC = {n: sum(1 / k for k in range(1, n + 1)) for n in (1, 2, 8, 64)}
# E of the largest of n standard normal numbers: Harter 1961, Biometrika 48, table 1; of 2 and 3, 1 / sqrt(pi) and 3 / (2 sqrt(pi)).
NORMAL = {1: 0.0, 2: 1 / sqrt(pi), 3: 1.5 / sqrt(pi), 4: 1.5 / sqrt(pi) * (1 + 2 / pi * asin(1 / 3)), 10: 1.53875}


def mean_of(jitter: Jitter, count: int) -> tuple[float, float]:
    """The mean of the largest, and its standard error."""
    drawn = draw_slowest(jitter, np.random.default_rng(count), (DRAWS,), count)
    return float(drawn.mean()), float(drawn.std()) / sqrt(DRAWS)


@pytest.mark.parametrize("count", HARMONIC)
@pytest.mark.parametrize("distribution", ["exponential", "gamma"])  # a gamma factor with cv = 1 is exponential
def test_the_slowest_of_n_exponential_factors_takes_the_harmonic_number(distribution: str, count: int):
    mean, error = mean_of(Jitter(distribution, 1.0), count)
    assert abs(mean - HARMONIC[count]) < FAR * error


def test_a_shifted_exponential_factor_adds_cv_times_the_harmonic_number_less_1():
    mean, error = mean_of(Jitter("exponential", 0.1), 8)
    assert abs(mean - (1 + 0.1 * (HARMONIC[8] - 1))) < FAR * error


@pytest.mark.parametrize("count", NORMAL)
def test_the_slowest_of_n_normal_factors_is_the_order_statistic(count: int):
    mean, error = mean_of(Jitter("normal", 0.05), count)
    assert abs(mean - (1 + 0.05 * NORMAL[count])) < FAR * error


@pytest.mark.parametrize("count", [1, 2, 8, 1000])
def test_the_slowest_of_n_uniform_factors_is_n_over_n_plus_1_of_the_way(count: int):
    half = sqrt(3) * 0.1
    mean, error = mean_of(Jitter("uniform", 0.1), count)
    assert abs(mean - (1 - half + 2 * half * count / (count + 1))) < FAR * error


def test_the_slower_of_two_lognormal_factors_is_twice_the_normal_probability_of_sigma_over_root_2():
    sigma = sqrt(np.log(1 + 0.5**2))  # E max(X, Y) = 2 Phi(sigma / sqrt(2)) for means of 1, as of an option to exchange: Margrabe 1978
    mean, error = mean_of(Jitter("lognormal", 0.5), 2)
    assert abs(mean - (1 + erf(sigma / 2))) < FAR * error


@pytest.mark.parametrize("distribution", ["normal", "lognormal", "gamma", "exponential", "uniform"])
def test_every_factor_has_a_mean_of_1_and_the_stated_coefficient_of_variation(distribution: str):
    drawn = draw_slowest(Jitter(distribution, 0.2), np.random.default_rng(1), (10 * DRAWS,), 1)
    assert abs(drawn.mean() - 1) < FAR * 0.2 / sqrt(10 * DRAWS)
    assert drawn.std() == pytest.approx(0.2, rel=0.02)  # an exponential one's own error is 0.0032 of it


@pytest.mark.parametrize("distribution", ["gamma", "uniform"])
def test_how_many_are_drawn_may_differ_from_place_to_place(distribution: str):
    count = np.repeat([0, 1, 3], DRAWS).reshape(3, DRAWS)
    none, one, three = draw_slowest(Jitter(distribution, 0.3), np.random.default_rng(0), (3, DRAWS), count)
    assert not none.any() and three.mean() > one.mean() > 0.9
    mean, error = mean_of(Jitter(distribution, 0.3), 3)
    assert abs(three.mean() - mean) < FAR * sqrt(2) * error


def test_without_jitter_all_are_1():
    assert draw_slowest(None, np.random.default_rng(0), (3,), 5).tolist() == [1, 1, 1]
