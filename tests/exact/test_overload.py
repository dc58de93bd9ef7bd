"""Where links cannot be asked for more than they carry, a step with contention is the estimate to the picosecond."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_contention import contended, crowded

from parsim.estimator.estimate import estimate
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.simulator import overload, simulate
from parsim.simulator.run import workload_in
from support import STACK, examples, hold

SEEN: list[bool] = []


@examples(40, 120)
def test_what_cannot_share_takes_its_estimate(num_examples: int) -> None:
    SEEN.clear()
    hold(exact_unless_shared, contended(), num_examples)
    assert {*SEEN} == {True, False}, "both are drawn"


def exact_unless_shared(drawn: tuple[Scenario, Plan]) -> None:
    """The simulated step is the estimate, unless links may be shared."""
    SEEN.append(overload.may_share(workload_in(*drawn)))
    if not SEEN[-1]:
        shared = simulate(*drawn, contention=True)
        assert (shared.step_ps, shared.losses) == (round(estimate(*drawn).step_s * 1e12), ())


def test_gradients_beside_messages_may_share_and_one_stream_alone_may_not() -> None:
    chosen, plan = crowded()
    assert overload.may_share(workload_in(chosen, plan))
    alone = replace(plan, pipeline_parallel=1, virtual_pipeline=1, schedule="1f1b", data_parallel=4)
    assert not overload.may_share(workload_in(replace(chosen, stack=STACK), alone))


def test_mutant_of_links_that_carry_twice_as_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "_ROUNDING", 4.0)
    with pytest.raises(AssertionError):
        exact_unless_shared(crowded())
