"""Training through parameter servers: synchronous is all-reduce, and stale gradients are those of the weights that were pulled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from mlp_by_hand import by_hand
from parsim import data, estimate
from parsim.asynchrony.draws import DRAWN, factors_of, times_ps
from parsim.asynchrony.protocol import Outcome, Shard
from parsim.asynchrony.simulation import ServedWorld
from parsim.errors import ParsimError, PlanError
from parsim.estimator.estimate import stages_of
from parsim.estimator.memory import counted_peak_bytes
from parsim.estimator.samples import delays_of_gradients
from parsim.estimator.serving import service_in
from parsim.executor.evaluate import whole_weights
from parsim.executor.run import execute, execute_served
from parsim.executor.server import Server, bounds
from parsim.executor.serving import ServedExecution
from parsim.executor.turns import Clockwork
from parsim.parallel.plan import SERVED, Plan
from parsim.scenario import Scenario, load
from parsim.scenario.disturbance import Disturbance, Jitter, Stragglers
from parsim_kernels.signature import Array
from support import enough, scenario
from training_by_hand import initial_by_hand

SCENARIOS = Path(__file__).parents[2] / "scenarios"
NUM_STEPS = 6


def digits() -> Scenario:
    pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    return load(SCENARIOS / "digits-async.yaml")


def run(name: str, **keys: object) -> ServedExecution:
    chosen = digits()
    return execute_served(chosen, replace(chosen.plan(name), **keys), num_steps=NUM_STEPS)


@cache
def executed(name: str) -> ServedExecution:
    return run(name)


def largest_difference(left: dict[str, Array], right: dict[str, Array]) -> float:
    assert left.keys() == right.keys()
    return max(float(np.abs(left[name] - right[name]).max()) for name in left)


@pytest.mark.parametrize("servers", [1, 3])
def test_synchronous_workers_have_the_losses_and_weights_of_all_reduce(servers: int) -> None:
    served = run("synchronous", parameter_servers=servers)
    together = execute(digits(), "all_reduce", num_steps=NUM_STEPS)
    np.testing.assert_allclose(served.losses, together.losses, rtol=0, atol=1e-12)
    assert largest_difference(served.weights, whole_weights(together.job, together.weights)) <= 1e-12
    assert served.staleness == {0: servers * 4 * NUM_STEPS}


@pytest.mark.parametrize("bound", [None, 0, 1])
def test_one_worker_trains_as_one_device_does_whatever_it_may_be_ahead_of(bound: int | None) -> None:
    chosen = scenario(batch=enough(Plan()))
    chosen = replace(chosen, training=replace(chosen.training, max_norm=np.inf))
    served = execute_served(chosen, Plan(gradient_sync=SERVED, parameter_servers=2, staleness_bound=bound), num_steps=3)
    alone = execute(chosen, Plan(), num_steps=3)
    np.testing.assert_allclose(served.losses, alone.losses, rtol=0, atol=1e-12)
    assert largest_difference(served.weights, dict(alone.weights[0])) <= 1e-12


def by_hand_of(served: ServedExecution) -> Iterator[Array]:
    """The weights after each update, end to end: each gradient a second time, of the weights that its worker had of each shard."""
    chosen, plan = digits(), served.job.asked.plan
    found = data.load("digits", 0.2, chosen.seed, chosen.model, 1)
    start = initial_by_hand(served.job)
    names, ends = list(start), [*accumulate(each.size for each in start.values())]
    now = np.concatenate([each.reshape(-1) for each in start.values()])
    parts = bounds(now.size, plan.parameter_servers)
    pulled = [{each.ticket: each.update - 1 - each.staleness for each in server.applied} for server in served.servers]
    history, velocity = [now], np.zeros_like(now)
    rate, momentum, count = chosen.training.learning_rate, chosen.training.momentum, served.terms.num_needed

    def gradient(ticket: int) -> Array:
        weights = np.concatenate([history[versions[ticket]][part] for versions, part in zip(pulled, parts, strict=True)])
        own = {name: each.reshape(start[name].shape) for name, each in zip(names, np.split(weights, ends[:-1]), strict=True)}
        step, place = divmod(ticket, 4)
        rows = found.rows(step, 64, chosen.seed)[16 * place : 16 * (place + 1)]
        _, gradients = by_hand(own, found.train["features"][rows, 0], found.train["row_labels"][rows, 0], chosen.model.num_layers)
        return np.concatenate([gradients[name].reshape(-1) for name in names])

    first = served.servers[0].applied
    assert all([each.ticket for each in server.applied] == [each.ticket for each in first] for server in served.servers)
    for update in range(0, len(first), count):
        velocity = momentum * velocity + np.mean([gradient(each.ticket) for each in first[update : update + count]], axis=0)
        history.append(history[-1] - rate * velocity)
    yield from history[1:]


@pytest.mark.parametrize("name", ["synchronous", "bounded", "asynchronous"])
def test_weights_follow_by_plain_numpy_from_who_pulled_what_and_when(name: str) -> None:
    served = executed(name)
    *_, last = by_hand_of(served)
    assert np.abs(last - np.concatenate([server.weights[max(server.weights)] for server in served.servers])).max() <= 1e-12
    assert name == "synchronous" or max(served.staleness) >= 2  # so it is no matter of course


def _one_late(self: Server, workers: list[int]) -> None:
    late, self.late = getattr(self, "late", workers), workers  # type: ignore[attr-defined]
    _UPDATE(self, late)


_UPDATE = Server.update
MUTANTS: dict[str, tuple[type, str, Callable[..., None]]] = {
    "a gradient is applied behind the next one": (Server, "update", _one_late),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_another_order_shows(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    served = run("asynchronous")
    *_, last = by_hand_of(served)
    assert np.abs(last - np.concatenate([server.weights[max(server.weights)] for server in served.servers])).max() > 1e-6


def test_every_ticket_is_applied_at_most_once_and_the_first_ones_all_are() -> None:
    for name in ("bounded", "asynchronous"):
        tickets = sorted(each.ticket for each in executed(name).servers[0].applied)
        assert len({*tickets}) == len(tickets) == 4 * NUM_STEPS and tickets[-1] < 4 * NUM_STEPS + 4
        assert tickets[: 4 * NUM_STEPS - 4] == [*range(4 * NUM_STEPS - 4)]


def test_an_update_with_a_backup_worker_takes_three_gradients_and_drops_what_comes_too_late() -> None:
    served = executed("backup")
    for server in served.servers:
        assert [each.update for each in server.applied] == [update for update in range(1, NUM_STEPS + 1) for _ in range(3)]
        assert server.num_dropped > 0
    assert served.steps[-1].samples == NUM_STEPS * 3 * 16


def test_workers_push_and_pull_all_weights_once_a_gradient() -> None:
    widths = ((64, 64), (64, 128), (128, 64), (64, 128), (128, 64), (64, 10))
    weight_bytes = 4 * sum(into * out + out for into, out in widths)  # fp32
    served = executed("synchronous")
    assert [worker.ledger.sent_bytes for worker in served.workers] == [{"servers": NUM_STEPS * weight_bytes}] * 4
    assert sum(server.ledger.sent_bytes["servers"] for server in served.servers) == 4 * NUM_STEPS * weight_bytes
    elements = weight_bytes // 4
    assert sum(server.ledger.flops for server in served.servers) == NUM_STEPS * 4 * elements  # of SGD with momentum, an element


def test_execute_says_who_runs_parameter_servers_and_who_does_not() -> None:
    with pytest.raises(PlanError, match="`execute_served` runs it"):
        execute(digits(), "asynchronous")
    with pytest.raises(PlanError, match="gradient_sync = all_reduce has no parameter servers"):
        execute_served(digits(), "all_reduce")
    with pytest.raises(ParsimError, match=r"^execute_served: num_steps = 0"):
        execute_served(digits(), "asynchronous", num_steps=0)
    with pytest.raises(ParsimError, match="the ranks of lockstep run one at a time"):
        execute_served(digits(), "asynchronous", wall=True)


class Heard:
    """What the simulation says of one shard."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Outcome, int]] = []

    def grant(self, worker: int, version: int) -> None:
        """As Desk has it."""

    def take(self, worker: int, outcome: Outcome, now_ps: int) -> None:
        """As Desk has it."""
        self.outcomes.append((outcome, now_ps))


