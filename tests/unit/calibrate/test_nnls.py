"""The fit: known answers by hand, and the conditions that make an answer the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.calibrate.samples import nnls, relative_fit


def test_a_law_without_noise_is_found_again() -> None:
    features = np.array([[1.0, n, n * n] for n in range(1, 8)])
    assert nnls(features, features @ np.array([3.0, 0.0, 2.0])) == pytest.approx([3.0, 0.0, 2.0], abs=1e-9)  # lstsq: 1e-12 of the largest


def test_a_falling_line_is_flat_where_no_coefficient_may_be_negative() -> None:
    features = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    seconds = np.array([3.0, 2.0, 1.0])  # 4 - n without the sign rule; with it the mean, 2
    assert nnls(features, seconds) == pytest.approx([2.0, 0.0])
    assert np.linalg.lstsq(features, seconds, rcond=None)[0] == pytest.approx([4.0, -1.0])


def test_errors_count_relative_to_what_was_measured() -> None:
    # Of (x - 1)^2 + (x / 3 - 1)^2 the slope is zero at x (1 + 1/9) = 1 + 1/3.
    assert relative_fit(np.array([[1.0], [1.0]]), np.array([1.0, 3.0])) == pytest.approx([1.2])


def test_columns_of_very_different_units_do_not_disturb_one_another() -> None:
    flops = np.array([1e6, 1e8, 1e9, 3e7])
    features = np.stack([np.ones(4), flops, flops[::-1] * 1e3], axis=1)
    truth = np.array([2e-5, 1e-11, 0.0])
    assert relative_fit(features, features @ truth) == pytest.approx(truth, rel=1e-6, abs=1e-17)


def test_a_column_of_zeros_is_left_at_zero() -> None:
    assert nnls(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([2.0, 2.0])) == pytest.approx([2.0, 0.0])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(6, 12))
def test_no_answer_is_better(seed: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    x = nnls(a, b)
    gradient = a.T @ (a @ x - b)  # Karush 1939, Kuhn and Tucker 1951: no descent along a free column, none into a column at zero
    assert np.all(x >= 0)
    assert np.all(gradient >= -1e-8)
    assert np.all(np.abs(gradient[x > 0]) <= 1e-8)
