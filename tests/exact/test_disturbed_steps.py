"""A disturbed step by events takes the picoseconds of the same sample among many; undisturbed ones are the estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import load
from parsim.cost import factors
from parsim.disturbance.monte_carlo import DisturbedPlan, slower
from parsim.estimator import samples
from parsim.estimator.estimate import estimate_legal
from parsim.executor.run import execute
from parsim.parallel.plan import Batch, Plan
from parsim.scenario import Disturbance, Jitter, Scenario, Stragglers
from parsim.schedules.columnar import Bools
from parsim.simulator.disturbed import DisturbedProgram, disturbed_step_ps
from parsim.simulator.program import Program
from parsim.simulator.run import workload_in
from parsim.step.task import Compute, Launches
from parsim.units import PS_PER_S
from random_plans import drawn
from support import STACK, scenario, tiered

STEPS = 3
BUSY = Disturbance(Jitter("gamma", 0.2), Jitter("lognormal", 0.5), Stragglers(0.3, 1.5), {0: 1.25}, {}, {0: 0.25}, samples=STEPS)


def by_events(made: DisturbedPlan, plan: Plan, disturbance: Disturbance) -> list[int]:
    """The steps of the same draws, one by one."""
    draws, lots, scenario = made.draws(disturbance), made.pipelines, made.scenario
    usual, slow = programs(made, scenario, plan), None
    if disturbance.slow_links:
        ((share, *_),) = {(share,) for share in disturbance.slow_links.values()}
        slow = programs(made, replace(scenario, cluster=slower(scenario.cluster, share)), plan)
    nodes = lots.devices // scenario.cluster.node.devices_per_node
    found = []
    for sample in range(disturbance.samples):
        pipelines = []
        for pipeline in range(lots.num_pipelines):
            drawn_factors = draws.factors(pipeline, 0, disturbance.samples).take(sample)
            on_slow = np.isin(nodes[pipeline], [*disturbance.slow_links]).any(axis=1)
            other = DisturbedProgram(slow[0], drawn_factors, *slow[1:]) if slow else None
            pipelines.append(DisturbedProgram(usual[0], drawn_factors, *usual[1:], slower=other, slow_ranks=on_slow))
        found.append(disturbed_step_ps(pipelines, lots.meetings))
    return found


def programs(made: DisturbedPlan, scenario: Scenario, plan: Plan) -> list[Program]:
    batches = [scenario.batch, *([] if made.documents is None else [made.documents.most, made.documents.least])]
    return [Program(workload_in(replace(scenario, batch=each), plan)) for each in batches]


def check(scenario: Scenario, plan: Plan, disturbance: Disturbance) -> None:
    made = DisturbedPlan.of(scenario, plan, disturbance)
    step_s = estimate_legal(scenario, plan).step_s
    assert (made.steps_ps(Disturbance(imbalance=False, samples=2)) / PS_PER_S).tolist() == [step_s] * 2
    assert by_events(made, plan, disturbance) == made.steps_ps(disturbance).tolist()


# Of these some have pipelines that meet at the end only, slow links, schedules with pairs, and sums of gradients beside passes.
OFTEN = (3, 7, 21, 35)


@pytest.mark.parametrize("seed", [tiered(seed, str(seed), slow=seed not in OFTEN) for seed in range(200)])
def test_a_disturbed_step_by_events_takes_the_picoseconds_of_its_sample(seed: int) -> None:
    case = drawn(seed)
    check(case.scenario.trained_by(case.plan), case.plan, replace(BUSY, seed=seed))


DOCUMENTS = Batch(12, 8, packing="packed", lengths=(8, 3, 5, 2, 2, 4, 6))


@pytest.mark.parametrize("plan", [Plan(pipeline_parallel=2, data_parallel=2), Plan(data_parallel=3, zero_stage=3), Plan(micro_batch=2)])
def test_so_does_one_whose_micro_batches_have_other_documents(plan: Plan) -> None:
    toy = scenario(batch=DOCUMENTS, stack=replace(STACK, attention="flash"))
    check(toy, plan, replace(BUSY, stragglers=None))


def _pipelines_wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(samples.PipelinesEnd, "last", lambda self, values, which: values)


def _sums_beside_passes_wait_for_nobody(patch: pytest.MonkeyPatch) -> None:
    last = samples.PipelinesEnd.last
    patch.setattr(samples.PipelinesEnd, "last", lambda self, values, which: last(self, values, which) if which.any() else values)


def _messages_are_as_fast_as_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(samples, "stretched_ps", lambda factor, ps: ps + 0 * factor.astype(np.int64))


def _slow_links_slow_only_what_their_own_node_sends(patch: pytest.MonkeyPatch) -> None:
    right = samples.PipelineRun.priced_by

    def priced_by(self: samples.PipelineRun, other: samples.PipelineRun, ranks: Bools) -> samples.PipelineRun:
        found, home = right(self, other, ranks), self.stages.workload.shape.home
        own = np.tile(ranks[home], len(self.stages.workload.phases))[:, None]
        found.times[1, : len(own)] = np.where(own, other.times[1, : len(own)], self.times[1, : len(own)])
        return found

    patch.setattr(samples.PipelineRun, "priced_by", priced_by)


def _a_factor_is_that_of_the_action_before(patch: pytest.MonkeyPatch) -> None:
    right = samples._rows
    patch.setattr(samples, "_rows", lambda rounds, loops, first: [np.maximum(each - 1, 0) for each in right(rounds, loops, first)])


def _waits_for_the_host_take_longer_with_slow_kernels(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(samples, "_is_kernels", lambda charge: charge in ("compute", "other"))


def _delays_are_cut_off(patch: pytest.MonkeyPatch) -> None:
    right = samples.delays_ps

    def delays_ps(*args: Any) -> Any:
        with patch.context() as inner:
            inner.setattr(np, "rint", np.floor)
            return right(*args)

    patch.setattr(samples, "delays_ps", delays_ps)


MUTANTS = {  # each with the seed of a case that shows it
    _pipelines_wait_for_nobody: 1,
    _sums_beside_passes_wait_for_nobody: 1,
    _messages_are_as_fast_as_ever: 0,
    _slow_links_slow_only_what_their_own_node_sends: 0,
    _a_factor_is_that_of_the_action_before: 0,
    _waits_for_the_host_take_longer_with_slow_kernels: 2,
    _delays_are_cut_off: 0,
}


AT_ONCE = (_pipelines_wait_for_nobody, _delays_are_cut_off)  # in the default tier


@pytest.mark.parametrize("mutant", [tiered(each, each.__name__, slow=each not in AT_ONCE) for each in MUTANTS])
def test_a_wrong_recurrence_of_samples_is_found(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    case = drawn(MUTANTS[mutant])
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        check(case.scenario.trained_by(case.plan), case.plan, BUSY)


LAUNCHING = Disturbance(slow_devices={3: 2.9}, imbalance=False, samples=1)


@pytest.mark.parametrize("name", ["data_parallel", "master", "data_and_layers", "columns_and_rows"])
def test_ranks_that_wait_for_launches_take_the_picoseconds_of_a_slow_device_that_were_drawn(name: str) -> None:
    """And where one alone updates for all, the update is as fast as its device."""
    chosen = replace(load("scenarios/digits-mlp.yaml"), disturbance=LAUNCHING)
    plan = chosen.plan(name)
    made = DisturbedPlan.of(chosen.trained_by(plan), plan, LAUNCHING)
    (step_ps,) = made.steps_ps(LAUNCHING).tolist()
    assert by_events(made, plan, LAUNCHING) == [step_ps] == [execute(chosen, plan).end_ps]


def check_launches_by_hand() -> None:
    """A segment whose kernels take k and its launches h takes max(k, h), and max(f k, h) on a device that takes f times as long."""
    chosen = load("scenarios/digits-mlp.yaml")
    plan, longer = chosen.plan("data_parallel"), 0.0
    work = workload_in(chosen, plan)
    for run in (run for phase in work.phases for run in work.pass_of(0, phase).lists):
        each = [(task, int(ps[0])) for task, ps in zip(run.tasks, work.ps_of(run, 0), strict=True)]
        launches, kernels = (sum(ps for task, ps in each if isinstance(task, kind)) for kind in (Launches, Compute))
        longer += int(run.copies) * (max(2.9 * kernels, launches) - max(kernels, launches))
    updates = (task for task in work.step.finish if isinstance(task, Compute))
    longer += 1.9 * sum(int(work.finish_ps(task, work.copies_on(0), [0])[0]) for task in updates)
    made = DisturbedPlan.of(chosen, plan, LAUNCHING)
    usual_ps, slow_ps = (int(made.steps_ps(each)[0]) for each in (replace(LAUNCHING, slow_devices={}), LAUNCHING))
    assert 0 < slow_ps - usual_ps == pytest.approx(longer, abs=len(work.phases) + 1)


def test_launches_are_as_fast_as_ever_on_a_slow_device() -> None:
    check_launches_by_hand()


def test_a_slow_device_whose_launches_hide_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "_waits_ps", lambda more, hosted: 0.0)
    with pytest.raises(AssertionError):
        check_launches_by_hand()
