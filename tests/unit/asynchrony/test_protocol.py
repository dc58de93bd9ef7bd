"""Traces of parameter servers, worked out by hand: versions, staleness, who waits, and what comes too late."""

from __future__ import annotations

import random

import pytest

from parsim.asynchrony.protocol import Servers, Shard, Terms
from parsim.parallel.plan import Plan


def test_without_a_bound_every_gradient_is_an_update_and_as_stale_as_updates_came_between() -> None:
    """Worker 0 pulls version 0; 1 pulls, pushes (version 1), pulls and pushes (2); then 0 pushes: two updates lie between."""
    shard = Shard(Terms(num_workers=2))
    assert [shard.pull(0), shard.pull(1)] == [0, 0]
    first = shard.push(1)
    assert (first.fate, first.staleness, first.update, shard.version) == ("applied", 0, (1,), 1)
    assert (shard.pull(1), shard.push(1).staleness, shard.version) == (1, 0, 2)
    assert (shard.push(0).staleness, shard.version) == (2, 3)
    assert dict(shard.staleness) == {0: 2, 2: 1}


def test_equal_workers_in_turn_are_all_as_stale_as_there_are_others() -> None:
    """Four workers that push and pull in turn: in the second round, three others have pushed since each pulled."""
    shard = Shard(Terms(num_workers=4))
    for worker in range(4):
        shard.pull(worker)
    assert [shard.push(worker).staleness for worker in range(4)] == [0, 1, 2, 3]
    for worker in range(4):
        shard.pull(worker)  # after all four: version 4
    found = []
    for _ in range(3):
        for worker in range(4):
            found.append(shard.push(worker).staleness)
            shard.pull(worker)
    assert found == [0, 1, 2, 3] + [3] * 8


def test_synchronous_workers_wait_for_one_update_of_all() -> None:
    shard = Shard(Terms(num_workers=3, staleness_bound=0))
    assert [shard.pull(worker) for worker in range(3)] == [0, 0, 0]
    held = [shard.push(worker) for worker in (2, 0)]
    assert [(each.fate, each.update, each.opens) for each in held] == [("held", (), False)] * 2
    assert not any(map(shard.may_pull, range(3)))
    last = shard.push(1)
    assert (last.fate, last.update, last.opens, shard.version) == ("applied", (2, 0, 1), True, 1)
    assert all(map(shard.may_pull, range(3)))
    assert dict(shard.staleness) == {0: 3}


def test_backup_workers_come_too_late_and_go_on_with_the_newest_version() -> None:
    """Three workers, one of them a backup: two gradients make an update.  Worker 2 sleeps through two of them."""
    shard = Shard(Terms(num_workers=3, staleness_bound=0, backup_workers=1))
    for worker in range(3):
        shard.pull(worker)
    assert (shard.push(0).fate, shard.push(1).update) == ("held", (0, 1))
    assert [shard.pull(0), shard.pull(1)] == [1, 1]
    assert (shard.push(1).fate, shard.push(0).update) == ("held", (1, 0))
    late = shard.push(2)
    assert (late.fate, late.staleness, late.update, late.opens) == ("dropped", 2, (), False)
    assert (shard.num_dropped, shard.may_pull(2), shard.pull(2)) == (1, True, 2)
    shard.pull(0)
    assert (shard.push(2).fate, shard.push(0).update, dict(shard.staleness)) == ("held", (2, 0), {0: 6})


def test_a_worker_is_no_more_than_its_bound_ahead_of_the_slowest() -> None:
    """Bound 1 and two workers: one is a gradient ahead, and waits at two until the other has pushed."""
    shard = Shard(Terms(num_workers=2, staleness_bound=1))
    shard.pull(0), shard.pull(1)
    shard.push(0)
    assert shard.may_pull(0)
    shard.pull(0)
    assert (shard.push(0).opens, shard.may_pull(0)) == (False, False)
    late = shard.push(1)
    assert (late.staleness, late.opens, shard.may_pull(0)) == (2, True, True)


def test_staleness_reaches_its_bound_and_no_more() -> None:
    """Bound 1: 0 pulls a gradient ahead of 1, which then pushes three before it must wait: as stale as (2 - 1) x (2 x 1 + 1)."""
    terms = Terms(num_workers=2, staleness_bound=1)
    shard = Shard(terms)
    shard.pull(0), shard.pull(1)
    shard.push(0)
    shard.pull(0)
    for _ in range(2):
        shard.push(1)
        shard.pull(1)
    shard.push(1)
    assert not shard.may_pull(1)
    assert shard.push(0).staleness == terms.most_stale == 3


@pytest.mark.parametrize("bound", [0, 1, 3])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_in_no_order_of_events_is_a_gradient_staler_than_its_bound(bound: int, workers: int) -> None:
    rng, terms = random.Random(bound * 10 + workers), Terms(workers, staleness_bound=bound)
    shard, most = Shard(terms), 0
    for _ in range(3000):
        worker = rng.choice([0] * rng.randrange(1, 9) + [*range(workers)])
        if shard.pulled[worker] is not None:
            most = max(most, shard.push(worker).staleness)
            assert max(shard.handled) - min(shard.handled) <= bound + 1
        elif shard.may_pull(worker):
            shard.pull(worker)
        else:
            assert min(shard.handled) < shard.handled[worker], "the slowest never waits"
    assert terms.most_stale is not None and most <= terms.most_stale
    assert shard.version >= 50, "nobody waits for ever"


def test_shards_are_served_each_by_itself() -> None:
    served = Servers(Terms.of(Plan(data_parallel=2, gradient_sync="parameter_server", parameter_servers=2)))
    for worker, shard in ((0, 0), (1, 0), (0, 1), (1, 1)):
        assert served.pull(worker, shard) == 0
    assert [served.push(*each).staleness for each in ((0, 0), (1, 0), (1, 1), (0, 1))] == [0, 1, 0, 1]
    assert dict(served.staleness) == {0: 2, 1: 2}


def test_a_worker_pulls_again_only_once_its_gradient_was_handled() -> None:
    shard = Shard(Terms(num_workers=1))
    shard.pull(0)
    assert not shard.may_pull(0)
    with pytest.raises(AssertionError, match="may not pull"):
        shard.pull(0)
    shard.push(0)
    with pytest.raises(AssertionError, match="has pulled nothing"):
        shard.push(0)
