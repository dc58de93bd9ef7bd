"""Messages between ranks: the same statements on every transport."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transport_targets as targets

from parsim_kernels import TransportError, launch
from parsim_kernels.transport.launcher import _ALL_BLOCKS_BYTES

Ranks = Callable[..., list[Any]]
with_processes = pytest.mark.skipif(not targets.HAS_PROCESSES, reason="shared memory is for Linux on x86-64")


def test_shape_dtype_and_clock_travel_with_every_array_and_tags_may_be_taken_in_any_order(ranks: Ranks) -> None:
    assert ranks(targets.arrays_of_each_kind, 2, slot_bytes=targets.SLOT) == [True, True]


def test_a_send_does_not_wait_for_its_receiver_whatever_the_size(ranks: Ranks) -> None:
    assert ranks(targets.ring_of_sends, 3, 50 * targets.SLOT + 1, slot_bytes=targets.SLOT) == [2, 0, 1]


@pytest.mark.parametrize("elements", [1, 5000])  # a block, and several
def test_a_rank_takes_messages_from_whoever_sends_first_and_each_of_them_once(ranks: Ranks, elements: int) -> None:
    taken = ranks(targets.first_come, 4, elements, slot_bytes=targets.SLOT)[0]
    assert sorted(taken[:3]) == [(src, src * elements) for src in (1, 2, 3)]
    assert sorted(taken[3:]) == [(src, -src * elements) for src in (1, 2, 3)]


def test_all_to_all_of_8_ranks_with_a_mebibyte_each_does_not_deadlock(ranks: Ranks) -> None:
    slot_bytes = 256 << 10
    assert 2 * slot_bytes < 2**20  # the messages are longer than all blocks of a pair
    assert ranks(targets.all_to_all, 8, 2**20, slot_bytes=slot_bytes) == [True] * 8


@pytest.mark.parametrize("elements", [3, 0, 1024, 12_345])  # fewer bytes than a block, none, whole blocks, and a part of one
def test_what_is_reduced_on_arrival_is_added_in_the_order_of_the_list(ranks: Ranks, elements: int) -> None:
    total, largest, own = ranks(targets.reduced_on_arrival, 4, elements, slot_bytes=targets.SLOT)[0]
    arrays = [np.random.default_rng(rank).standard_normal(elements) for rank in range(4)]
    # As arrays: pytest under CI draws the whole difference of two lists, which takes it many minutes.
    assert np.array_equal(total, ((arrays[0] + arrays[1]) + arrays[2]) + arrays[3])
    assert np.array_equal(largest, np.arange(elements))  # of +i, -i, +i, -i
    assert np.array_equal(own, arrays[0])


def test_nobody_leaves_a_barrier_that_another_has_not_entered(ranks: Ranks) -> None:
    assert ranks(targets.barriers, 3, 50) == [True] * 3


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_a_symmetric_all_reduce_is_the_sum_in_rank_order_bit_for_bit(ranks: Ranks, num_ranks: int) -> None:
    sizes = [0, 1, 2, 1000, 100_003]  # the last spans several blocks of 256 KiB in each part
    for outcome in ranks(targets.symmetric_sums, num_ranks, sizes, "float64"):
        for size, (total, largest) in zip(sizes, outcome, strict=True):
            arrays = [targets.ranks_array(rank, size, "float64") for rank in range(num_ranks)]
            expected = arrays[0]
            for array in arrays[1:]:
                expected = expected + array
            assert np.array_equal(total, expected)
            assert np.array_equal(largest, np.max(arrays, axis=0))


@with_processes
def test_what_rank_0_reports_arrives_in_order_and_others_are_not_heard() -> None:
    for transport in ("lockstep", "shared_memory"):
        heard: list[Any] = []
        assert launch(targets.chatty, 2, transport, progress=heard.append, deadline_s=targets.DEADLINE_S) == [0, 1]
        assert heard == [(0, 0), (0, 1), (0, 2)]


@with_processes
def test_worker_processes_have_one_blas_thread_and_may_be_pinned_to_a_core() -> None:
    found = launch(targets.environment, 2, "shared_memory", deadline_s=targets.DEADLINE_S, pin=True)
    assert [threads for threads, _, _ in found] == ["1", "1"] and [cores for _, cores, _ in found] == [1, 1]
    assert len({process for _, _, process in found}) == 2


@with_processes
@pytest.mark.parametrize("wait", ["spin", "block"])
def test_every_way_to_wait_gives_the_same(wait: Any) -> None:
    assert launch(targets.all_to_all, 3, "shared_memory", (300_000,), wait=wait, deadline_s=targets.DEADLINE_S) == [True] * 3


def test_the_blocks_of_64_ranks_take_no_more_memory_than_those_of_a_few() -> None:
    assert launch(targets.ring_of_sends, 24, "lockstep", (100_000,)) == [(rank - 1) % 24 for rank in range(24)]
    assert _ALL_BLOCKS_BYTES >= 2 * 64**2 * 4096


def test_a_deadlock_in_lockstep_names_each_rank_and_what_it_waits_for() -> None:
    with pytest.raises(
        TransportError, match=r"deadlock: rank 0 waits for a message of rank 1 with tag 7; rank 1 waits for .* rank 0 with tag 7"
    ):
        launch(targets.waits_for_each_other, 2)


@with_processes
def test_a_deadlock_of_processes_is_told_at_the_deadline() -> None:
    for deadline_s in targets.DEADLINES_S:
        with pytest.raises(TransportError, match=f"the deadline of {deadline_s} s has passed: rank 0 ") as told:
            launch(targets.waits_for_each_other, 2, "shared_memory", deadline_s=deadline_s)
        if "computes" not in str(told.value):
            break
    assert re.search("rank 0 waits for a message of rank 1 with tag 7; rank 1 waits for .* rank 0 with tag 7", str(told.value))


@with_processes
@pytest.mark.parametrize("transport", ["lockstep", "shared_memory"])
def test_a_message_that_nobody_receives_is_an_error(transport: Any) -> None:
    with pytest.raises(TransportError, match=r"rank 1 .*without receiving 1 of its messages: one of rank 0 with tag 5"):
        launch(targets.leaves_a_message, 2, transport, deadline_s=targets.DEADLINE_S)


@with_processes
def test_what_cannot_work_is_said_before_anything_starts() -> None:
    with pytest.raises(TransportError, match="unknown transport 'udp'"):
        launch(targets.chatty, 2, "udp")  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="at least 1"):
        launch(targets.chatty, 0)
    with pytest.raises(TransportError, match="cannot be sent to a worker process"):
        launch(lambda channel: None, 2, "shared_memory")
    with pytest.raises(TransportError, match="multiple of 4096"):
        launch(targets.chatty, 2, slot_bytes=1000)


@with_processes
def test_off_linux_on_x86_shared_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(TransportError, match=r"shared_memory needs Linux on x86-64 .*; this is linux on arm64: use lockstep or mpi"):
        launch(targets.chatty, 2, "shared_memory")


def test_mpi_with_another_number_of_processes_says_how_to_start_it() -> None:
    if not targets.has_mpi():
        with pytest.raises(TransportError, match="needs mpi4py and an MPI library"):
            launch(targets.chatty, 2, "mpi")
        return
    with pytest.raises(TransportError, match="start this program with mpiexec -n 2"):
        launch(targets.chatty, 2, "mpi")
