"""Each statement about messages has a fault that turns it red.  In lockstep: all transports share the code that is broken here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import test_transport_collectives as of_collectives
import test_transport_messages as of_messages
import transport_targets as targets

from parsim_kernels import TransportError, fabric, launch
from parsim_kernels.transport.channel import Outgoing
from parsim_kernels.transport.endpoint import Endpoint
from parsim_kernels.transport.message import Arriving, Departing
from parsim_kernels.transport.pending import PendingReceives

Patch = pytest.MonkeyPatch


def ranks(target: Callable[..., Any], num_ranks: int, *args: Any, **options: Any) -> list[Any]:
    return launch(target, num_ranks, "lockstep", args, **options)


def test_blocks_that_all_land_at_the_start_are_seen(monkeypatch: Patch) -> None:
    take = Arriving.take

    def mutant(self: Arriving, slot: Any) -> None:
        take(self, slot)
        self._offset = 0

    monkeypatch.setattr(Arriving, "take", mutant)
    with pytest.raises(AssertionError):
        of_messages.test_what_is_reduced_on_arrival_is_added_in_the_order_of_the_list(ranks, 12_345)


def test_adding_in_the_order_of_arrival_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(PendingReceives, "_may_start", lambda self, index: True)
    with pytest.raises(AssertionError):
        of_messages.test_what_is_reduced_on_arrival_is_added_in_the_order_of_the_list(ranks, 3)


def test_a_send_that_does_not_copy_what_has_not_left_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Departing, "detach", lambda self: None)
    with pytest.raises((AssertionError, TransportError)):
        of_messages.test_a_send_does_not_wait_for_its_receiver_whatever_the_size(ranks)


def test_a_clock_that_is_lost_is_seen(monkeypatch: Patch) -> None:
    start = Departing.__init__
    monkeypatch.setattr(Departing, "__init__", lambda self, outgoing, size: start(self, outgoing._replace(clock=0), size))
    with pytest.raises(TransportError, match="AssertionError"):
        ranks(targets.arrays_of_each_kind, 2)


def test_tags_that_are_ignored_are_seen(monkeypatch: Patch) -> None:
    post = Endpoint._post

    def mutant(self: Endpoint, outgoing: Outgoing) -> Any:
        return post(self, outgoing._replace(tag=0))

    monkeypatch.setattr(Endpoint, "_post", mutant)
    with pytest.raises(TransportError):
        ranks(targets.arrays_of_each_kind, 2)


def test_a_barrier_that_does_not_wait_is_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Endpoint, "barrier", lambda self: None)
    assert ranks(targets.barriers, 3, 5) != [True] * 3
    with pytest.raises((AssertionError, TransportError)):
        of_messages.test_a_symmetric_all_reduce_is_the_sum_in_rank_order_bit_for_bit(ranks, 2)


@pytest.mark.parametrize("fault", ["operator", "last", "order"])
def test_a_collective_that_goes_wrong_on_one_rank_is_seen(monkeypatch: Patch, fault: str) -> None:
    run_one = fabric.run_one

    def mutant(transfers: list[fabric.Transfer], position: int, chunks: Any, *args: Any, **options: Any) -> None:
        if position == 0 and fault == "operator":
            transfers = [t._replace(operator="max") if t.operator == "sum" else t for t in transfers]
        run_one(transfers, position, chunks, *args, **options)
        if position == 0 and fault == "last" and chunks[-1] is not None:
            chunks[-1] = np.zeros_like(chunks[-1])
        if position == 0 and fault == "order":
            chunks.reverse()

    monkeypatch.setattr(fabric, "run_one", mutant)
    made, group = of_collectives.cases(3), [2, 1, 0]
    assert of_collectives.faults(made, ranks(targets.collectives, 3, group, made), group) != []
