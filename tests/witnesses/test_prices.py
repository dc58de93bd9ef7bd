"""What a step costs on a made-up machine, task by task and as a whole, against the same laws written out in price_by_hand.py."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate, stages_of
from parsim.parallel.plan import Plan
from parsim.step.task import Launches
from price_by_hand import CASES, FLASH, copies_on, differences, priced, seconds, tasks_of


@pytest.mark.parametrize("name", CASES)
def test_every_task_takes_the_seconds_of_the_page(name: str) -> None:
    assert not differences(name)


def in_turn_s(name: str) -> float:
    """Seconds of a step of one micro_batch in which each task waits for the one before, from rank to rank, and of its end."""
    stack, plan = CASES[name]
    workload = stages_of(priced(replace(stack, host_launch_s=0.0)), plan).workload
    passes_s = sum(seconds(task, workload) for task in tasks_of(workload) if not isinstance(task, Launches))
    ends = []
    for rank in range(workload.num_ranks):
        ends.append([seconds(task, workload, copies_on(workload, rank)) for task in workload.step.finish])
    joint = next((i for i, task in enumerate(workload.step.finish) if task.name == "gradient_norm_pp"), -1)
    # The first stage ends last; from the norm of all stages on the slowest of them counts.
    return passes_s + sum(ends[0][: joint + 1]) + max(sum(end[joint + 1 :]) for end in ends)


SERIAL = ("alone", "unfused", "tp", "zero1", "pp", "8 bits", "momentum")


def step_s(name: str) -> float:
    stack, plan = CASES[name]
    return estimate(priced(replace(stack, host_launch_s=0.0)), plan).step_s


@pytest.mark.parametrize("name", SERIAL)
def test_a_step_in_which_nothing_overlaps_is_the_sum_of_the_page(name: str) -> None:
    assert step_s(name) == pytest.approx(in_turn_s(name), rel=1e-6)  # each task is rounded to a picosecond


def launched_s() -> float:
    return estimate(priced(replace(FLASH, host_launch_s=1.0)), Plan(micro_batch=8)).step_s


# Two layers, of 2 norms, 3 + 1 + 2 GEMMs with a bias each, flash, gelu, and 2 x (dropout, add): 20.  Lookup, position and dropout;
# norm, logits, cast, and 7 steps of the loss: 3 + 10.  Backward is counted by the table of op kinds that each op has.
NUM_LAUNCHED_FORWARD = 3 + 2 * 20 + 10


def test_a_step_whose_host_takes_a_second_a_kernel_takes_a_second_a_kernel() -> None:
    workload = stages_of(priced(FLASH), Plan(micro_batch=8)).workload
    counts = [task.count for task in tasks_of(workload) if isinstance(task, Launches)]
    assert sum(counts[:4]) == NUM_LAUNCHED_FORWARD
    assert launched_s() == pytest.approx(sum(counts), rel=0.01)
