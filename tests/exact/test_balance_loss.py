"""The auxiliary loss that balances loads: its gradient reaches the router, the same however a step is split, and as its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.executor.run import execute
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import experts
from parsim_kernels.kernels import KERNELS
from support import MOE, enough, every_other, forget_steps, scenario

MODEL = replace(MOE, balance_coefficient=0.1, num_layers=1, num_dense_layers=0)
SKEWED = replace(MODEL, load_shares=(5.0, 1.0, 1.0, 1.0), capacity_factor=1.25)
PLANS = {
    "ep": Plan(data_parallel=2, expert_parallel=2),
    "full": Plan(data_parallel=4, expert_parallel=4, recompute="full", zero_stage=3),
    "sp": Plan(data_parallel=2, tensor_parallel=2, sequence_parallel=True, expert_parallel=4),
    "zbh1": Plan(data_parallel=2, pipeline_parallel=2, schedule="zero_bubble_h1", expert_parallel=2),
}


@pytest.mark.parametrize("case", every_other(PLANS, ["softmax", "sigmoid"], "{}-{}".format))
def test_it_keeps_the_contract(case: tuple[str, str]) -> None:
    name, gates = case
    model = replace(MODEL if name == "sp" else SKEWED, gates=gates, num_layers=2)
    assert not [check for check in verify_plan(scenario(model=model, batch=enough(PLANS[name])), PLANS[name], "toy") if not check.ok]


def test_its_gradient_is_the_slope_of_its_value() -> None:
    rng = np.random.default_rng(0)
    logits, step = rng.standard_normal((1, 2, 3)), 1e-6
    told = {"scale": 0.7, "chosen": ((3, 0, 1), (0, 0, 0, 0))}
    (slope,), _ = experts.balance_loss_grad((logits,), told)
    for place in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (float(experts.balance_loss((each,), told)[0][0]) for each in moved)
        assert slope[place] == pytest.approx((up - down) / (2 * step), abs=1e-8)  # of a central difference, 1e-10 of rounding in each


def test_balanced_loads_leave_routers_alone_and_others_do_not() -> None:
    """With equal shares the loss is the coefficient, whatever the logits: shares of a softmax add up to 1."""
    for model, differs in ((MODEL, False), (SKEWED, True)):
        with_it, without = (
            execute(scenario(model=each, batch=Batch(4, 8)), Plan()).gradients[0]["layer0/router.weight"]
            for each in (model, replace(model, balance_coefficient=0.0))
        )
        assert (np.abs(with_it - without).max() > 1e-4) == differs


def test_verify_notices_a_loss_without_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    def grad(inputs, attributes, out=experts.fresh):  # type: ignore[no-untyped-def]
        (slope,), flops = experts.balance_loss_grad(inputs, attributes, out)
        slope += 1e-3 * np.arange(slope.shape[-1])
        return (slope,), flops

    monkeypatch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, "balance_loss_grad": grad})
    forget_steps()
    checks = verify_plan(scenario(model=SKEWED, batch=enough(PLANS["ep"])), PLANS["ep"], "toy")
    assert "weight gradients, by hand" in {check.quantity for check in checks if not check.ok}