def simulated(plan: Plan, chosen: Scenario | None = None) -> tuple[Counter[int], list[int]]:
    """Staleness of all applied gradients of the first updates, and when each shard makes the last, by the estimate's times."""
    chosen = chosen or digits()
    found, stages = estimate(chosen, plan), stages_of(chosen, plan)
    assert found.served is not None
    factors = factors_of(chosen.disturbance, (4, DRAWN), num_passes=2, devices_per_node=4)
    num_updates, staleness, ends = NUM_STEPS * (1 if plan.staleness_bound == 0 else 4), Counter[int](), []
    for shard in range(plan.parameter_servers):
        heard = Heard()
        Clockwork(
            service_in(stages, plan),
            num_updates,
            shard,
            heard,
            times_ps(found.served.compute_ps + delays_of_gradients(stages, factors)),
        ).go()
        applied = [(outcome, now_ps) for outcome, now_ps in heard.outcomes if outcome.update][:num_updates]
        for outcome, _ in applied:
            staleness[outcome.staleness] += len(outcome.update)
        ends.append(applied[-1][1])
    return staleness, ends


@pytest.mark.parametrize("name", ["synchronous", "backup", "bounded", "asynchronous"])
def test_measured_staleness_and_virtual_seconds_are_those_of_the_simulation(name: str) -> None:
    staleness, ends = simulated(digits().plan(name))
    assert executed(name).staleness == staleness
    assert [server.applied[-1].end_ps for server in executed(name).servers] == ends


