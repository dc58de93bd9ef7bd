"""Processes that are killed in mid-run, at any moment: the run that goes on ends with the very weights of one that nobody killed."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_processes import children

from parsim.errors import EndedRun
from parsim.executor.run import Execution, execute
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from support import GPT, MOE, STACKS, enough, scenario, tiered

pytestmark = pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="shared memory is for Linux on x86-64")
DEADLINE_S = 120.0
PLANS = {
    "replicas": (Plan(2), GPT, 0),
    "zero 3": (Plan(2, zero_stage=3, optimizer="adamw_8bit"), GPT, 2),
    "columns in a pipeline": (Plan(1, 2, 2, sequence_parallel=True), GPT, 1),
    "on the host": (Plan(2, zero_stage=2, offload_optimizer=True), GPT, 3),
    "experts": (Plan(2, expert_parallel=2, optimizer="sgd_momentum"), MOE, 0),
}


def toy(name: str) -> tuple[Scenario, Plan]:
    plan, model, stack = PLANS[name]
    return scenario(model=replace(model, num_layers=max(2, plan.num_stages)), batch=enough(plan, 4, most=4), stack=STACKS[stack]), plan


def workers_of(process: int, before: set[int]) -> list[int]:
    """The ranks of the run that this process has started."""
    return sorted(worker for nursery in children(process) - before for worker in children(nursery))


class Killer(threading.Thread):
    """Kills a random worker of the next run of this process, once: one time in four as it begins, else some time after a step."""

    def __init__(self, rng: random.Random, most_s: float) -> None:
        super().__init__()
        self.before, self.over, self.told, self.steps = children(os.getpid()), threading.Event(), 0, -1
        self.waits, self.delay_s, self.pick = rng.random() < 0.75, rng.random() * most_s, rng.choice

    def hear(self, step: int, loss: float, score: object) -> None:
        """As `progress`."""
        self.told += 1

    def run(self) -> None:
        """Until it has killed, or the run is over."""
        while not workers_of(os.getpid(), self.before):
            if self.over.wait(0.005):
                return
        at = self.told  # steps before, which are told again
        while self.waits and self.told == at:
            if self.over.wait(0.001):
                return
        if not self.over.wait(self.delay_s) and (there := workers_of(os.getpid(), self.before)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pick(there), signal.SIGKILL)
                self.steps = self.told - at


def run_with_kills(case: tuple[Scenario, Plan], folder: Path, rng: random.Random, kills: int, steps: int) -> tuple[Execution, list[int]]:
    """A run that is begun again after each kill, and how many steps it had done before each."""
    how = {"num_steps": steps, "transport": "shared_memory", "deadline_s": DEADLINE_S, "checkpoint": folder, "resume": True}
    met: list[int] = []
    for _ in range(kills):
        killer = Killer(rng, 0.01 * steps)
        killer.start()
        try:
            return execute(*case, **how, checkpoint_every=rng.choice((1, 2, 5)), progress=killer.hear), met  # type: ignore[arg-type]
        except EndedRun as error:
            assert "was killed by SIGKILL" in str(error)
        finally:
            killer.over.set()
            killer.join()
        met.append(killer.steps)
    return execute(*case, **how), met  # type: ignore[arg-type]


def same(these: Execution, those: Execution) -> None:
    """All but how long the steps took, and the gradients of a run that was killed behind its last step: there are none to sum again."""
    beside: dict[str, Any] = {"wall_s": ()} | ({"gradients": (), "input_gradients": ()} if these.went_on_after == len(these.losses) else {})
    assert replace(these, **beside) == replace(those, **beside)


KILLS = [tiered(("replicas", 2), "2 kills", slow=False), *(tiered((name, 20), f"20 kills, {name}", slow=True) for name in PLANS)]


@pytest.mark.parametrize("asked", KILLS)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(asked: tuple[str, int], tmp_path: Path) -> None:
    name, kills = asked
    case, rng, rounds = toy(name), random.Random(name), 0
    met: list[int] = []
    steps = 12 if kills < 5 else 60
    whole = execute(*case, num_steps=steps, transport="shared_memory", deadline_s=DEADLINE_S)
    while len(met) < kills:
        run, own = run_with_kills(case, tmp_path / str(rounds), rng, kills - len(met), steps)
        same(run, whole)
        met, rounds = met + own, rounds + 1
        assert rounds <= 10 * kills, "they end before they are killed"
    print(f"{name}: {len(met)} kills, {sum(each > 0 for each in met)} of them after steps {met}, in {rounds} runs of {steps} steps")


def test_a_run_that_was_killed_behind_its_last_step_has_all_but_gradients(tmp_path: Path) -> None:
    case, how = toy("on the host"), {"num_steps": 3, "checkpoint": tmp_path, "checkpoint_every": 1}
    whole = execute(*case, **how)  # type: ignore[arg-type]
    again = execute(*case, **how, resume=True)  # type: ignore[arg-type]
    same(again, whole)
    assert again.weights[0].keys() == whole.weights[0].keys() and not any(again.gradients)
