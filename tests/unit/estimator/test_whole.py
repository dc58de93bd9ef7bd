"""A whole training: tokens to steps, days, device-hours, money and energy, by arithmetic on the page."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from parsim import estimate
from parsim.cluster import Rent
from parsim.errors import PlanError
from parsim.estimator.power import joules
from parsim.estimator.whole import least_devices, num_steps, step_joules, whole_training
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from support import CLUSTER, scenario

SPLIT = Plan(data_parallel=4, pipeline_parallel=2)


def toy(tdp_w: float | None = 400.0, price: float | None = 2.5, tokens: int | None = 6401) -> Scenario:
    """Steps of 8 sequences of 8 tokens on 8 devices."""
    node = replace(CLUSTER.node, accelerator=replace(CLUSTER.node.accelerator, tdp_w=tdp_w))
    rent = None if price is None else Rent("stated", price)
    return replace(scenario(cluster=replace(CLUSTER, node=node, num_nodes=2, rent=rent)), total_tokens=tokens)


def test_a_training_is_its_steps_one_after_another() -> None:
    found = replace(estimate(toy(), SPLIT), step_s=36.0, busy_s=(18.0, 36.0))
    whole = whole_training(toy(), found)
    assert whole is not None
    assert whole.num_steps == 101  # 6401 tokens in steps of 64: the last has one token
    assert whole.time_s == 3636.0
    assert whole.device_hours == pytest.approx(8.08)  # 1.01 h x 8
    assert whole.cost_usd == pytest.approx(20.2)  # x 2.5 USD
    # 46 W idle, 200 W of the host all the time; 354 W more while busy, 27 of 36 s in the mean; x 1.56, on 8 devices.
    assert step_joules(toy(), found) == pytest.approx(8 * 1.56 * (246 * 36 + 354 * 27))
    assert whole.energy_j == pytest.approx(101 * 8 * 1.56 * (246 * 36 + 354 * 27))


def test_a_busy_h100_draws_its_design_power_and_half_as_much_around_it() -> None:
    assert joules(700.0, 3600.0, 3600.0) == pytest.approx(1.56 * 1050 * 3600)
    assert 8 * joules(700.0, 1.0, 1.0) / 1.56 == pytest.approx(8400)  # the node that Latif et al. 2024 measured (arXiv:2412.08602)


def test_what_nobody_states_is_not_told() -> None:
    found = estimate(toy(), SPLIT)
    assert whole_training(toy(tokens=None), found) is None
    bare = whole_training(toy(tdp_w=None, price=None), found)
    assert bare is not None and (bare.cost_usd, bare.energy_j) == (None, None)
    with pytest.raises(PlanError, match="nobody states the tokens"):
        num_steps(toy(tokens=None))


def test_no_fewer_devices_do_the_matmuls_at_their_peak() -> None:
    chosen = toy()
    found = estimate(chosen, SPLIT)
    whole = whole_training(chosen, found)
    assert whole is not None
    assert least_devices(chosen, whole.time_s) == pytest.approx(8 * found.mfu_causal)
