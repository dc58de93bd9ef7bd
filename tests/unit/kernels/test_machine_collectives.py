"""Collectives from transfer lists written by hand: their numbers, the bytes each rank sends, and the memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from parsim_kernels import Machine, Transfer
from parsim_kernels.fabric import Chunks, run

Array = npt.NDArray[Any]

# In a ring reduce-scatter position i sends first the chunk before its own, and at the end holds chunk i whole.
RING_REDUCE_SCATTER = {
    2: [Transfer(0, 0, 1, 1, "sum"), Transfer(0, 1, 0, 0, "sum")],
    3: [
        *(Transfer(0, 0, 1, 2, "sum"), Transfer(0, 1, 2, 0, "sum"), Transfer(0, 2, 0, 1, "sum")),
        *(Transfer(1, 0, 1, 1, "sum"), Transfer(1, 1, 2, 2, "sum"), Transfer(1, 2, 0, 0, "sum")),
    ],
    4: [
        *(Transfer(0, 0, 1, 3, "sum"), Transfer(0, 1, 2, 0, "sum"), Transfer(0, 2, 3, 1, "sum"), Transfer(0, 3, 0, 2, "sum")),
        *(Transfer(1, 0, 1, 2, "sum"), Transfer(1, 1, 2, 3, "sum"), Transfer(1, 2, 3, 0, "sum"), Transfer(1, 3, 0, 1, "sum")),
        *(Transfer(2, 0, 1, 1, "sum"), Transfer(2, 1, 2, 2, "sum"), Transfer(2, 2, 3, 3, "sum"), Transfer(2, 3, 0, 0, "sum")),
    ],
}
RING_ALL_GATHER = {
    2: [Transfer(9, 0, 1, 0, "copy"), Transfer(9, 1, 0, 1, "copy")],
    3: [
        *(Transfer(8, 0, 1, 0, "copy"), Transfer(8, 1, 2, 1, "copy"), Transfer(8, 2, 0, 2, "copy")),
        *(Transfer(9, 0, 1, 2, "copy"), Transfer(9, 1, 2, 0, "copy"), Transfer(9, 2, 0, 1, "copy")),
    ],
    4: [
        *(Transfer(7, 0, 1, 0, "copy"), Transfer(7, 1, 2, 1, "copy"), Transfer(7, 2, 3, 2, "copy"), Transfer(7, 3, 0, 3, "copy")),
        *(Transfer(8, 0, 1, 3, "copy"), Transfer(8, 1, 2, 0, "copy"), Transfer(8, 2, 3, 1, "copy"), Transfer(8, 3, 0, 2, "copy")),
        *(Transfer(9, 0, 1, 2, "copy"), Transfer(9, 1, 2, 3, "copy"), Transfer(9, 2, 3, 0, "copy"), Transfer(9, 3, 0, 1, "copy")),
    ],
}
SIZES = [2, 3, 4]


def ring_all_reduce(num_ranks: int) -> list[Transfer]:
    return RING_REDUCE_SCATTER[num_ranks] + RING_ALL_GATHER[num_ranks]


def holding(arrays: list[Array], name: str = "g", itemsize: int = 2) -> Machine:
    machine = Machine(len(arrays))
    for rank, array in enumerate(arrays):
        machine.hold(rank, name, array.copy(), itemsize)
    return machine


def integers(num_ranks: int, *shape: int) -> list[Array]:
    return [np.random.default_rng(rank).integers(-9, 9, shape).astype(float) for rank in range(num_ranks)]


def sent(machine: Machine, axis: str) -> list[int]:
    return [ledger.sent_bytes[axis] for ledger in machine.ledgers]


@pytest.mark.parametrize("num_ranks", SIZES)
def test_an_all_reduce_leaves_the_sum_everywhere_in_place(num_ranks: int) -> None:
    arrays = integers(num_ranks, 3, 4)  # 12 elements: even chunks
    machine = holding(arrays)
    before = [machine.get(rank, "g") for rank in range(num_ranks)]
    machine.communicate("all_reduce", "dp", range(num_ranks), ["g"], None, ring_all_reduce(num_ranks), itemsize=2)
    for rank in range(num_ranks):
        assert machine.get(rank, "g") is before[rank]
        assert np.array_equal(machine.get(rank, "g"), sum(arrays))
        assert machine.ledgers[rank].peak_bytes == machine.ledgers[rank].live_bytes == 24
        assert machine.ledgers[rank].calls == {("dp", "all_reduce"): 1}
    assert sent(machine, "dp") == [2 * (num_ranks - 1) * 24 // num_ranks] * num_ranks  # 2 (n - 1) / n of the payload


def test_uneven_chunks_are_those_of_array_split_and_each_rank_sends_its_own_bytes() -> None:
    arrays = integers(4, 10)  # chunks of 3, 3, 2, 2
    machine = holding(arrays)
    machine.communicate("all_reduce", "dp", range(4), ["g"], None, ring_all_reduce(4), itemsize=2)
    for rank in range(4):
        assert np.array_equal(machine.get(rank, "g"), sum(arrays))
    # all but one's own chunk in the first half, all but the next one's in the second: 2 (2 n - c_r - c_{r+1}) bytes
    assert sent(machine, "dp") == [2 * (20 - 3 - 3), 2 * (20 - 3 - 2), 2 * (20 - 2 - 2), 2 * (20 - 2 - 3)]


def test_a_payload_smaller_than_the_group_has_empty_chunks() -> None:
    machine = holding([np.array(float(rank)) for rank in range(4)])
    machine.communicate("all_reduce", "tp", range(4), ["g"], None, ring_all_reduce(4), itemsize=4)
    assert [float(machine.get(rank, "g")) for rank in range(4)] == [6.0] * 4
    assert sum(sent(machine, "tp")) == 6 * 4  # one chunk of 4 bytes in 2 (n - 1) messages, three chunks of none


def test_a_bucket_of_several_buffers_is_one_flat_array() -> None:
    a, b = integers(3, 2, 2), integers(3, 3)  # 4 + 3 elements: chunks of 3, 2, 2
    machine = holding(a, "a")
    for rank in range(3):
        machine.hold(rank, "b", b[rank].copy(), 2)
    machine.communicate("all_reduce", "dp", range(3), ["a", "b"], None, ring_all_reduce(3), itemsize=2)
    for rank in range(3):
        assert np.array_equal(machine.get(rank, "a"), sum(a))
        assert np.array_equal(machine.get(rank, "b"), sum(b))
    assert sent(machine, "dp") == [2 * (14 - 3 - 2), 2 * (14 - 2 - 2), 2 * (14 - 2 - 3)]


def test_an_all_reduce_writes_through_a_view_that_is_not_contiguous() -> None:
    machine = Machine(2)
    for rank in range(2):
        whole = np.arange(6.0).reshape(2, 3)
        machine.hold(rank, "whole", whole, 2)
        machine.hold(rank, "column", whole[:, 1], 2)
    machine.communicate("all_reduce", "tp", [0, 1], ["column"], None, ring_all_reduce(2), itemsize=2)
    assert machine.get(1, "whole").tolist() == [[0, 2, 2], [3, 8, 5]]


@pytest.mark.parametrize("num_ranks", SIZES)
def test_the_operator_max_takes_the_place_of_sum(num_ranks: int) -> None:
    arrays = integers(num_ranks, 5)
    machine = holding(arrays)
    machine.communicate("all_reduce", "tp", range(num_ranks), ["g"], None, ring_all_reduce(num_ranks), operator="max", itemsize=2)
    for rank in range(num_ranks):
        assert np.array_equal(machine.get(rank, "g"), np.max(arrays, axis=0))


@pytest.mark.parametrize("num_ranks", SIZES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_an_all_gather_joins_the_shards_in_the_order_of_the_group(num_ranks: int, dim: int) -> None:
    arrays = integers(num_ranks, 2, 3)
    machine = holding(arrays)
    machine.communicate("all_gather", "dp", range(num_ranks), ["g"], "whole", RING_ALL_GATHER[num_ranks], dim=dim, itemsize=2)
    for rank in range(num_ranks):
        assert np.array_equal(machine.get(rank, "whole"), np.concatenate(arrays, axis=dim))
        assert machine.names(rank) == ("g", "whole")
        assert machine.ledgers[rank].peak_bytes == 12 + 12 * num_ranks  # shard and whole are alive together
    assert sent(machine, "dp") == [12 * (num_ranks - 1)] * num_ranks


def test_shards_of_an_all_gather_may_be_uneven() -> None:
    arrays = [np.full(rank + 1, float(rank)) for rank in range(3)]
    machine = holding(arrays)
    machine.communicate("all_gather", "dp", range(3), ["g"], "whole", RING_ALL_GATHER[3], itemsize=2)
    assert machine.get(0, "whole").tolist() == [0, 1, 1, 2, 2, 2]
    assert sent(machine, "dp") == [2 * (1 + 3), 2 * (2 + 1), 2 * (3 + 2)]  # the own shard, then the one from the left


@pytest.mark.parametrize("num_ranks", SIZES)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_reduce_scatter_leaves_each_rank_its_part_of_the_sum(num_ranks: int, dim: int) -> None:
    arrays = integers(num_ranks, 12, 12)
    machine = holding(arrays)
    machine.communicate("reduce_scatter", "tp", range(num_ranks), ["g"], "part", RING_REDUCE_SCATTER[num_ranks], dim=dim, itemsize=4)
    for rank in range(num_ranks):
        assert np.array_equal(machine.get(rank, "part"), np.split(sum(arrays), num_ranks, axis=dim)[rank])
        assert np.array_equal(machine.get(rank, "g"), arrays[rank])  # the source stays as it was
        assert machine.ledgers[rank].live_bytes == 144 * 2 + 144 * 4 // num_ranks
    assert sent(machine, "tp") == [(num_ranks - 1) * 144 * 4 // num_ranks] * num_ranks


def test_a_broadcast_and_a_reduce_move_one_chunk() -> None:
    chain = [Transfer(0, 0, 1, 0, "copy"), Transfer(1, 1, 2, 0, "copy")]
    machine = holding(integers(3, 5))
    first = machine.get(0, "g").copy()
    machine.communicate("broadcast", "dp", [0, 1, 2], ["g"], None, chain, itemsize=2)
    assert all(np.array_equal(machine.get(rank, "g"), first) for rank in range(3))
    assert sent(machine, "dp") == [10, 10, 0]
    to_root = [Transfer(0, 2, 1, 0, "sum"), Transfer(1, 1, 0, 0, "sum")]
    machine.communicate("reduce", "dp", [0, 1, 2], ["g"], None, to_root, itemsize=2)
    assert np.array_equal(machine.get(0, "g"), 3 * first)
    assert sent(machine, "dp") == [10, 20, 10]


def test_a_group_is_any_ranks_in_the_order_of_its_positions_and_names_may_differ() -> None:
    machine = Machine(4)
    machine.hold(3, "a", np.array([1.0]), 2)
    machine.hold(1, "b", np.array([2.0]), 2)
    machine.communicate("all_gather", "ep", [3, 1], [["a"], ["b"]], "both", RING_ALL_GATHER[2], itemsize=2)
    assert machine.get(1, "both").tolist() == machine.get(3, "both").tolist() == [1, 2]
    assert [ledger.sent_bytes for ledger in machine.ledgers] == [{}, {"ep": 2}, {}, {"ep": 2}]


def test_all_messages_of_a_step_leave_before_any_arrives() -> None:
    chunks: Chunks = [[np.array(1.0)], [np.array(2.0)], [np.array(4.0)]]
    messages: list[tuple[int, int, float]] = []
    around = [Transfer(1, 0, 1, 0, "sum"), Transfer(0, 2, 0, 0, "copy"), Transfer(0, 0, 1, 0, "sum"), Transfer(0, 1, 2, 0, "max")]
    run(around, chunks, lambda src, dst, array: messages.append((src, dst, float(array))))
    assert messages == [(2, 0, 4.0), (0, 1, 1.0), (1, 2, 2.0), (0, 1, 4.0)]
    assert chunks == [[4.0], [2 + 1 + 4], [4.0]]


Act = Callable[[Machine], object]
REFUSED: list[tuple[Act, str]] = [
    (lambda m: m.communicate("all_reduced", "dp", [0, 1], ["g"], None, [], itemsize=2), "no operation 'all_reduced'"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 0], ["g"], None, [], itemsize=2), "names a rank twice"),
    (lambda m: m.communicate("all_reduce", "dp", [], ["g"], None, [], itemsize=2), "is empty"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], ["z"], None, [], itemsize=2), "rank 0: no buffer 'z'"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], "g", None, [], itemsize=2), "sources are a list of names"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], [["g"], ["g", "u"]], None, [], itemsize=2), "buckets of one length"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], ["g"], "h", [], itemsize=2), "it has no target 'h'"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g"], None, [], itemsize=2), "needs one source and a target"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g", "u"], "h", [], itemsize=2), "needs one source and a target"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g"], "u", [], itemsize=2), "rank 0: buffer 'u' is already held"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], ["u"], None, [], itemsize=2), r"\('u',\) on ranks \[0, 1\]: rank 1: shapes"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["u"], "h", [], itemsize=2), r"rank 1: shapes"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g"], "h", [], dim=1, itemsize=2), "has no dim 1"),
    (lambda m: m.communicate("reduce_scatter", "dp", [0, 1], ["g"], "h", [], itemsize=2), "2 ranks do not divide dim 0"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g"], "h", RING_ALL_GATHER[2][:1], itemsize=2), "leave 1 of 2 chunks behind"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], ["g"], None, RING_ALL_GATHER[3], itemsize=2), "there is no position 2"),
    (lambda m: m.communicate("all_gather", "dp", [0, 1], ["g"], "h", [Transfer(0, 0, 1, 1, "copy")], itemsize=2), "has not yet arrived"),
    (lambda m: m.communicate("all_reduce", "dp", [0, 1], ["g"], None, [], operator="min", itemsize=2), "sum or max"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("act, message", REFUSED)
def test_a_collective_that_does_not_fit_is_named_and_changes_nothing(act: Act, message: str) -> None:
    machine = holding([np.arange(3.0), np.arange(3.0)])
    machine.hold(0, "u", np.ones((2, 2)), 2)
    machine.hold(1, "u", np.ones((2, 3, 1)), 2)
    with pytest.raises(ValueError, match=message):
        act(machine)
    assert all(machine.names(rank) == ("g", "u") and machine.get(rank, "g").tolist() == [0, 1, 2] for rank in range(2))
    assert all(ledger.sent_bytes == {} for ledger in machine.ledgers)
