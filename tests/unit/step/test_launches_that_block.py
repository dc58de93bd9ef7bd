"""Where a launch returns when its kernel has ended (CUDA_LAUNCH_BLOCKING=1), a step takes the host's time of all launches besides."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.cost import timing
from parsim.cost.cost_model import CostModel
from parsim.estimator.estimate import estimate, stages_of
from parsim.parallel.plan import ALL, UNSPLIT, Batch, Plan
from parsim.step import program
from parsim.step.program import section
from parsim.step.task import COMPUTE_STREAM, LAUNCH, Launches
from parsim.verify import verify_plan
from support import CLUSTER, GPT, MOE, STACK, scenario

BLOCKS = replace(STACK, blocks_launches=True, host_launch_s=1e-6, expert_launch_s=1e-6)
SPLIT = Plan(pipeline_parallel=2)


def added_us() -> float:
    """To a step of one micro_batch, by a microsecond a launch."""
    hosts = (replace(BLOCKS, host_launch_s=each) for each in (0.0, 1e-6))
    free, paid = (estimate(scenario(batch=Batch(1, 8), stack=host), Plan()).step_s for host in hosts)
    return (paid - free) * 1e6


def launches() -> list[Launches]:
    """Those of all layers of a model on one device."""
    workload = stages_of(scenario(batch=Batch(1, 8), stack=BLOCKS), Plan()).workload
    copies = workload.copies_on(0).items()
    found = [(copy, section(workload.step, name, phase)) for name, copy in copies for phase in workload.phases]
    return [task for copy, tasks in found for task in tasks * int(copy) if isinstance(task, Launches)]


def test_a_step_takes_all_its_launches_longer() -> None:
    assert added_us() == pytest.approx(sum(task.count for task in launches()))
    assert {task.stream for task in launches()} == {COMPUTE_STREAM}


def test_what_a_graph_replays_is_not_launched() -> None:
    graphs = {CLUSTER.node.accelerator.name: ALL}
    took = [estimate(scenario(stack=replace(BLOCKS, host_launch_s=each, graphs=graphs)), Plan()).step_s for each in (0.0, 1e-3)]
    assert took[0] == took[1]


def test_what_an_unsplit_step_replays_a_pipeline_launches() -> None:
    graphs = {CLUSTER.node.accelerator.name: UNSPLIT}
    free, paid = (replace(BLOCKS, host_launch_s=each, graphs=graphs) for each in (0.0, 1e-3))
    for plan, model, is_free in ((Plan(), GPT, True), (SPLIT, GPT, False), (Plan(data_parallel=2, expert_parallel=2), MOE, False)):
        took = [estimate(scenario(model=model, batch=Batch(8, 8), stack=each), plan).step_s for each in (free, paid)]
        assert (took[0] == took[1]) == is_free


def test_a_host_that_blocks_does_not_ask_for_loads() -> None:
    """Sizes of an exchange are found only where the host waits for the loads of experts."""
    free, paid = (replace(BLOCKS, waits_for_loads=each) for each in (False, True))
    of_experts = Plan(data_parallel=2, expert_parallel=2)
    took = [estimate(scenario(model=MOE, batch=Batch(8, 8), stack=each), of_experts).step_s for each in (free, paid)]
    assert took[0] < took[1]


def test_all_readers_agree_of_a_pipeline_whose_launches_block() -> None:
    assert not [str(each) for each in verify_plan(scenario(batch=Batch(2, 4), stack=BLOCKS), SPLIT, "toy") if not each.ok]


def on_a_slow_host() -> tuple[float, float]:
    """Microseconds that a step takes longer by a microsecond a launch: on a host as fast as the reference, and on half as fast a one."""
    slow = replace(CLUSTER, node=replace(CLUSTER.node, launch_factor=2.0))
    took = [
        estimate(scenario(cluster=cluster, batch=Batch(1, 8), stack=replace(BLOCKS, host_launch_s=each)), Plan()).step_s
        for cluster in (CLUSTER, slow)
        for each in (0.0, 1e-6)
    ]
    return (took[1] - took[0]) * 1e6, (took[3] - took[2]) * 1e6


def test_a_host_of_half_the_speed_launches_in_twice_the_time() -> None:
    fast, slow = on_a_slow_host()
    assert slow == pytest.approx(2 * fast)


def test_all_readers_agree_of_a_slow_host() -> None:
    slow = replace(CLUSTER, node=replace(CLUSTER.node, launch_factor=1.6))
    assert not [str(each) for each in verify_plan(scenario(cluster=slow, batch=Batch(2, 4), stack=BLOCKS), SPLIT, "toy") if not each.ok]


def test_a_host_that_is_as_fast_as_any_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    priced = timing._launches_ps
    monkeypatch.setattr(timing, "_launches_ps", lambda task, sizes, model: priced(task, sizes, _as_fast(model)))
    fast, slow = on_a_slow_host()
    assert slow == pytest.approx(fast)


def _as_fast(model: CostModel) -> CostModel:
    return replace(model, cluster=replace(model.cluster, node=replace(model.cluster.node, launch_factor=1.0)))


def test_launches_beside_their_kernels_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    blocking = added_us()
    monkeypatch.setattr(program, "COMPUTE_STREAM", LAUNCH)
    kept = program.section, program._around, program._with_surroundings
    for each in kept:
        each.cache_clear()
    try:
        assert added_us() < blocking
    finally:
        for each in kept:
            each.cache_clear()