@pytest.mark.parametrize("bound", [None, 0])
def test_servers_of_narrow_weights_hold_and_send_what_was_predicted(bound: int | None) -> None:
    plan = Plan(2, gradient_sync=SERVED, parameter_servers=3, staleness_bound=bound)
    chosen = scenario(batch=enough(plan))
    assert chosen.batch.dtype == "bf16"
    found, served = estimate(chosen, plan), execute_served(chosen, plan, num_steps=2)
    assert found.served is not None and found.host_memory_bytes is not None
    assert served.servers[0].ledger.peak_bytes == sum(
        found.host_memory_bytes.values()
    )  # each has a host of its own, the first most weights
    for worker in served.workers:
        assert worker.ledger.sent_bytes["servers"] == worker.num_gradients * found.served.push_bytes
        assert worker.ledger.peak_bytes == counted_peak_bytes(stages_of(chosen, plan))[0, 0]
        assert worker.gradient_ps == found.served.compute_ps
    assert sum(server.ledger.sent_bytes["servers"] for server in served.servers) >= sum(w.num_gradients for w in served.workers) * (
        found.served.pull_bytes
    )


def test_jitter_of_kernels_that_wait_for_launches_leaves_execution_and_simulation_together() -> None:
    chosen = digits()
    jitter = Disturbance(kernels=Jitter("lognormal", 0.4), stragglers=Stragglers(0.2, 3.0), seed=3)
    chosen = replace(chosen, disturbance=jitter, stack=replace(chosen.stack, host_launch_s=1e-6))
    served = execute_served(chosen, "asynchronous", num_steps=NUM_STEPS)
    assert (served.staleness, [server.applied[-1].end_ps for server in served.servers]) == simulated(served.job.asked.plan, chosen)
    assert served.staleness != executed("asynchronous").staleness


@pytest.mark.parametrize("name", ["synchronous", "bounded", "asynchronous"])
def test_integers_of_workers_and_servers_are_those_that_were_predicted(name: str) -> None:
    served, found = executed(name), estimate(digits(), name)
    assert found.served is not None and found.host_memory_bytes is not None
    stages = stages_of(digits(), digits().plan(name))
    for worker in served.workers:
        assert worker.gradient_ps == found.served.compute_ps
        assert worker.ledger.flops == worker.num_gradients * found.flops[0]
        assert worker.ledger.peak_bytes == counted_peak_bytes(stages)[0, 0]
        assert worker.ledger.sent_bytes["servers"] == worker.num_gradients * found.sent_bytes[0]["servers"]
    # All servers lie on the host of the only node.
    assert sum(server.ledger.peak_bytes for server in served.servers) == sum(found.host_memory_bytes.values())


def test_a_staleness_that_is_off_by_one_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Shard.push
    monkeypatch.setattr(Shard, "push", lambda self, worker: replace(found := right(self, worker), staleness=found.staleness + 1))
    assert executed("asynchronous").staleness != simulated(digits().plan("asynchronous"))[0]


def test_a_gradient_that_another_overtakes_in_the_queue_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right, expected = ServedWorld.handle, simulated(digits().plan("asynchronous"))[0]

    def swapped(self: ServedWorld, worker: int, shard: int) -> None:
        waits = self.__dict__.setdefault("waits", {})
        if shard not in waits:
            waits[shard] = worker
            return
        right(self, worker, shard)
        if waits[shard] is not None:
            right(self, waits[shard], shard)
            waits[shard] = None

    monkeypatch.setattr(ServedWorld, "handle", swapped)
    assert run("asynchronous").staleness != expected
