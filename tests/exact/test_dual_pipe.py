"""DualPipe: two copies of the model on one pipeline, the second the other way round; what each rank holds, sends and sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost.sizes import Sizes
from parsim.estimator.estimate import estimate, estimates
from parsim.executor import program
from parsim.executor.calls import _WeightKernel
from parsim.executor.run import execute
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.simulator.run import simulate
from parsim.step import finish
from parsim.units import PS_PER_S
from parsim.verify import verify_plan
from support import GPT, MOE, STACKS, forget_steps, scenario, tiered

UNTIED = replace(GPT, tied_embedding=False)
OTHERS: dict[str, dict[str, object]] = {
    "pair": {},
    "four": {"pipeline_parallel": 4},
    "uneven": {"layers_per_stage": (1, 3)},
    "dp": {"data_parallel": 2},
    "zero1": {"data_parallel": 2, "zero_stage": 1},
    "zero2": {"data_parallel": 2, "zero_stage": 2},
    "zero3": {"data_parallel": 2, "zero_stage": 3, "reshard_after_forward": True},
    "hsdp": {"data_parallel": 4, "zero_stage": 1, "zero_group": 2},
    "master": {"data_parallel": 2, "gradient_sync": "master"},
    "sp": {"tensor_parallel": 2, "sequence_parallel": True},
    "cp": {"context_parallel": 2},
    "full": {"recompute": "full"},
    "offload": {"offload_optimizer": True},
    "ep": {"data_parallel": 2, "expert_parallel": 2},
}


def dual(**fields: object) -> Plan:
    return Plan(**{"pipeline_parallel": 2, "schedule": "dual_pipe", **fields})  # type: ignore[arg-type]


_SLOW = ("four", "zero1", "hsdp", "full", "offload", "master")


@pytest.mark.parametrize("name", [tiered(name, name, slow=name in _SLOW) for name in OTHERS])
def test_two_copies_keep_the_contract_on_every_rank(name: str) -> None:
    number, plan = list(OTHERS).index(name), dual(**OTHERS[name])
    model = MOE if name == "ep" else (GPT, UNTIED)[number % 2]
    batch = Batch(2 * (plan.pipeline_parallel + number % 2) * plan.data_parallel, 8)
    toy = scenario(model=model, batch=batch, stack=STACKS[number % len(STACKS)])
    assert not faults(plan, model, batch, plan.num_devices, stack=toy.stack)
    assert not [check for check in verify_plan(toy, plan, name) if not check.ok]


def test_the_two_ranks_of_a_pair_hold_the_same_weights_and_sum_their_gradients() -> None:
    plan, toy = dual(pipeline_parallel=4), scenario(model=replace(UNTIED, dropout=0.0), batch=Batch(16, 8), stack=STACKS[0])
    ran = execute(toy, plan, num_steps=2)
    for one, other in ((0, 3), (1, 2)):
        for held in (ran.weights, ran.gradients):
            assert held[one].keys() == held[other].keys() != held[1 - one].keys()
            assert all(np.array_equal(held[one][name], held[other][name]) for name in held[one])


def test_a_rank_holds_two_stages_and_runs_half_of_the_micro_batches_through_each() -> None:
    """DeepSeek-AI 2024, table 2: parameters 2 x."""
    plans = dual(pipeline_parallel=4), Plan(pipeline_parallel=4)
    few, many = ([estimate(scenario(model=UNTIED, batch=Batch(n, 8)), each) for each in plans] for n in (16, 32))
    both, one = ([more - less for more, less in zip(b.flops, a.flops, strict=True)] for a, b in zip(few, many, strict=True))  # of passes
    for i in range(4):
        assert 2 * both[i] == one[i] + one[3 - i]
        for part in ("parameters", "gradients", "optimizer"):
            held = [estimated.memory_bytes[stage][part] for estimated, stage in ((few[0], i), (few[1], i), (few[1], 3 - i))]
            assert held[0] == held[1] + held[2]


def test_a_pair_sums_what_both_hold_once_over_the_pipeline() -> None:
    """A ring of two sends the payload once; each rank's messages of a boundary go both ways, half as many of each."""
    toy = scenario(model=UNTIED, batch=Batch(8, 8), stack=STACKS[0])
    both, one = (estimate(toy, each) for each in (dual(), Plan(pipeline_parallel=2)))
    gradients, norm = both.memory_bytes[0]["gradients"], 4
    assert both.sent_bytes[0]["pp"] == one.sent_bytes[0]["pp"] + gradients
    assert one.sent_bytes[0]["pp"] == 8 * 8 * 12 * 2 + norm  # micro_batches x tokens x hidden_size x bf16


