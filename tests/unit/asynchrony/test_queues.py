"""Queues of parameter servers against closed forms: M/D/1, servers that are full, rounds of workers whose times are exponential."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest

from parsim.asynchrony.bounds import cycle_of
from parsim.asynchrony.line import Line
from parsim.asynchrony.protocol import Terms
from parsim.asynchrony.service import ServedWeights, Service, Way
from parsim.asynchrony.simulation import simulate_servers

NOTHING = Way(0, 0, 0)
D = 1_000_000


def served(terms: Terms, *, pull: Way = NOTHING, push: Way = NOTHING, handle_ps: int = 0, update_ps: int = 0) -> Service:
    """Servers of these times; each worker has a port of its own."""
    shards, ports = terms.num_shards, tuple(range(terms.num_workers))
    weights = ServedWeights(elements=shards, weight_bytes=2, gradient_bytes=4, updated_bytes=4, optimizer="adamw")
    times = ((pull,), (push,), (handle_ps,), (update_ps,))
    return Service(terms, weights, (1,) * shards, ports, *(each * shards for each in times), shards)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("load", "count"),
    [
        (0.3, 600_000),
        (0.6, 1_000_000),
        pytest.param(0.8, 8_000_000, marks=pytest.mark.slow),
        pytest.param(0.9, 2e7, marks=pytest.mark.slow),
    ],
)
def test_poisson_arrivals_wait_as_in_an_m_d_1_queue(load: float, count: float) -> None:
    """rho / (2 (1 - rho)) D: Pollaczek and Khinchine, of deterministic service."""
    rng, line, waited, at = np.random.default_rng(3), Line(), 0, 0
    for gap in rng.exponential(D / load, int(count)).astype(np.int64).tolist():
        at += gap
        waited += line.enter(at, D) - D - at
    assert waited / count == pytest.approx(load / (2 * (1 - load)) * D, rel=0.01)
    assert line.busy_ps / at == pytest.approx(load, rel=0.01)


@pytest.mark.parametrize("bound", [None, 1, 4])
def test_equal_workers_that_fill_a_server_go_at_its_pace(bound: int | None) -> None:
    """10 workers, cycles of 100 + 20 + 30 + 40 + 30: a server that takes 40 applies ten gradients in 400, and four workers would do."""
    service = served(Terms(10, staleness_bound=bound), pull=Way(10, 10, 20), push=Way(10, 10, 20), handle_ps=40)
    run, found = simulate_servers(service, lambda worker, number: 100), cycle_of(service, 100)
    assert run.step_ps == found.step_ps == 400 and found.binds == "server"
    assert run.busy["server"] > 0.97 and run.busy["workers"] < 0.26
    few = served(Terms(4), pull=Way(10, 10, 20), push=Way(10, 10, 20), handle_ps=40)
    assert simulate_servers(few, lambda worker, number: 100).step_ps == cycle_of(few, 100).step_ps == 100 + 30 + 30 + 40
    assert cycle_of(few, 100).binds == "workers"


def test_ports_bind_where_they_carry_most() -> None:
    """Eight pulls of 60 leave one server in 480; over two servers each sends half, and a worker's cycle of 450 is longer."""
    one = served(Terms(8), pull=Way(60, 15, 0), push=Way(30, 30, 0), handle_ps=10)
    assert (cycle_of(one, 300).step_ps, cycle_of(one, 300).binds) == (8 * 60, "server_sends")
    two = served(Terms(8, num_shards=2), pull=Way(30, 8, 0), push=Way(15, 15, 0), handle_ps=5)
    # Gradients leave one after another, 15 apart, each 15 + 5 on its way; the second shard is pulled at once, 30 later.
    assert cycle_of(two, 300).step_ps == 300 + 15 + 15 + 5 + 30
    for service in (one, two):
        assert simulate_servers(service, lambda worker, number: 300).step_ps == cycle_of(service, 300).step_ps


