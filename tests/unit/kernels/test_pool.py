"""The pool: memory is used again when the last array in it is gone, and never before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim_kernels import Machine, pool
from parsim_kernels.pool import Into, Pool
from parsim_kernels.signature import Array

FLOAT64 = np.dtype(np.float64)


@pytest.fixture
def everything_pooled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small arrays too."""
    monkeypatch.setattr(pool, "_SMALL_BYTES", 1)
    yield


def test_memory_is_used_again_for_any_shape_and_dtype_of_as_many_bytes() -> None:
    taken = Pool()
    first = taken.take((20, 50), FLOAT64)
    at = first.ctypes.data
    del first
    second = taken.take((2000,), np.dtype(np.float32))
    assert (second.ctypes.data, taken.allocated_bytes) == (at, 8000)


def test_a_view_keeps_its_memory_from_being_used_again() -> None:
    taken = Pool()
    array = taken.take((1000,), FLOAT64)
    array[...] = 7
    view = array.reshape(10, 100)[3:, ::2].T
    del array
    taken.take((1000,), FLOAT64)[...] = 1
    assert (view == 7).all()
    assert taken.allocated_bytes == 2 * 8000


def test_an_array_of_the_pool_owns_its_memory_and_lies_on_a_cache_line() -> None:
    array = Pool().take((30, 40), FLOAT64)
    assert not isinstance(array.base, np.ndarray)
    assert array.flags.c_contiguous and array.flags.writeable
    assert (array.shape, array.dtype, array.ctypes.data % 64) == ((30, 40), FLOAT64, 0)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(-4, 3).filter(bool), max_size=60))
def test_arrays_that_are_alive_share_no_memory_whatever_was_let_go(sizes: list[int]) -> None:
    taken, alive = Pool(), {}
    for number, size in enumerate(sizes):
        if size > 0:
            alive[number] = taken.take((512 * size,), FLOAT64)
            alive[number][...] = number
        elif alive:
            del alive[sorted(alive)[size % len(alive)]]
    assert all((array == number).all() for number, array in alive.items())
    assert taken.allocated_bytes <= 4096 * sum(size for size in sizes if size > 0)


def test_a_buffer_that_does_not_fit_a_result_is_left_alone() -> None:
    buffers: list[Array] = [np.zeros(2), np.zeros(3), np.zeros((2, 2)).T, np.zeros(4)[::2]]
    out = Into(buffers, np.empty)
    results = [out((2,), FLOAT64), out((3,), np.dtype(np.float32)), out((2, 2), FLOAT64), out((2,), FLOAT64), out((1,), FLOAT64)]
    assert [any(result is buffer for buffer in buffers) for result in results] == [True, False, False, False, False]


def step(machine: Machine) -> None:
    """A little training: outputs, sums, results in place and over others."""
    machine.compute(0, "einsum", ["x", "w"], ["h"], [4], {"expr": "B D, D F -> B F"})
    machine.compute(0, "gelu", ["h"], ["a"], [4], {})
    machine.compute(0, "gelu_grad", ["h", "a"], ["d_h"], [4], {})
    machine.compute(0, "einsum", ["x", "d_h"], ["d_w"], [], {"expr": "B D, B F -> D F"}, accumulate=True)
    machine.compute(0, "sgd", ["w", "d_w"], ["w"], [], {"lr": 0.1}, in_place=True)
    machine.compute(0, "cast", ["d_w"], ["copy"], [], {}, overwrite=True)
    machine.free(0, "h", "a", "d_h")


def machine() -> Machine:
    found = Machine(1)
    for name, shape in {"x": (40, 30), "w": (30, 50), "d_w": (30, 50), "copy": (30, 50)}.items():
        found.hold(0, name, np.linspace(-1, 1, shape[0] * shape[1]).reshape(shape), 4)
    return found


@pytest.mark.usefixtures("everything_pooled")
def test_a_step_after_the_first_obtains_no_memory_for_its_results() -> None:
    trained = machine()
    step(trained)
    first = trained.pool.allocated_bytes
    for _ in range(3):
        step(trained)
    assert first == trained.pool.allocated_bytes > 0


@pytest.mark.usefixtures("everything_pooled")
def test_what_was_got_from_a_machine_stays_as_it_is_after_the_buffer_is_freed() -> None:
    trained = machine()
    trained.compute(0, "einsum", ["x", "w"], ["h"], [4], {"expr": "B D, D F -> B F"})
    kept = trained.get(0, "h")
    part = trained.get(0, "h")[5:, 3]
    whole, some = kept.copy(), part.copy()
    trained.free(0, "h")
    del kept
    step(trained)
    assert np.array_equal(part, some)
    assert np.array_equal(whole[5:, 3], some)


@pytest.mark.usefixtures("everything_pooled")
def test_the_pool_is_no_part_of_the_ledger() -> None:
    trained = machine()
    start = trained.ledgers[0].live_bytes
    step(trained)
    assert trained.ledgers[0].live_bytes == start == 4 * (40 * 30 + 3 * 30 * 50)
    assert trained.ledgers[0].peak_bytes == start + 4 * 3 * 40 * 50  # h, a and d_h


def test_in_place_and_overwritten_buffers_get_their_results_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = machine()

    def refused(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        raise AssertionError(f"memory for {shape} {dtype}")

    monkeypatch.setattr(Pool, "take", lambda self, shape, dtype: refused(shape, dtype))
    trained.compute(0, "gelu", ["x"], ["x"], [], {}, in_place=True)
    trained.compute(0, "cast", ["d_w"], ["copy"], [], {}, overwrite=True)
    assert np.array_equal(trained.get(0, "copy"), trained.get(0, "d_w"))


def test_a_result_that_replaces_an_input_is_right_though_the_kernel_reads_it_to_the_end() -> None:
    trained = Machine(1)
    trained.hold(0, "w", np.arange(9.0).reshape(3, 3), 4)
    trained.hold(0, "v", np.arange(9.0).reshape(3, 3), 4)
    square = {"expr": "A B, B C -> A C"}
    trained.compute(0, "einsum", ["w", "w"], ["w"], [], square, overwrite=True)
    trained.compute(0, "einsum", ["v", "v"], ["v"], [], square, in_place=True)
    expected = np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3)
    assert np.array_equal(trained.get(0, "w"), expected)
    assert np.array_equal(trained.get(0, "v"), expected)
