"""Casts that run again in backward: of what a layer keeps nothing is narrow, as torchtitan's checkpointing by op has it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from narrow_toys import FUSED, LLAMA, NARROW, SEQUENCE, SHARDS, red
from parsim.estimator.estimate import stages_of
from parsim.model.dims import FLOAT32, QUANTISED
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.scenario.rows import read
from parsim.schedules.phase import Phase
from parsim.step import recompute
from parsim.step.task import Compute, Operand, Task
from support import forget_steps, scenario, tiered

OWN: Stack = read("stacks", "torchtitan")
AGAIN = replace(FUSED, selective_recompute=OWN.selective_recompute)
KEPT = replace(FUSED, selective_recompute=tuple(name for name in OWN.selective_recompute if name != "quantise"))
SELECTIVE = Plan(recompute="selective")


def kept(name: str, stack: Stack = AGAIN) -> dict[str, Operand]:
    """What a layer keeps for backward."""
    segments = stages_of(scenario(model=LLAMA, batch=Batch(4, 8, name), stack=stack), SELECTIVE).workload.step.segments
    return {each.name: each for each in segments["layer"].kept[Phase.F]}


def test_a_layer_keeps_what_it_keeps_in_bf16_and_the_largest_elements() -> None:
    """Of what attention, its output, the MLP and its last matrix read."""
    wide, narrow = kept("bf16"), kept("fp8_current")
    assert {each.dtype for name, each in narrow.items() if name not in wide} == {FLOAT32}
    assert len(narrow) - len(wide) == 4 and {*wide} <= {*narrow}
    assert {*kept("fp8_rowwise")} == {*kept("mxfp8")} == {*wide}
    assert QUANTISED in {each.dtype for each in kept("fp8_current", KEPT).values()}  # the mutant: all but casts run again


def test_each_cast_of_forward_that_backward_reads_runs_again_once_and_no_search_for_the_largest_element() -> None:
    """Which are those of 4 inputs; weights last."""
    segments = stages_of(scenario(model=LLAMA, batch=Batch(4, 8, "fp8_current"), stack=AGAIN), SELECTIVE).workload.step.segments
    again = [task.kernel for task in segments["layer"].phases[Phase.B] if isinstance(task, Compute) and task.again]
    assert again.count("quantise") == 4 and "absmax" not in again


PLANS = {"alone": SELECTIVE, "sp": replace(SEQUENCE, recompute="selective"), "zero 3": replace(SELECTIVE, data_parallel=2, zero_stage=3)}
FAST = (("fp8_current", "sp"), ("fp8_rowwise", "alone"))


@pytest.mark.parametrize(
    "case", [tiered((name, plan), f"{name}-{plan}", slow=(name, plan) not in FAST) for name in NARROW for plan in PLANS]
)
def test_casts_are_executed_again_as_they_are_counted(case: tuple[str, str]) -> None:
    name, plan = case
    assert not red(name, PLANS[plan], stack=AGAIN)


def test_gradients_notice_a_cast_that_rounds_otherwise_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = recompute._mark

    def coarser(task: Task) -> Task:
        told = {**task.attributes, "format": "e5m2"} if isinstance(task, Compute) and task.kernel == "quantise" else None
        return right(replace(task, attributes=told) if told else task)

    forget_steps()
    monkeypatch.setattr(recompute, "_mark", coarser)
    assert "weight gradients" in red("fp8_current", SELECTIVE, stack=AGAIN)
    monkeypatch.undo()
    forget_steps()


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_so_are_casts_of_shards(plan: str) -> None:
    assert not red("fp8_current", PLANS[plan], stack=replace(SHARDS, selective_recompute=OWN.selective_recompute))
