"""The virtual makespan of 32 and 64 ranks that really run the program is what the simulator says, to the picosecond."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import stages_of
from parsim.estimator.pipeline import timeline
from parsim.executor.lockstep import Mail
from parsim.executor.run import execute
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario import Scenario
from parsim.simulator.run import run
from support import GPT, STACK, scenario, tiered

MODEL = replace(GPT, hidden_size=8, ffn_hidden_size=8, head_dim=2, vocab_size=16)
OVERLAPPED = replace(STACK, tensor_overlap=True, gradient_overlap=True, host_launch_s=3e-6, attention="flash")
INTERLEAVED = {"virtual_pipeline": 2, "schedule": "interleaved_1f1b"}
CASES = {
    "dp4-tp4-pp4": (Plan(4, 4, 4, sequence_parallel=True), STACK),
    "dp4-tp4-pp4-overlapped": (Plan(4, 4, 4), replace(OVERLAPPED, scatter_gather=True)),
    "dp8-pp8-interleaved": (Plan(8, 1, 8, zero_stage=1, **INTERLEAVED), OVERLAPPED),  # type: ignore[arg-type]
    "dp64-zero3": (Plan(64, zero_stage=3), OVERLAPPED),
    "dp32-zero3": (Plan(32, zero_stage=3), OVERLAPPED),
    "dp64-hsdp": (Plan(64, zero_stage=3, zero_group=8), STACK),
    "tp2-pp32": (Plan(1, 2, 32, recompute="full"), STACK),
    "dp4-pp8-zero-bubble": (Plan(4, 1, 8, schedule="zero_bubble_h1", recompute="selective"), OVERLAPPED),
    "dp8-tp4-pp2": (Plan(8, 4, 2, sequence_parallel=True, rank_order="dp-tp-pp", schedule="gpipe"), OVERLAPPED),
    "dp4-tp2-pp4-interleaved": (Plan(4, 2, 4, zero_stage=2, **INTERLEAVED), OVERLAPPED),  # type: ignore[arg-type]
    "dp32-zero3-kept": (Plan(32, zero_stage=3, reshard_after_forward=False), OVERLAPPED),
}
# Each feature of theirs has another case.
SLOW = ("dp8-pp8-interleaved", "dp64-zero3", "dp64-hsdp", "tp2-pp32", "dp4-tp4-pp4", "dp32-zero3-kept")


def toy(plan: Plan, stack: Stack) -> Scenario:
    rounds = min(plan.pipeline_parallel, 8)
    return scenario(model=replace(MODEL, num_layers=max(2, plan.num_stages)), batch=Batch(rounds * plan.data_parallel, 4), stack=stack)


def executed_and_predicted_ps(plan: Plan, stack: Stack) -> tuple[int, int, int]:
    chosen = toy(plan, stack)
    executed = execute(chosen, plan)
    assert len(executed.ledgers) == plan.num_devices >= 32
    return executed.end_ps, run(executed.job.workload).step_ps, timeline(stages_of(chosen, plan)).step_ps


@pytest.mark.parametrize("name", [tiered(name, name, slow=name in SLOW) for name in CASES])
def test_virtual_clocks_of_so_many_ranks_end_when_the_simulation_does(name: str) -> None:
    executed, simulated, estimated = executed_and_predicted_ps(*CASES[name])
    assert executed == simulated == estimated


def test_a_clock_that_charges_a_picosecond_too_much_for_a_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Mail.post
    monkeypatch.setattr(Mail, "post", lambda self, *args: right(self, *args[:-1], args[-1] + 1))
    plan, stack = CASES["dp8-tp4-pp2"]
    executed, simulated, _ = executed_and_predicted_ps(plan, stack)
    assert executed >= simulated + 2  # the boundary is crossed forward and backward on the longest path
