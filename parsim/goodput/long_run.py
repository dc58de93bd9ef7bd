"""What a step of a long run takes on average: as it is estimated, longer by what disturbs it, and with what it waits for its batch.

Goodput, the whole training and the number of devices rest on it.  A run that nobody feeds or disturbs takes the step as it is: what
feeds, disturbs and fails is imported only where a scenario states it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.estimator.result import Estimate
from parsim.estimator.whole import S_PER_HOUR, WholeTraining, whole_training
from parsim.parallel.optimizer import LOCAL_SGD
from parsim.units import PS_PER_S

if TYPE_CHECKING:
    from parsim.disturbance.result import Disturbed
    from parsim.parallel.plan import Plan
    from parsim.scenario import Scenario


LEAST_KEPT: Final = 1e-6  # share of the time: a run that keeps less never ends
NEVER_ENDS: Final = f"never ends: a run keeps less than {LEAST_KEPT:g} of its time"


class LongStep(Struct, frozen=True):
    """The mean step of a long run, and what it is made of."""

    alone_s: float  # as the estimator or the simulator has it
    disturbed_s: float  # what disturbs adds on average
    stall_s: float  # what it then waits for its batch

    @property
    def mean_s(self) -> float:
        """All together.

        >>> LongStep(2.0, 0.5, 0.25).mean_s
        2.75
        """
        return self.alone_s + self.disturbed_s + self.stall_s


def is_drawn(scenario: Scenario, plan: Plan) -> bool:
    """Whether a scenario says what disturbs steps, and those of a plan can be drawn: not of servers, nor of replicas that train apart."""
    return scenario.disturbance is not None and not plan.is_served and plan.gradient_sync != LOCAL_SGD


def long_step(scenario: Scenario, found: Estimate, disturbed: Disturbed | None = None) -> LongStep:
    """The step of an estimated plan in a long run; `disturbed`: its steps where they are drawn already.

    Where both are stated, the line of stages feeds the steps as they were drawn, one after another.  Disturbance of parameter servers is
    not counted, whose workers the simulator plays, nor of replicas that train apart.

    Raises:
        ParsimError: more is to be drawn than in minutes, something is not built, or nobody says from where input is read.
    """
    alone_ps, longer_ps = round(found.step_s * PS_PER_S), [0]
    if scenario.disturbance is not None and is_drawn(scenario, found.plan):
        if disturbed is None:
            from parsim.disturbance.monte_carlo import draw_steps

            usual, *drawn = draw_steps(scenario, found.plan, scenario.disturbance, found.name)
        else:
            usual, *drawn = (round(each * PS_PER_S) for each in (disturbed.step_s, *disturbed.steps_s))
        longer_ps = [each - usual for each in drawn]
    stall_ps = 0.0
    if scenario.input is not None:
        from parsim.feed.supply import stall_among_ps

        stall_ps = stall_among_ps(scenario, found, [alone_ps + each for each in longer_ps])
    return LongStep(found.step_s, sum(longer_ps) / len(longer_ps) / PS_PER_S, stall_ps / PS_PER_S)


def in_a_run(scenario: Scenario, found: Estimate, disturbed: Disturbed | None = None) -> Estimate:
    """The estimate with the step of a long run, and the rates that follow; arguments and errors as of `long_step`."""
    if scenario.input is None and scenario.disturbance is None:
        return found
    return found.with_step(long_step(scenario, found, disturbed).mean_s)


def whole_of_run(scenario: Scenario, estimate: Estimate, share: float | None = None) -> WholeTraining | None:
    """The whole training with all that the scenario states of it; None where nobody states its tokens, or it never ends.

    Spare nodes are paid for, too, and energy is drawn as while steps are done.  `share`: the goodput where it is known.
    """
    whole = whole_training(scenario, estimate)
    if whole is None or scenario.checkpoint is None:
        return whole
    if share is None:
        from parsim.goodput.outage import shares_of_time
        from parsim.goodput.predict import outage_of  # which rests on this module

        share = shares_of_time(outage_of(scenario, estimate))["goodput"]
    if share < LEAST_KEPT:
        return None
    spares = scenario.failures.spare_nodes * scenario.cluster.node.devices_per_node if scenario.failures else 0
    time_s, rent = whole.time_s / share, scenario.cluster.rent
    hours = time_s * (estimate.plan.num_devices + spares) / S_PER_HOUR
    cost = None if rent is None else hours * rent.device_hour_usd
    energy_j = None if whole.energy_j is None else whole.energy_j / share
    return WholeTraining(whole.total_tokens, whole.num_steps, time_s, hours, cost, energy_j)


def as_planned(scenario: Scenario) -> Scenario:
    """What the planner counts of a run: drawing steps for thousands of plans takes too long, so that nothing disturbs them."""
    return scenario if scenario.disturbance is None else replace(scenario, disturbance=None)


def parts_beside_steps(scenario: Scenario) -> list[str]:
    """What the time of a run holds beside its steps, in words."""
    fails = scenario.failures is not None and scenario.checkpoint is not None
    stated = {
        "what disturbs steps": scenario.disturbance is not None,
        "waiting for input": scenario.input is not None,
        "failures": fails,
        "spare nodes": scenario.failures is not None and fails and scenario.failures.spare_nodes > 0,
        "checkpoints": scenario.checkpoint is not None,
    }
    return [name for name, is_stated in stated.items() if is_stated]