def test_plans_of_one_and_of_two_copies_together_are_priced_as_each_alone_and_simulated_alike() -> None:
    toy = scenario(batch=Batch(16, 8))
    plans = [dual(), dual(pipeline_parallel=4), Plan(pipeline_parallel=4), Plan(pipeline_parallel=2, schedule="zero_bubble_h1")]
    together = estimates(toy, plans)
    assert [round(each * PS_PER_S) for each in together.step_s] == [round(estimate(toy, plan).step_s * PS_PER_S) for plan in plans]
    assert together.peak_bytes.tolist() == [estimate(toy, plan).peak_bytes for plan in plans]
    for plan in plans[:2]:
        assert simulate(toy, plan).step_s == estimate(toy, plan).step_s
        assert simulate(toy, plan, contention=True).step_s >= simulate(toy, plan).step_s


@pytest.mark.parametrize(
    ("fields", "batch", "field", "said"),
    [
        ({"pipeline_parallel": 3}, 12, "schedule", "schedule 'dual_pipe' pairs the ranks of a pipeline, but pipeline_parallel = 3"),
        (
            {},
            7,
            "schedule",
            "data_parallel x micro_batch x copies of the model (dual_pipe) = 1 x 1 x 2 = 2 does not divide global_batch = 7",
        ),
        ({"data_parallel": 4}, 18, "data_parallel", "data_parallel x micro_batch x copies of the model (dual_pipe) = 4 x 1 x 2 = 8"),
        ({"pipeline_parallel": 4}, 6, "schedule", "schedule 'dual_pipe' needs as many micro batches as ranks, 4, for each of two copies"),
    ],
)
def test_what_does_not_pair_or_divide_is_a_fault_with_a_way_out(fields: dict[str, object], batch: int, field: str, said: str) -> None:
    plan = dual(**fields)
    (fault,) = faults(plan, GPT, Batch(batch, 8), plan.num_devices, stack=STACKS[0])
    assert fault.field == field and str(fault).startswith(said) and fault.remedy


Patch = Callable[[pytest.MonkeyPatch], None]


def _gradients_stay_apart(patch: pytest.MonkeyPatch) -> None:
    right = finish._sums
    patch.setattr(finish, "_sums", lambda structure, every: (t for t in right(structure, every) if t.name != "mirrored_gradients"))


def _pairs_counted_as_the_whole_pipeline(patch: pytest.MonkeyPatch) -> None:
    right = Sizes.num_ranks
    patch.setattr(Sizes, "num_ranks", lambda self, group: right(self, replace(group, mirrors=False)))


def _both_copies_train_on_the_same(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(program, "_number", lambda workload, stage, micro_batch: micro_batch)


def _norm_counts_both(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_WeightKernel, "is_mirror", False)


@pytest.mark.parametrize(
    ("mutate", "quantity"),
    [
        (_gradients_stay_apart, "weight gradients"),
        (_pairs_counted_as_the_whole_pipeline, "bytes sent over pp"),
        (_both_copies_train_on_the_same, "loss"),
        (_norm_counts_both, "updated weights"),
    ],
)
def test_verify_notices(mutate: Patch, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, plan = scenario(model=UNTIED, batch=Batch(8, 8)), dual(pipeline_parallel=4)
    forget_steps()
    mutate(monkeypatch)
    assert quantity in {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}
