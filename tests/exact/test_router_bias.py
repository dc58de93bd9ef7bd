"""Biases that steer choices in place of an auxiliary loss: they follow the loads of all ranks, whose counts are summed once a step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.estimator.estimate import estimate
from parsim.executor.run import execute
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan
from parsim.step import finish
from parsim.verify import verify_plan
from parsim_kernels import experts
from parsim_kernels.kernels import KERNELS
from support import MOE, enough, forget_steps, scenario

MODEL = replace(MOE, steer_rate=0.001, load_shares=(5.0, 1.0, 1.0, 1.0), num_layers=3)  # behind a dense layer two with experts
PLANS = {
    "ep": Plan(data_parallel=2, expert_parallel=2),
    "full": Plan(data_parallel=2, expert_parallel=2, zero_stage=3, recompute="full"),
    "moe": Plan(data_parallel=2, recompute_modules=("moe",), zero_stage=1),
    "sp": Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, expert_parallel=4, micro_batch=2),
    "pp": Plan(data_parallel=2, pipeline_parallel=3, schedule="zero_bubble_h1"),
    "in backward": Plan(data_parallel=2, optimizer_in_backward=True, micro_batch=8),
}


def failures(plan: Plan, model: TransformerSpec = MODEL) -> set[str]:
    forget_steps()
    return {check.quantity for check in verify_plan(scenario(model=model, batch=enough(plan, most=16)), plan, "toy") if not check.ok}


@pytest.mark.parametrize("name", PLANS)
def test_biases_keep_the_contract(name: str) -> None:
    # Uneven loads need a whole sequence.
    assert not failures(PLANS[name], replace(MODEL, load_shares=()) if name == "sp" else MODEL)


def test_a_step_moves_each_bias_towards_equal_loads_and_sends_the_counts_once() -> None:
    """Of 16 choices of a run 8, 3, 3 and 2: the mean is 4.  A ring of two ranks sends half of the counts twice, of two layers together."""
    toy = scenario(model=MODEL, batch=Batch(4, 8))
    steps = [execute(toy, PLANS["ep"], num_steps=number) for number in (1, 2)]
    for number, run in enumerate(steps, 1):
        for rank in run.weights:
            assert rank["layer1/router.steer"].tolist() == pytest.approx(number * 0.001 * np.array([-1, 1, 1, 1]), abs=1e-15)
    without = replace(toy, model=replace(MODEL, steer_rate=0.0))
    before = execute(without, PLANS["ep"]).ledgers
    assert [mine.sent_bytes["dp"] - other.sent_bytes["dp"] for mine, other in zip(steps[0].ledgers, before, strict=True)] == [2 * 4 * 4] * 2
    count, move = 2 * (2 * 2 * 8 * 4), 2 * 4 * 4  # a FLOP a logit of 2 micro_batches of 8 tokens, 4 a bias
    assert estimate(toy, PLANS["ep"]).flops[0] - estimate(without, PLANS["ep"]).flops[0] == count // 2 + move


def _own_counts_only(patch: pytest.MonkeyPatch) -> None:
    right = finish._steer
    patch.setattr(finish, "_steer", lambda *asked: (task for task in right(*asked) if task.name == "steer"))


def _towards_the_loaded(patch: pytest.MonkeyPatch) -> None:
    def steer(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        return experts.steer(inputs, {"rate": -attributes["rate"]}, out)

    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, "steer": steer})


def test_mutants_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutants: dict[Callable[[pytest.MonkeyPatch], None], Callable[[], bool]] = {
        _towards_the_loaded: lambda: "updated weights, by hand" in failures(PLANS["ep"]),
        _own_counts_only: lambda: estimate(toy, PLANS["ep"]).sent_bytes[0]["dp"] < sent,
    }
    toy = scenario(model=MODEL, batch=Batch(4, 8))
    sent = estimate(toy, PLANS["ep"]).sent_bytes[0]["dp"]
    for mutate, notices in mutants.items():
        with monkeypatch.context() as patch:
            mutate(patch)
            forget_steps()
            assert notices(), mutate
    forget_steps()
