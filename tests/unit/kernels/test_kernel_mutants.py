"""The checks of destinations, blocks and the pool can fail: each wrong piece of code turns one of them red."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import test_kernel_destinations as destinations
import test_kernel_flops as flops
import test_pool

from parsim_kernels import attention, blocks, contraction, lookup, machine, pointwise, pool
from parsim_kernels.signature import Array


def _memory_is_free_at_once(patch: pytest.MonkeyPatch) -> None:
    right = pool._Loan.__init__

    def loan(self: pool._Loan, block: pool.Block, free: list[pool.Block], *rest: object) -> None:
        free.append(block)
        right(self, block, [], *rest)  # type: ignore[arg-type]

    patch.setattr(pool._Loan, "__init__", loan)


def _memory_is_never_free(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(pool._Loan, "__del__")


def _the_last_block_is_lost(patch: pytest.MonkeyPatch) -> None:
    right = blocks.blocks

    def parts(*arrays: Array, scratch: int = 0) -> Iterator[tuple[Array, ...]]:
        found = list(right(*arrays, scratch=scratch))
        yield from found[: max(len(found) - 1, 1)]

    patch.setattr(pointwise, "blocks", parts)


def _an_einsum_may_write_over_its_inputs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "OVERLAYS", machine.OVERLAYS | {"einsum"})
    patch.setattr(contraction, "_multiply", _row_by_row)  # numpy's own matmul would see the overlap


def _row_by_row(left: Array, right: Array, out: Array) -> None:
    for row in range(out.shape[-2]):
        out[..., row, :] = (left[..., row : row + 1, :] @ right)[..., 0, :]


def _results_go_elsewhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pool.Into, "__call__", lambda self, shape, dtype: self._otherwise(shape, dtype))


def _every_destination_fits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pool.Into, "__call__", lambda self, shape, dtype: next(self._buffers, np.empty(shape, dtype)))


def _neighbours_in_the_operand_are_merged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(contraction, "_groups", lambda dims, operand, out, sizes: [tuple(dims)])


def _every_key_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attention._Mask, "num_pairs", lambda self: self.num_queries * self.num_keys)


def _the_angles_of_the_first_positions_are_kept_for_all(patch: pytest.MonkeyPatch) -> None:
    right = lookup._turn
    patch.setattr(lookup, "_turn", lambda positions, *rest: right(((0, positions[-1][1] - positions[0][0]),), *rest))


def _an_outer_product_in_another_order() -> None:
    left, right = np.arange(8.0).reshape(2, 2, 2), np.array([1.0, 10.0])
    (product,), _ = contraction.einsum((left, right), {"expr": "A B C, D -> C D A B"}, destinations.poisoned)
    assert np.array_equal(product, np.einsum("abc,d->cdab", left, right))


MUTANTS: list[tuple[Callable[[pytest.MonkeyPatch], None], Callable[[pytest.MonkeyPatch], None]]] = [
    (_memory_is_free_at_once, lambda _: test_pool.test_a_view_keeps_its_memory_from_being_used_again()),
    (_memory_is_never_free, lambda _: test_pool.test_memory_is_used_again_for_any_shape_and_dtype_of_as_many_bytes()),
    (_the_last_block_is_lost, lambda patch: destinations.test_blocks_of_two_rows_or_a_few_elements_change_no_result("gelu", patch)),
    (
        _an_einsum_may_write_over_its_inputs,
        lambda _: test_pool.test_a_result_that_replaces_an_input_is_right_though_the_kernel_reads_it_to_the_end(),
    ),
    (_results_go_elsewhere, lambda _: destinations.test_a_kernel_that_may_write_over_its_inputs_has_the_same_bits_there("gelu")),
    (_every_destination_fits, lambda _: test_pool.test_a_buffer_that_does_not_fit_a_result_is_left_alone()),
    (
        _neighbours_in_the_operand_are_merged,
        lambda _: _an_outer_product_in_another_order(),
    ),
    (_every_key_is_seen, lambda _: flops.test_pairs_are_those_of_keys_that_exist_at_or_before_the_query(3, 5, 2)),
    (
        _the_angles_of_the_first_positions_are_kept_for_all,
        lambda _: destinations.test_rotary_turns_by_the_angle_of_each_position_whatever_was_turned_before(),
    ),
]


@pytest.mark.parametrize("mutate, check", MUTANTS, ids=lambda value: value.__name__.strip("_"))
def test_a_mutant_turns_its_check_red(
    mutate: Callable[[pytest.MonkeyPatch], None], check: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(monkeypatch)
    monkeypatch.undo()
    contraction._matmul_views.cache_clear()
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        check(monkeypatch)
    contraction._matmul_views.cache_clear()
