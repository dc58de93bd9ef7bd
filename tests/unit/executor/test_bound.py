"""What a rank binds once is the same in every step, and its gradients lie one behind the other."""

from __future__ import annotations

from parsim.calibrate import models
from parsim.cluster import Cluster
from parsim.executor import program
from parsim.executor.clock import Clock
from parsim.executor.names import own_weights_of
from parsim.executor.program import Record
from parsim.executor.rank import Rank
from parsim.scenario.rows import read
from parsim_kernels import Machine
from parsim_kernels.bucket import only
from support import DTYPES


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
