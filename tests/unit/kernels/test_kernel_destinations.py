"""Where kernels write, in what dtype, and that the size of a block changes no result."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernel_flops import CASES

from parsim_kernels import KERNELS, attention, blocks, lookup
from parsim_kernels.kernels import OVERLAYS
from parsim_kernels.pool import Into

Array = npt.NDArray[Any]


def poisoned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Memory whose old values would show."""
    return np.full(shape, np.nan if dtype.kind == "f" else -99, dtype)


def drawn(name: str) -> tuple[tuple[Array, ...], dict[str, object]]:
    """The case's inputs with numbers that differ; positive, as variances and sums of exponentials are."""
    inputs, attributes, _ = CASES[name]
    rng = np.random.default_rng(0)
    return tuple(x if x.dtype.kind == "i" else rng.uniform(0.5, 1.5, x.shape) for x in inputs), attributes


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_arrays_of_out_in_their_order_and_depend_on_nothing_in_them(name: str) -> None:
    inputs, attributes = drawn(name)
    given: list[Array] = []

    def out(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        given.append(poisoned(shape, dtype))
        return given[-1]

    results, _ = KERNELS[name](inputs, attributes, out)
    assert [id(result) for result in results] == [id(array) for array in given]
    for result, expected in zip(results, KERNELS[name](inputs, attributes)[0], strict=True):
        assert np.array_equal(result, expected)


@pytest.mark.parametrize("name", sorted(OVERLAYS))
def test_a_kernel_that_may_write_over_its_inputs_has_the_same_bits_there(name: str) -> None:
    inputs, attributes = drawn(name)
    expected = KERNELS[name](inputs, attributes)[0]
    own = [array.copy() for array in inputs]
    results, _ = KERNELS[name](own, attributes, Into(own, poisoned))
    for result, array, value in zip(results, own, expected, strict=False):
        assert result is array
        assert np.array_equal(result, value)


@pytest.mark.parametrize("name", CASES)
def test_float32_gives_float32_near_the_result_in_float64(name: str) -> None:
    inputs, attributes = drawn(name)
    single = [x if x.dtype.kind == "i" else x.astype(np.float32) for x in inputs]
    for result, expected in zip(KERNELS[name](single, attributes)[0], KERNELS[name](inputs, attributes)[0], strict=True):
        assert result.dtype == np.float32
        near = 1e-6 * max(10, np.abs(expected).max())  # 1e-7 a rounding of the largest; a variance of 0.1 and differences magnify it
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=near)


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_two_rows_or_a_few_elements_change_no_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, attributes = drawn(name)
    whole = KERNELS[name](inputs, attributes)[0]
    for module in (blocks, attention, lookup):
        monkeypatch.setattr(module, "BLOCK_BYTES", 72)
    monkeypatch.setattr(attention, "_TILE", 2)
    for result, expected in zip(KERNELS[name](inputs, attributes)[0], whole, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-14, atol=1e-15)  # sums over blocks are in another order


def test_blocks_cover_every_row_once_and_end_where_the_array_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 3 * 4 * 8)
    matrix, row = np.arange(28.0).reshape(7, 4), np.arange(7.0)
    parts = list(blocks.blocks(matrix, row, scratch=1))
    assert [len(part) for part, _, _ in parts] == [3, 3, 1]
    assert np.array_equal(np.concatenate([part for part, _, _ in parts]), matrix)
    assert [room.shape for _, _, room in parts] == [(3, 4), (3, 4), (1, 4)]


LETTERS = "abcdef"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_einsum_of_any_layout_and_extents_of_one_equals_numpys_on_small_integers(data: st.DataObject) -> None:
    sizes = {dim: data.draw(st.sampled_from((1, 2, 3, 5))) for dim in LETTERS}
    left, right = (data.draw(st.lists(st.sampled_from(LETTERS), unique=True)) for _ in range(2))
    dims = sorted({*left, *right})
    out = data.draw(st.permutations(dims))[: data.draw(st.integers(0, len(dims)))]
    rng = np.random.default_rng(0)
    operands = []
    for term in (left, right):
        order = data.draw(st.permutations(range(len(term))))  # a view that is not contiguous
        stored = rng.integers(-2, 3, [sizes[term[i]] for i in order]).astype(data.draw(st.sampled_from((np.float32, np.float64))))
        operands.append(stored.transpose(np.argsort(order).astype(int)))
    short = f"{''.join(left)},{''.join(right)}->{''.join(out)}"
    ((product,), _) = KERNELS["einsum"](operands, {"expr": f"{' '.join(left)}, {' '.join(right)} -> {' '.join(out)}"}, poisoned)
    assert product.dtype == np.result_type(*(array.dtype for array in operands))
    assert np.array_equal(product, np.einsum(short, *operands))


