"""Where partial results are settled, and that counts stay exact where int64 would not hold a whole step."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.errors import PlanError, ScenarioError
from parsim.estimator.estimate import estimate
from parsim.model.dims import COMPUTE
from parsim.parallel.plan import Batch, Plan
from parsim.step.gradient import KernelCall
from parsim.step.place import Placer
from parsim.step.task import Collective
from support import CLUSTER, GPT, NODE, TOY, scenario

RULES = {"B": ("dp",), "F": ("tp",)}
CONTRACTS_F = KernelCall("over_f", "einsum", (("x", ("D", "F")), ("w", ("F", "C"))), (("p", ("D", "C"), COMPUTE),), {})
CONTRACTS_B = KernelCall("over_b", "einsum", (("y", ("D", "B")), ("v", ("B", "C"))), (("q", ("D", "C"), COMPUTE),), {})


def collectives(*calls: KernelCall) -> list[tuple[str, str]]:
    return [(task.operation, task.group.name) for task in Placer(RULES, ("dp", "tp")).place(calls) if isinstance(task, Collective)]


def test_addends_that_are_partial_over_different_axes_are_first_reduced_to_a_common_set() -> None:
    add = KernelCall("sum", "add", (("p", ("D", "C")), ("q", ("D", "C"))), (("p", ("D", "C"), COMPUTE),), {}, in_place=True)
    assert collectives(CONTRACTS_F, CONTRACTS_B, add) == [("all_reduce", "tp"), ("all_reduce", "dp")]


def test_a_sum_of_partial_sums_over_the_same_axis_stays_partial() -> None:
    again = replace(CONTRACTS_F, name="again", outputs=(("q", ("D", "C"), COMPUTE),))
    add = KernelCall("sum", "add", (("p", ("D", "C")), ("q", ("D", "C"))), (("p", ("D", "C"), COMPUTE),), {}, in_place=True)
    assert collectives(CONTRACTS_F, again, add) == []


def test_a_partial_sum_is_settled_before_a_kernel_that_is_not_linear() -> None:
    relu = KernelCall("relu", "relu", (("p", ("D", "C")),), (("r", ("D", "C"), COMPUTE),), {})
    assert collectives(CONTRACTS_F, relu) == [("all_reduce", "tp")]


def test_adding_a_partial_to_a_whole_accumulator_is_refused() -> None:
    whole = KernelCall("whole", "relu", (("z", ("D", "C")),), (("p", ("D", "C"), COMPUTE),), {})
    with pytest.raises(PlanError, match="adds a result partial over"):
        collectives(whole, replace(CONTRACTS_F, accumulate=True))


def test_flops_of_the_largest_published_step_are_exact_integers() -> None:
    """405e9 parameters and 16e6 tokens: 6 N tokens is 4e19, above int64; a rank's share and the sum are Python integers."""
    model = replace(
        GPT, num_layers=126, hidden_size=16384, ffn_hidden_size=53248, num_heads=128, num_kv_heads=8, head_dim=128, max_positions=8192
    )
    batch = Batch(2048, 8192)
    fast = replace(TOY, peak_flops_per_s={"bf16": 1e15}, hbm_bandwidth_bytes_per_s=1e13)
    cluster = replace(CLUSTER, node=replace(NODE, accelerator=fast))
    one, half = (estimate(scenario(model=model, batch=each, cluster=cluster), Plan()) for each in (batch, Batch(1024, 8192)))
    assert one.flops[0] > 2**63
    ends = 2 * half.flops[0] - one.flops[0]  # the optimizer's FLOPs, which do not grow with the batch
    assert 0 < ends < one.flops[0] // 10**6


def test_a_matmul_beyond_int64_is_refused_and_not_wrapped() -> None:
    model = replace(GPT, hidden_size=2**24, ffn_hidden_size=2**26, head_dim=2**22, max_positions=2**17)
    with pytest.raises(ScenarioError, match="more than is counted exactly"):
        estimate(scenario(model=model, batch=Batch(64, 2**17)), Plan(micro_batch=64))
