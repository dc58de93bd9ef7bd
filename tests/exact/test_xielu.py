"""An activation with numbers of its own (xIELU, of Apertus) keeps the contract, also where ZeRO leaves ranks nothing of them; mutants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.model.op_kinds import COSTS
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.verify import verify_plan
from parsim_kernels import KERNELS
from support import GPT, STACK, forget_steps, scenario

APERTUS = replace(
    GPT, name="toy apertus", activation="xielu", norm="rms_norm", positions="rotary", bias=False, qkv_bias=False, qk_norm=True,
    dropout=0.0, num_kv_heads=2,
)  # fmt: skip
PLANS: dict[str, Plan] = {
    "sp and zero2": Plan(tensor_parallel=2, sequence_parallel=True, data_parallel=2, zero_stage=2, micro_batch=2),
    "zero3": Plan(data_parallel=4, zero_stage=3, recompute="full", micro_batch=2),
    "tp and pp": Plan(tensor_parallel=2, pipeline_parallel=2, recompute="selective", micro_batch=2),
    "cp": Plan(context_parallel=2, micro_batch=2),
    "offload": Plan(data_parallel=2, zero_stage=1, offload_optimizer=True, micro_batch=2),
}


def failures(plan: Plan) -> set[str]:
    toy = scenario(model=APERTUS, batch=Batch(4 * plan.data_parallel, 8), stack=replace(STACK, attention="flash"))
    assert not faults(plan, toy.model, toy.batch, plan.num_devices, stack=toy.stack)
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


@pytest.mark.parametrize("plan", [name if name == "sp and zero2" else pytest.param(name, marks=pytest.mark.slow) for name in PLANS])
def test_a_learned_activation_keeps_the_contract(plan: str) -> None:
    assert not failures(PLANS[plan])


def test_its_slopes_are_those_of_differences() -> None:
    x, numbers, step = np.linspace(-2.0, 2.0, 8), (np.array([0.3]), np.array([-0.7])), 1e-6
    own = KERNELS["xielu_grad"]((x, *numbers, np.ones(8)), {})[0][0]
    above, below = (KERNELS["xielu"]((x + side, *numbers), {})[0][0] for side in (step, -step))
    assert np.allclose(own, (above - below) / (2 * step), rtol=1e-8)  # truncation is step^2, rounding 1e-16 / step


def _the_part_below_does_not_learn(patch: pytest.MonkeyPatch) -> None:
    wrong = {"xielu_grad_n": lambda inputs, told, out: KERNELS["xielu_grad_n"]((0 * inputs[0], *inputs[1:]), told, out)}
    patch.setattr("parsim_kernels.machine.KERNELS", {**KERNELS, **wrong})


def _the_parabola_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(COSTS, "xielu", replace(COSTS["xielu"], per_element=0))


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    _the_part_below_does_not_learn: "weight gradients, by hand",
    _the_parabola_costs_nothing: "FLOPs",
}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_wrong_activation_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    forget_steps()
    mutate(monkeypatch)
    try:
        assert MUTANTS[mutate] in failures(Plan(micro_batch=2))
    finally:
        forget_steps()