def test_one_expression_fits_any_extents_and_one_pair_of_shapes_any_expression() -> None:
    rng = np.random.default_rng(0)
    for rows, summed in ((2, 3), (3, 2), (1, 4), (2, 3)):
        left, right = rng.integers(-3, 4, (rows, summed)).astype(float), rng.integers(-3, 4, (summed, rows)).astype(float)
        (product, transposed) = (KERNELS["einsum"]((left, right), {"expr": f"A B, B C -> {out}"})[0][0] for out in ("A C", "C A"))
        assert np.array_equal(product, left @ right)
        assert np.array_equal(transposed, (left @ right).T)


def test_what_does_not_fit_is_refused_every_time() -> None:
    x = np.ones((2, 3))
    for _ in range(2):
        with pytest.raises(ValueError, match="dim B is 3 in one operand and 2 in another"):
            KERNELS["einsum"]((x, x), {"expr": "A B, B C -> A C"})
        with pytest.raises(ValueError, match="is no bias"):
            KERNELS["bias"]((x, np.ones(3)), {"expr": "A B, B -> B A"})
        with pytest.raises(ValueError, match="is no sum"):
            KERNELS["sum_to"]((x,), {"expr": "A B -> B A"})


def test_rotary_turns_by_the_angle_of_each_position_whatever_was_turned_before() -> None:
    rng = np.random.default_rng(0)
    for offset, length, dtype in ((0, 2, np.float64), (3, 2, np.float64), (0, 4, np.float64), (0, 2, np.float32)):
        x = rng.normal(size=(2, length, 3, 4)).astype(dtype)
        angles = np.arange(offset, offset + length)[:, None, None] * np.array([1, 0.01])  # 10000^(-2 i / 4) for i = 0, 1
        turned = (x[..., :2] + 1j * x[..., 2:]) * np.exp(1j * angles)
        ((y,), _) = KERNELS["rotary"]((x,), {"offset": offset})
        assert y.dtype == dtype
        np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], axis=-1), rtol=0, atol=100 * np.finfo(dtype).eps)


# The contractions of a transformer layer, forward and backward, and the matrices that they should be.
LAYER = {
    "B S D, D K C -> B S K C": 1,
    "B S D, B S K C -> D K C": 1,
    "B S K C, B S D -> D K C": 1,
    "B S K C, D K C -> B S D": 1,
    "B S K R C, K R C D -> B S D": 1,
    "B S D, V D -> B S V": 1,
    "B S K R C, B Z K C -> B K R S Z": 2 * 5,  # a matrix a sequence and head
    "B K R S Z, B Z K C -> B S K R C": 2 * 5,
    "B K R S Z, B S K R C -> B Z K C": 2 * 5,
}


@pytest.mark.parametrize("expr", LAYER)
def test_the_contractions_of_a_layer_are_matrices_of_blas_without_a_copy(expr: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"B": 2, "S": 6, "Z": 6, "D": 8, "K": 5, "R": 1, "C": 4, "V": 9}
    terms = [term.split() for term in expr.replace("->", ",").split(",")]
    operands = [np.ones([sizes[dim] for dim in term]) for term in terms[:2]]
    seen: list[tuple[Array, Array, Array]] = []
    right = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: (seen.append((a, b, out)), right(a, b, out=out))[1])
    (product,), _ = KERNELS["einsum"](operands, {"expr": expr})
    ((a, b, out),) = seen
    assert np.prod(out.shape[:-2], dtype=int) == LAYER[expr]
    assert np.shares_memory(out, product)
    assert {np.shares_memory(operand, matrix) for operand, matrix in zip((a, b), operands, strict=True)} in ({True}, {False})
    assert all(any(np.shares_memory(matrix, operand) for operand in operands) for matrix in (a, b))
    assert all(array.itemsize in array.strides[-2:] for array in (a, b, out))
