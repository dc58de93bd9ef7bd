"""Formats of 8 and 4 bits: every number that they hold, ties, what is cut off; scales by group.  Bit for bit as ml_dtypes where it is."""

from __future__ import annotations

import numpy as np
import pytest

from parsim_kernels.narrow import FORMATS, absmax, nearest, quantise

ML_DTYPES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2", "e2m1": "float4_e2m1fn"}


def held(name: str) -> np.ndarray:
    """All finite numbers of a format by its bits: Micikevicius et al. 2022 (arXiv:2209.05433), table 1; OCP MX 1.0, section 5.3."""
    exponent_bits, fraction_bits, bias = {"e4m3": (4, 3, 7), "e5m2": (5, 2, 15), "e2m1": (2, 1, 1)}[name]
    found = []
    for exponent in range(2**exponent_bits):
        for fraction in range(2**fraction_bits):
            small = exponent == 0
            found.append((fraction / 2**fraction_bits + (not small)) * 2.0 ** (max(exponent, 1) - bias))
    kept = {"e4m3": found[:-1], "e5m2": found[:-4], "e2m1": found}[name]  # e4m3 gives NaN one code, e5m2 infinity and NaN an exponent
    return np.array(sorted({*kept, *(-x for x in kept)}))


@pytest.mark.parametrize("name", FORMATS)
def test_a_number_of_the_format_stays_and_what_lies_between_two_goes_to_the_nearer(name: str) -> None:
    numbers = held(name)
    assert np.array_equal(nearest(numbers, name), numbers) and numbers.max() == FORMATS[name].largest
    below, above = numbers[:-1], numbers[1:]
    middle, gap = (below + above) / 2, above - below
    assert np.array_equal(nearest(middle - gap / 1000, name), below)
    assert np.array_equal(nearest(middle + gap / 1000, name), above)
    assert nearest(np.array([1e9, -1e9]), name).tolist() == [numbers.max(), numbers.min()]


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_equals_ml_dtypes_bit_for_bit(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the extra [formats] is not installed: ml_dtypes")
    numbers, rng = held(name), np.random.default_rng(0)
    middle = (numbers[:-1] + numbers[1:]) / 2  # ties
    spread = rng.normal(0, 1, 20_000) * 2.0 ** rng.integers(-20, 8, 20_000)
    x = np.clip(np.concatenate([numbers, middle, spread]), numbers.min(), numbers.max())
    ours, theirs = nearest(x, name), x.astype(getattr(ml_dtypes, ML_DTYPES[name])).astype(np.float64)
    assert np.array_equal(ours.view(np.int64), theirs.view(np.int64))


def told(**others: object) -> dict[str, object]:
    return {"format": "e4m3", "scale": "fp32", "rows": 1, "across": 0, "along": 0, "layouts": "row col", **others}


def test_one_scale_takes_the_largest_element_to_the_largest_of_the_format() -> None:
    x = np.array([[1.0, 2.0, -7.0], [0.1, 0.0, 3.0]])
    (row, column), _ = quantise((x,), told())
    scale = float(np.float32(448 / 7))
    assert np.array_equal(row, nearest(x * scale, "e4m3") / scale) and np.array_equal(row, column)
    (known, _), _ = quantise((x, absmax((x,), {})[0][0]), told())
    assert np.array_equal(known, row)


@pytest.mark.parametrize(("layout", "turn"), [("row", lambda x: x), ("col", np.transpose)])
def test_blocks_lie_along_columns_or_along_rows(layout: str, turn: object) -> None:
    """Each block of two scaled by a power of two of its own: 448 holds 7 x 2^6 and 0.07 x 2^12."""
    x = turn(np.array([[7.0, 1.0, 0.07, 0.01], [0.7, 0.1, 70.0, 10.0]]))  # type: ignore[operator]
    (found,), _ = quantise((x,), told(scale="e8m0", along=2, across=1, layouts=layout))
    powers = turn(np.array([[2.0**6] * 2 + [2.0**12] * 2, [2.0**9] * 2 + [2.0**2] * 2]))  # type: ignore[operator]
    assert np.array_equal(found, nearest(x * powers, "e4m3") / powers)


def test_a_block_scale_of_8_bits_stands_beside_one_of_the_tensor() -> None:
    """NVFP4: 448 x 6 over the largest of all, then an e4m3 scale a block."""
    x = np.array([[6.0, 1.0], [0.5, 0.2]])
    (found,), _ = quantise((x,), told(format="e2m1", scale="e4m3", along=2, across=1, layouts="row"))
    of_tensor = 448 * 6 / 6.0
    block = nearest(np.array([6.0, 0.5]) / 6 * of_tensor, "e4m3")[:, None]
    assert found == pytest.approx(nearest(x * of_tensor / block, "e2m1") * block / of_tensor, rel=1e-15)


def test_parts_that_lie_on_other_ranks_are_scaled_by_themselves() -> None:
    x = np.array([[1.0, 0.3], [100.0, 33.0]])
    parts = [quantise((x[i : i + 1],), told())[0][0] for i in range(2)]
    tiles = {"tiles": (2, 1)}
    assert np.array_equal(quantise((x,), told(**tiles))[0][0], np.concatenate(parts))
    assert np.array_equal(quantise((x, absmax((x,), tiles)[0][0]), told(**tiles))[0][0], np.concatenate(parts))
    assert not np.array_equal(quantise((x,), told())[0][0], np.concatenate(parts))


def test_zeros_and_the_smallest_numbers_stay_finite() -> None:
    for x in (np.zeros((2, 2)), np.full((2, 2), 1e-300)):
        for scale in ("fp32", "e8m0", "e4m3"):
            assert np.isfinite(quantise((x,), told(scale=scale, along=2, across=1))[0][0]).all()


@pytest.mark.parametrize(("scale", "side"), [("fp32", 0), ("fp32", 4), ("e4m3", 4)])
def test_parts_of_flattened_matrices_are_rounded_as_the_matrices_are(scale: str, side: int) -> None:
    """Three ranks find what is largest in 2 matrices of 6 x 10 together, whose last part is padded and whose blocks end short."""
    x, length = np.random.default_rng(0).normal(size=(2, 6, 10)), 41
    how = told(format="e2m1", scale=scale, along=side, across=side, layouts="row", rows=1)
    whole = np.concatenate([quantise((each,), how)[0][0].ravel() for each in x])
    parts = np.pad(x.ravel(), (0, 3 * length - x.size)).reshape(3, length)
    cuts = [{**how, "cut": (place * length, 2, 6, 10)} for place in range(3)]
    largest = np.max([absmax((part,), cut)[0][0] for part, cut in zip(parts, cuts, strict=True)], axis=0)
    found = np.concatenate([quantise((part, largest), cut)[0][0] for part, cut in zip(parts, cuts, strict=True)])
    assert np.array_equal(found[: x.size], whole) and not found[x.size :].any()
