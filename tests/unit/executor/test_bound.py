"""What a rank binds once is the same in every step, and its gradients lie one behind the other."""

from __future__ import annotations

import re
from typing import Any

import pytest

from parsim.calibrate import models
from parsim.cluster import Cluster
from parsim.errors import ParsimError
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.names import own_weights_of
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.executor.run import execute
from parsim.parallel.plan import Plan
from parsim.scenario.rows import read
from parsim_kernels import Machine
from parsim_kernels.bucket import only
from support import DTYPES, scenario


class Nobody:
    def post(self, rank: Rank, dst: int, buffer: str, name: str, arrival: int) -> None:
        raise AssertionError("a single rank sends nothing")


def ended(num_steps: int) -> Rank:
    job = next(iter(models.runs(Cluster(read("nodes", "one-cpu-generic")), DTYPES))).job()
    rank = Rank(0, job, Machine(1), Clock(), Nobody())
    for _ in program.run(rank, num_steps, Record(rank.machine.ledgers[0])):
        pass
    return rank


def test_gradients_are_parts_of_one_array_in_order() -> None:
    rank = ended(1)
    gradients = [rank.machine.get(0, f"{instance}/d_{weight.name}") for instance, weight in own_weights_of(rank.copies)]
    whole = only(gradients)
    assert whole is not None and whole.size == sum(gradient.size for gradient in gradients)
    assert whole.base is gradients[0].base  # in place: a sum over replicas needs no copy


def test_a_pass_is_bound_once_however_many_steps() -> None:
    once, thrice = ended(1), ended(3)
    assert len(once._actions) == len(thrice._actions) == 2 * once.job.workload.num_micro_batches  # F and B of one stage
    assert len(once._finish) == len(thrice._finish) > 0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seed": 2**80}, f"seed = {2**80} must be from 0 to 4,294,967,295"),
        ({"deadline_s": float("inf")}, "deadline_s = inf must be from 0.1 to 10,000,000"),
        ({"deadline_s": float("nan")}, "deadline_s = nan must be from 0.1"),
        ({"deadline_s": -1.0}, "deadline_s = -1.0 must be from 0.1"),
        ({"evaluate_every": -1}, "evaluate_every = -1 must be from 0"),
        ({"num_steps": 0}, "num_steps = 0 must be from 1"),
    ],
)
def test_a_run_by_numbers_that_are_none_is_refused(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ParsimError, match=re.escape(f"execute: {said}")):
        execute(scenario(), Plan(), **asked)
