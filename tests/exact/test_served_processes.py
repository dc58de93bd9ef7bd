"""Servers and workers that are processes: the bits of lockstep by virtual clocks, measured staleness by wall clock, clear ends."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from test_processes import children

from parsim.errors import ParsimError
from parsim.executor.run import execute, execute_served
from parsim.executor.serving import ServedExecution
from parsim.scenario import Scenario, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64"),
]
SCENARIOS = Path(__file__).parents[2] / "scenarios"
DEADLINE_S = 120.0  # generous: the machine may be busy
EVERY = [("digits-async", plan) for plan in ("synchronous", "backup", "bounded", "asynchronous")]
TINY_GPT = [("tiny-gpt-async", plan) for plan in ("synchronous", "bounded", "asynchronous")]


def scenario(name: str) -> Scenario:
    if name.startswith("digits"):
        pytest.importorskip("sklearn", reason="scikit-learn (extra data) is not installed")
    return load(SCENARIOS / f"{name}.yaml")


def run(name: str, plan: str, transport: str = "shared_memory", **options: object) -> ServedExecution:
    return execute_served(scenario(name), plan, num_steps=5, transport=transport, deadline_s=DEADLINE_S, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "plan"), [*EVERY, *TINY_GPT])
def test_processes_serve_as_lockstep_does_bit_for_bit(name: str, plan: str) -> None:
    processes, lockstep = run(name, plan), run(name, plan, "lockstep")
    assert processes.losses == lockstep.losses and len(processes.losses) == 5
    assert processes.ledgers == lockstep.ledgers and processes.end_ps == lockstep.end_ps > 0
    assert (processes.staleness, processes.num_dropped) == (lockstep.staleness, lockstep.num_dropped)
    assert all(np.array_equal(mine, lockstep.weights[name]) for name, mine in processes.weights.items())


@pytest.mark.parametrize("name", ["digits-async", "tiny-gpt-async"])
def test_synchronous_processes_train_as_all_reduce_does_by_either_clock(name: str) -> None:
    together = execute(scenario(name), "all_reduce", num_steps=5).losses
    for wall in (False, True):
        np.testing.assert_allclose(run(name, "synchronous", wall=wall).losses, together, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "plan"), EVERY)
def test_by_wall_clock_every_update_is_made_and_staleness_keeps_its_bound(name: str, plan: str) -> None:
    served = run(name, plan, wall=True)
    most = served.terms.most_stale
    assert most is None or max(served.staleness) <= most
    for server in served.servers:
        assert max(server.weights) == 5 * (1 if served.terms.is_synchronous else 4)
        assert [each.wall_s for each in server.applied] == sorted(each.wall_s for each in server.applied)
    assert len(served.step_walls_s) == 5 and min(served.step_walls_s) > 0


@pytest.mark.parametrize("place", [0, 5])  # a server, and the last worker
def test_a_server_or_worker_that_is_killed_ends_the_run_by_name(place: int) -> None:
    before, seen = children(os.getpid()), list[int]()

    def kill(step: int, loss: float, score: object) -> None:
        if not seen:
            (nursery,) = children(os.getpid()) - before
            seen.extend(sorted(children(nursery)))
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen[place], signal.SIGKILL)

    who = "parameter server 0" if place == 0 else "worker 3"
    with pytest.raises(ParsimError, match=f"the run ended: {who} was killed by SIGKILL"):
        execute_served(
            scenario("digits-async"), "bounded", num_steps=100_000, transport="shared_memory", deadline_s=DEADLINE_S, progress=kill
        )
    assert children(os.getpid()) == before
