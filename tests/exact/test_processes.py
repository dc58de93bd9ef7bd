"""Ranks that are processes do what ranks in lockstep do, bit for bit, and end together when one of them dies."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.errors import ParsimError, ScenarioError
from parsim.executor.job import Job
from parsim.executor.run import MOST_WEIGHTS, Execution, execute
from parsim.model import parameters
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from support import GPT, STACKS, enough, scenario, tiered

pytestmark = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
DEADLINE_S = 120.0  # generous: the machine may be busy
CASES = {
    "dp2-tp2-overlapped": (Plan(2, 2, sequence_parallel=True), STACKS[1]),
    "pp2-interleaved": (Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b", recompute="selective"), STACKS[0]),
    "dp3-zero3-flash": (Plan(3, zero_stage=3, optimizer="adamw_8bit"), STACKS[2]),
    "dp4-hsdp-host": (Plan(4, zero_stage=2, zero_group=2, offload_optimizer=True), STACKS[3]),
    "pp2-zero-bubble": (Plan(2, 1, 2, schedule="zero_bubble_h1", zero_stage=2), STACKS[1]),
    "dp2-direct": (Plan(2, optimizer="sgd_momentum"), replace(STACKS[1], collectives={"all_reduce": "direct"})),
}
SLOW = ("dp2-direct", "pp2-interleaved")  # of a pipeline and of replicas there are others


def toy(plan: Plan, stack: object) -> Scenario:
    return scenario(model=replace(GPT, num_layers=max(2, plan.num_stages)), batch=enough(plan), stack=stack)  # type: ignore[arg-type]


def run(plan: Plan, stack: object, transport: str, **options: object) -> Execution:
    return execute(toy(plan, stack), plan, num_steps=3, transport=transport, deadline_s=DEADLINE_S, **options)  # type: ignore[arg-type]


def same(these: Execution, those: Execution) -> None:
    """Equal as integers and as bits, on every rank."""
    assert these.losses == those.losses and len(these.losses) == 3
    assert these.ledgers == those.ledgers
    for name in ("weights", "gradients", "input_gradients"):
        for mine, theirs in zip(getattr(these, name), getattr(those, name), strict=True):
            assert list(mine) == list(theirs)
            assert all(np.array_equal(mine[key], theirs[key]) and mine[key].dtype == theirs[key].dtype for key in mine), name


@pytest.mark.parametrize("name", [tiered(name, name, slow=name in SLOW) for name in CASES])
def test_processes_do_what_lockstep_does_bit_for_bit(name: str) -> None:
    plan, stack = CASES[name]
    processes, lockstep = (run(plan, stack, transport) for transport in ("shared_memory", "lockstep"))
    same(processes, lockstep)
    assert processes.end_ps == lockstep.end_ps > 0
    assert [len(steps) for steps in processes.wall_s] == [3] * plan.num_devices and lockstep.wall_s == ()


def test_processes_without_clocks_send_no_clock_and_count_the_same() -> None:
    plan, stack = CASES["dp2-direct"]
    without = run(plan, stack, "shared_memory", clocks=False, precision="float32")
    same(without, run(plan, stack, "lockstep", precision="float32"))
    assert {array.dtype for array in without.gradients[0].values()} == {np.dtype("float32")}


def test_gradients_of_two_processes_are_those_of_one_rank() -> None:
    model = replace(GPT, num_layers=2)
    two = execute(scenario(model=model), Plan(2, micro_batch=2), transport="shared_memory", deadline_s=DEADLINE_S)
    one = execute(scenario(model=model), Plan(micro_batch=4))
    for by_rank in two.gradients:
        for name, gradient in one.gradients[0].items():
            assert np.abs(by_rank[name] - gradient).max() <= 1e-14  # sums of terms below 1, in another order


def test_a_loss_that_a_process_tells_wrongly_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant stands in this process, where lockstep runs: were both blind to it, they would agree."""
    right = Job._attribute
    plan, stack = CASES["dp2-direct"]
    processes = run(plan, stack, "shared_memory")
    monkeypatch.setattr(Job, "_attribute", lambda *args: right(*args) * (1 + 2**-52 if args[2] == "per_token" else 1))
    with pytest.raises(AssertionError):
        same(processes, run(plan, stack, "lockstep"))


def children(process: int) -> set[int]:
    """Processes whose parent it is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.add(int(stat.parent.name))
    return found


def is_there(process: int) -> bool:
    """A process that has ended and is waited for counts as gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_killed_ends_the_run_and_leaves_no_process() -> None:
    plan, stack = CASES["dp3-zero3-flash"]
    before, seen = children(os.getpid()), list[int]()

    def kill(step: int, loss: float, score: object) -> None:
        if not seen:
            (nursery,) = children(os.getpid()) - before
            seen.extend((*children(nursery), nursery))
            os.kill(seen[0], signal.SIGKILL)

    with pytest.raises(ParsimError, match=r"the run ended: rank \d was killed by SIGKILL"):
        execute(toy(plan, stack), plan, num_steps=100_000, transport="shared_memory", deadline_s=DEADLINE_S, progress=kill)
    assert len(seen) == 1 + plan.num_devices
    assert not [process for process in seen if is_there(process)]
    assert children(os.getpid()) == before


def test_an_unknown_transport_is_told_the_known_ones() -> None:
    with pytest.raises(ParsimError, match="transport = 'carrier pigeon' must be 'lockstep' or 'shared_memory' or 'mpi'"):
        execute(toy(Plan(), STACKS[0]), Plan(), transport="carrier pigeon")  # type: ignore[arg-type]


def test_a_model_too_large_to_execute_is_refused_before_anything_is_drawn() -> None:
    large = replace(GPT, name="large", vocab_size=10_000_000, hidden_size=12)
    assert parameters.num_parameters(large) > MOST_WEIGHTS
    with pytest.raises(ScenarioError, match=r'model "large" has [0-9,]+ weights, above the 100,000,000 that are executed') as caught:
        execute(scenario(model=large), Plan(), transport="shared_memory")
    assert "parsim verify" in str(caught.value)
