"""all_to_all, and collectives whose positions have parts of unlike extents: their numbers, bytes and memory, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parsim_kernels import Machine, Transfer, bucket, machine

Array = npt.NDArray[Any]
SIZES = [2, 3, 4, 5, 6]


def pairwise(n: int) -> list[Transfer]:
    """In n - 1 steps each rank sends to each other; chunk s n + d is what s has for d."""
    return [Transfer(hop, s, (s + hop) % n, s * n + (s + hop) % n, "copy") for hop in range(1, n) for s in range(n)]


def ring_reduce_scatter(n: int) -> list[Transfer]:
    """Position i sends first the chunk before its own, and at the end holds chunk i whole."""
    return [Transfer(step, i, (i + 1) % n, (i - step - 1) % n, "sum") for step in range(n - 1) for i in range(n)]


def ring_all_gather(n: int) -> list[Transfer]:
    return [Transfer(step, i, (i + 1) % n, (i - step) % n, "copy") for step in range(n - 1) for i in range(n)]


def holding(arrays: list[Array]) -> Machine:
    found = Machine(len(arrays))
    for rank, array in enumerate(arrays):
        found.hold(rank, "x", array.copy(), 2)
    return found


def integers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(-99, 99, shape).astype(float)


def table(seed: int, n: int) -> list[int]:
    """Extents of n positions, some of which may be 0."""
    return [int(extent) for extent in np.random.default_rng(seed).integers(0, 5, n)]


def cut(array: Array, extents: list[int], dim: int) -> list[Array]:
    return np.split(array, np.cumsum(extents)[:-1], axis=dim)


def sent(found: Machine) -> list[int]:
    return [ledger.sent_bytes["ep"] for ledger in found.ledgers]


@pytest.mark.parametrize("n", [1, *SIZES])
@pytest.mark.parametrize(("split", "dim"), [(0, 0), (0, 1), (1, 0), (-1, 0), (1, -1)])
def test_an_all_to_all_gives_each_rank_its_part_of_every_other_in_the_order_of_the_group(n: int, split: int, dim: int) -> None:
    arrays = [integers(rank, 2 * n, 3 * n) for rank in range(n)]
    found = holding(arrays)
    found.communicate("all_to_all", "ep", range(n), ["x"], "y", pairwise(n), dim=dim, split=split, itemsize=2)
    for rank in range(n):
        expected = np.concatenate([np.split(array, n, axis=split)[rank] for array in arrays], axis=dim)
        assert np.array_equal(found.get(rank, "y"), expected)
        assert np.array_equal(found.get(rank, "x"), arrays[rank])
        assert found.ledgers[rank].peak_bytes == found.ledgers[rank].live_bytes == 2 * (6 * n * n + 6 * n * n)
        assert found.ledgers[rank].calls == {("ep", "all_to_all"): 1}
    assert sent(found) == [(n - 1) * 2 * 6 * n] * n  # (n - 1) / n of 6 n n elements


def there_and_back(seed: int, n: int, rows: list[int], columns: list[int]) -> None:
    """[rows of a rank, all columns] -> [all rows, columns of a rank] -> the same again."""
    arrays = [integers(seed + rank, rows[rank], sum(columns)) for rank in range(n)]
    found = holding(arrays)
    found.communicate("all_to_all", "ep", range(n), ["x"], "y", pairwise(n), dim=0, split=1, extents=columns, itemsize=2)
    whole = np.concatenate(arrays)
    for rank in range(n):
        assert np.array_equal(found.get(rank, "y"), cut(whole, columns, 1)[rank])
    assert sent(found) == [2 * rows[rank] * (sum(columns) - columns[rank]) for rank in range(n)]
    found.communicate("all_to_all", "ep", range(n), ["y"], "z", pairwise(n), dim=1, split=0, extents=rows, itemsize=2)
    for rank in range(n):
        assert np.array_equal(found.get(rank, "z"), arrays[rank])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_an_all_to_all_there_and_back_is_the_identity_whatever_the_extents(n: int, seed: int) -> None:
    there_and_back(seed, n, [3] * n, [2] * n)
    there_and_back(seed, n, table(seed, n), table(seed + 50, n))


def tokens_to_experts(seed: int, n: int) -> None:
    """Each rank has another number of tokens for each; `tokens[s][d]` go from s to d."""
    tokens = [table(100 * seed + rank, n) for rank in range(n)]
    arrays = [integers(rank, sum(tokens[rank]), 3) for rank in range(n)]
    found = holding(arrays)
    found.communicate("all_to_all", "ep", range(n), ["x"], "y", pairwise(n), dim=0, split=0, extents=tokens, itemsize=2)
    for rank in range(n):
        assert np.array_equal(found.get(rank, "y"), np.concatenate([cut(arrays[s], tokens[s], 0)[rank] for s in range(n)]))
    assert sent(found) == [2 * 3 * (sum(tokens[rank]) - tokens[rank][rank]) for rank in range(n)]
    came = [[tokens[s][d] for s in range(n)] for d in range(n)]
    found.communicate("all_to_all", "ep", range(n), ["y"], "z", pairwise(n), dim=0, split=0, extents=came, itemsize=2)
    assert all(np.array_equal(found.get(rank, "z"), arrays[rank]) for rank in range(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_each_rank_may_have_another_number_of_rows_for_each(n: int, seed: int) -> None:
    tokens_to_experts(seed, n)


def uneven_reduce_scatter(seed: int, n: int, dim: int) -> None:
    extents = table(seed, n)
    arrays = [integers(seed + rank, *((sum(extents), 3) if dim == 0 else (3, sum(extents)))) for rank in range(n)]
    found = holding(arrays)
    found.communicate("reduce_scatter", "ep", range(n), ["x"], "y", ring_reduce_scatter(n), dim=dim, extents=extents, itemsize=2)
    for rank in range(n):
        assert np.array_equal(found.get(rank, "y"), cut(np.asarray(sum(arrays)), extents, dim)[rank])
        assert np.array_equal(found.get(rank, "x"), arrays[rank])
    assert sent(found) == [2 * 3 * (sum(extents) - extents[rank]) for rank in range(n)]
    found.communicate("all_gather", "ep", range(n), ["y"], "z", ring_all_gather(n), dim=dim, itemsize=2)
    assert all(np.array_equal(found.get(rank, "z"), sum(arrays)) for rank in range(n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_reduce_scatter_cuts_as_the_extents_say_and_an_all_gather_joins_it_again(n: int, dim: int, seed: int) -> None:
    uneven_reduce_scatter(seed, n, dim)


def swap_last(parts: list[Any]) -> list[Any]:
    return [*parts[:-2], parts[-1], parts[-2]]


def test_two_chunks_swapped_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bucket.cut_along
    monkeypatch.setattr(bucket, "cut_along", lambda *args: swap_last(right(*args)))
    with pytest.raises(AssertionError):
        there_and_back(0, 3, [3] * 3, [2] * 3)
    with pytest.raises(AssertionError):
        uneven_reduce_scatter(1, 3, 0)


def test_two_sources_joined_in_the_wrong_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = machine.join
    monkeypatch.setattr(machine, "join", lambda chunks, *args: right(swap_last(chunks) if len(chunks) > 1 else chunks, *args))
    with pytest.raises(AssertionError):
        there_and_back(0, 3, [3] * 3, [2] * 3)
    with pytest.raises(AssertionError):
        tokens_to_experts(0, 3)


def test_two_messages_swapped_leave_a_chunk_behind() -> None:
    wrong = {1: 2, 2: 1}  # what rank 0 has for rank 1 goes to rank 2
    transfers = [t._replace(chunk=wrong[t.chunk]) if t.src == 0 else t for t in pairwise(3)]
    found = holding([integers(rank, 3, 3) for rank in range(3)])
    with pytest.raises(ValueError, match="leave 1 of 3 chunks behind"):
        found.communicate("all_to_all", "ep", range(3), ["x"], "y", transfers, dim=1, itemsize=2)


def test_an_extent_that_is_off_by_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bucket.cut_along

    def mutant(array: Array, dim: int, num_parts: int, extents: list[int] | None = None) -> list[Array]:
        return right(array, dim, num_parts, extents and [extents[0] - 1, extents[1] + 1, *extents[2:]])

    monkeypatch.setattr(bucket, "cut_along", mutant)
    with pytest.raises(AssertionError):
        there_and_back(0, 3, [3] * 3, [2] * 3)
    with pytest.raises(AssertionError):
        uneven_reduce_scatter(1, 3, 0)


Act = Callable[[Machine], object]
REFUSED: list[tuple[Act, str]] = [
    (lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], None, [], itemsize=2), "needs one source and a target"),
    (lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], "y", [], dim=2, itemsize=2), r"shape \(3, 4\) has no dim 2"),
    (lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], "y", [], split=-3, itemsize=2), r"shape \(3, 4\) has no dim -3"),
    (lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], "y", [], split=0, itemsize=2), "2 ranks do not divide dim 0"),
    (lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], "y", [], split=1, itemsize=2), "leave 1 of 2 chunks behind"),
    (
        lambda m: m.communicate("all_to_all", "ep", [0, 1], ["x"], "y", pairwise(2), split=1, extents=[[1, 3], [2, 2]], itemsize=2),
        "dimension",
    ),
    (
        lambda m: m.communicate("reduce_scatter", "ep", [0, 1], ["x"], "y", [], extents=[1, 1], itemsize=2),
        r"extents \[1, 1\] of 2 ranks are not those of dim 0 of shape \(3, 4\)",
    ),
    (lambda m: m.communicate("reduce_scatter", "ep", [0, 1], ["x"], "y", [], extents=[4, -1], itemsize=2), r"extents \[4, -1\]"),
    (lambda m: m.communicate("reduce_scatter", "ep", [0, 1], ["x"], "y", [], extents=[3], itemsize=2), r"extents \[3\] .* of 2 positions"),
    (lambda m: m.communicate("all_gather", "ep", [0, 1], ["x"], "y", [], extents=[3, 3], itemsize=2), "all_gather takes no extents"),
    (
        lambda m: m.communicate("reduce_scatter", "ep", [0, 1], ["x"], "y", ring_reduce_scatter(2), extents=[[1, 2], [2, 1]], itemsize=2),
        "shape",
    ),
]


@pytest.mark.parametrize("act, message", REFUSED)
def test_what_does_not_fit_is_named_and_changes_nothing(act: Act, message: str) -> None:
    found = holding([np.arange(12.0).reshape(3, 4)] * 2)
    with pytest.raises(ValueError, match=message):
        act(found)
    assert all(found.names(rank) == ("x",) for rank in range(2))
    assert all(ledger.sent_bytes == {} for ledger in found.ledgers)