def test_a_synchronous_round_is_a_flow_shop_of_equal_jobs() -> None:
    """The way of one, and for each of the others the slowest queue: 5 + 20 + 3 x 12 for four; then the update."""
    service = served(Terms(4, staleness_bound=0), pull=Way(12, 4, 1), push=Way(3, 6, 2), handle_ps=5, update_ps=50)
    alone = (1 + 12) + 100 + (2 + 6) + 5
    assert cycle_of(service, 100).step_ps == simulate_servers(service, lambda worker, number: 100).step_ps == alone + 3 * 12 + 50


def test_gradients_of_equal_workers_are_as_stale_as_there_are_others() -> None:
    run = simulate_servers(served(Terms(6), handle_ps=3), lambda worker, number: 50)
    assert run.staleness == ((5, run.num_applied),)


def test_a_slow_worker_holds_up_those_that_wait_for_it_and_no_others() -> None:
    """One of four takes four times as long.  Without a bound rates add up: 3 / 100 + 1 / 400; with one all go at its pace."""

    def compute_ps(worker: int, number: int) -> int:
        return 400 if worker == 3 else 100

    each = tuple(compute_ps(worker, 0) for worker in range(4))
    for bound, expected in ((None, 4 / (3 / 100 + 1 / 400)), (2, 400), (0, 400)):
        service = served(Terms(4, staleness_bound=bound))
        run, found = simulate_servers(service, compute_ps, 400), cycle_of(service, 100, each)
        assert run.step_ps == pytest.approx(expected, rel=0.01) and found.step_ps == round(expected)
        assert found.binds == ("workers" if bound is None else "slowest_worker")
        most = service.terms.most_stale
        assert most is None or run.most_stale <= most
    backup = served(Terms(4, staleness_bound=0, backup_workers=1))
    assert simulate_servers(backup, compute_ps, 400).step_ps == cycle_of(backup, 100, each).step_ps == round(100 * 4 / 3)


def exponential(workers: int, count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).exponential(D, (workers, count)).astype(np.int64)


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_a_synchronous_round_takes_the_largest_of_exponential_times(workers: int) -> None:
    """The mean of the largest of n is that of one, times 1 + 1/2 + ... + 1/n (order statistics)."""
    rounds = 6000
    drawn = exponential(workers, rounds + 1).tolist()
    run = simulate_servers(served(Terms(workers, staleness_bound=0)), lambda worker, number: drawn[worker][number], rounds)
    assert run.step_ps == pytest.approx(D * sum(1 / each for each in range(1, workers + 1)), rel=0.03)  # sigma is 1.1 %


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_updates_that_take_the_first_gradient_alone_come_as_birthdays_do(workers: int) -> None:
    """With n - 1 backup workers and exponential times, events come n times as often as a worker's.  An update leaves one worker fresh;
    each event is of a fresh one, f of n, which updates, or of a late one, which starts anew and makes f one more.  So as many events come
    between updates as people until two share one of n birthdays, without the first: 1 + (n - 1)/n + (n - 1)(n - 2)/n^2 + ...
    """
    rounds = 12_000 // workers
    chances = accumulate(range(1, workers), lambda chance, fresh: chance * (workers - fresh) / workers, initial=1.0)
    drawn = exponential(workers, 40 * rounds).tolist()
    service = served(Terms(workers, staleness_bound=0, backup_workers=workers - 1))
    run = simulate_servers(service, lambda worker, number: drawn[worker][number], rounds)
    assert run.step_ps == pytest.approx(D * sum(chances), rel=0.03)  # as many updates as there are workers


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_equal_workers_reach_the_bound_to_the_picosecond(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = Terms(int(rng.integers(1, 9)), int(rng.integers(1, 4)), [None, 0, 1, 3][seed % 4])
    pull, push = (Way(*(int(each) for each in rng.integers(0, 30, 3))) for _ in range(2))
    update_ps = int(rng.integers(1, 20)) if terms.is_synchronous else 0
    service = served(terms, pull=pull, push=push, handle_ps=int(rng.integers(1, 40)), update_ps=update_ps)
    compute_ps = int(rng.integers(1, 200))
    assert simulate_servers(service, lambda worker, number: compute_ps, 64).step_ps == cycle_of(service, compute_ps).step_ps
