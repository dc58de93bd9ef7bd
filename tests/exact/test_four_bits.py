"""A base in 4 bits is executed in 4 bits: what its blocks and scales lose, verify computes once more by hand."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.executor import weights
from parsim.model.adapters import ALL, each_target
from parsim.model.tuning import BASE, Tuning
from parsim.parallel.plan import Plan
from parsim.verify import verify_plan
from parsim.verify.nf4_by_hand import in_nf4
from parsim_kernels import KERNELS, four_bits, machine
from parsim_kernels.four_bits import BLOCK, LEVELS, dequantise, pack
from support import GPT, MOE, enough, forget_steps, scenario, tiered

PACKED = Tuning((BASE,), 4, 8.0, 0.0, each_target([ALL]), quantization="nf4", double_quantization=True)
TOY = scenario(model=replace(GPT, num_layers=1, tuning=PACKED))
PLANS = {
    "tp": (GPT, {"tensor_parallel": 2, "sequence_parallel": True}),
    "kv heads copied": (replace(GPT, num_kv_heads=2), {"tensor_parallel": 4}),
    "zero 2, full": (GPT, {"data_parallel": 2, "zero_stage": 2, "recompute": "full"}),
    "experts": (MOE, {"tensor_parallel": 2, "data_parallel": 2, "expert_parallel": 2, "expert_tensor_parallel": 2}),
}


def red(toy: object, plan: Plan) -> set[str]:
    forget_steps()
    try:
        return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}  # type: ignore[arg-type]
    finally:
        forget_steps()


@pytest.mark.parametrize(
    "case",
    [
        tiered((name, double), f"{name}-{double}", slow=(name, double) not in (("tp", True), ("experts", False)))
        for name in PLANS
        for double in (True, False)
    ],
)
def test_all_ranks_multiply_what_4_bits_leave_of_the_whole_matrix(case: tuple[str, bool]) -> None:
    (model, fields), double = PLANS[case[0]], case[1]
    plan, tuning = Plan(**fields), replace(PACKED, double_quantization=double)
    assert not red(scenario(model=replace(model, num_layers=2, tuning=tuning), batch=enough(plan)), plan)


def test_levels_are_the_quantiles_of_a_normal_distribution() -> None:
    """8 above 0 and 7 below, in equal steps of probability from a half to 0.9677083 (bitsandbytes, create_normal_map), over the largest."""
    at = NormalDist().inv_cdf
    above, below = ([at(each) for each in np.linspace(0.9677083, 0.5, count)[:-1]] for count in (9, 8))
    found = np.array(sorted([*above, 0.0, *(-each for each in below)])) / above[0]
    assert np.abs(found - LEVELS).max() < 2e-7  # they are published in float32, of an inverse in float32


@pytest.mark.parametrize("shape", [(7, 3), (64, 5), (300, 70)])
@pytest.mark.parametrize("double", [False, True])
def test_4_bits_lose_what_they_lose_by_hand(shape: tuple[int, int], double: bool) -> None:
    matrix = np.random.default_rng(0).normal(0.0, 0.1, shape)
    (mine,), _ = dequantise(pack(matrix, 1, double=double), {})
    assert np.abs(mine - in_nf4(matrix, 1, double=double)).max() <= 1e-15
    # Levels lie no further apart than 0.304 of a scale; one in 8 bits is off by a step of 0.9 / 64 / 2 of what its group strays, at most.
    largest = np.abs(matrix).max()
    assert 0 < np.abs(mine - matrix).max() <= (0.304 / 2 + 0.0071 * double) * largest * 1.001


def test_blocks_are_of_one_matrix() -> None:
    two = np.random.default_rng(1).normal(0.0, 1.0, (2, 10, 7))  # 70 elements: a block and a part of one
    (together,), _ = dequantise(pack(two, 2, double=False), {})
    for number in range(2):
        (alone,), _ = dequantise(pack(two[number], 1, double=False), {})
        assert (together[number] == alone).all()
    assert (pack(two, 2, double=False)[0] // 16)[1].min() == -(-70 // BLOCK)


def _scales_are_half(patch: pytest.MonkeyPatch) -> None:
    def wrong(inputs, told, *more):  # type: ignore[no-untyped-def]
        places, *scales = inputs
        return dequantise((places, *scales[:-1], scales[-1] / 2), told, *more)

    patch.setattr(machine, "KERNELS", {**KERNELS, "dequantise": wrong})


def _scales_of_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(weights, "pack", lambda matrix, count, double: pack(np.roll(matrix, 1), count, double=double))


def _scales_are_not_quantised(patch: pytest.MonkeyPatch) -> None:
    def wrong(matrix, count, double):  # type: ignore[no-untyped-def]
        places, scales = pack(matrix, count, double=False)
        return places, np.full(len(scales), 255), np.append(scales, 0.0)

    patch.setattr(weights, "pack", wrong)
    patch.setattr(four_bits, "GROUP", 1)


def _blocks_are_larger(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(four_bits, "BLOCK", 128)


@pytest.mark.parametrize("mutate", [_scales_are_half, _scales_of_others, _scales_are_not_quantised, _blocks_are_larger])
def test_verify_notices_wrong_scales(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert {"loss, by hand", "weight gradients, by hand"} <= red(TOY, Plan())
