"""What a framework does by itself: the host's time of each collective and message, and kernels of which no law of another program holds."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cluster.accelerator import KernelLaw
from parsim.cluster.cluster import Cluster
from parsim.cost import timing
from parsim.estimator.estimate import estimate
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Scenario
from parsim.verify import verify_plan
from support import GPT, NODE, STACK, scenario

LAUNCH_S = 1e-3
EAGER = replace(STACK, gradient_overlap=False, tensor_overlap=False)


def added(plan: Plan, batch: Batch, model: TransformerSpec = GPT) -> float:
    """To a step, in units of the host's time of a message."""
    hosts = (replace(EAGER, message_launch_s=each) for each in (0.0, LAUNCH_S))
    free, paid = (estimate(scenario(model=model, batch=batch, stack=host), plan).step_s for host in hosts)
    return (paid - free) / LAUNCH_S


def test_a_step_of_replicas_waits_once_more_for_its_one_sum() -> None:
    assert added(Plan(), Batch(2, 8)) == 0
    assert added(Plan(data_parallel=2), Batch(2, 8)) == pytest.approx(1)


def test_each_message_of_a_pipeline_takes_the_host() -> None:
    """One micro_batch: an activation goes to the second stage, and its gradient comes back; then the norm of all gradients is summed."""
    assert added(Plan(pipeline_parallel=2), Batch(1, 8), replace(GPT, tied_embedding=False)) == pytest.approx(3)


def test_all_readers_agree_of_messages_that_take_the_host() -> None:
    here = scenario(batch=Batch(4, 8), stack=replace(STACK, message_launch_s=LAUNCH_S))
    plan = Plan(data_parallel=2, tensor_parallel=2, pipeline_parallel=2)
    assert not [str(each) for each in verify_plan(here, plan, "toy") if not each.ok]


def test_a_message_without_its_host_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_with_launch", lambda price, num_ranks, model: price)
    with pytest.raises(AssertionError):
        test_a_step_of_replicas_waits_once_more_for_its_one_sum()


def _measured(own: bool, call_s: float) -> Scenario:
    """On a device whose additions were measured by themselves."""
    device = replace(NODE.accelerator, kernels={"add": KernelLaw(call_s=call_s)})
    return replace(
        scenario(batch=Batch(1, 8), stack=replace(STACK, own_kernels=own, host_launch_s=1e-6, blocks_launches=True)),
        cluster=Cluster(replace(NODE, accelerator=device)),
    )


def test_a_law_of_one_kernel_holds_but_for_a_stack_that_brings_its_own() -> None:
    theirs, own = ([estimate(_measured(each, call_s), Plan()).step_s for call_s in (0.0, 1.0)] for each in (False, True))
    assert theirs[1] > theirs[0] + 1.0 and own[1] == own[0]


def test_launches_of_a_stack_with_its_own_kernels_count_beside_laws_of_others() -> None:
    here = _measured(True, 1.0)
    slow = replace(here, stack=replace(here.stack, host_launch_s=2e-6))
    assert estimate(slow, Plan()).step_s > estimate(here, Plan()).step_s
