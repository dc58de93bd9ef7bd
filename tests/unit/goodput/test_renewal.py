"""What failures cost: closed forms against Daly's published figures, against arithmetic, and against runs by events."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import pytest

from parsim.goodput import events
from parsim.goodput.events import live
from parsim.goodput.outage import LOSSES, Outage, SpeedLevel, shares_of_time
from parsim.goodput.renewal import Cycle, daly_s, efficiency, optimum_s, seconds_a_cycle, waiting_share, young_s

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
# Daly 2006, figures 3 to 5: R = 10 min, d = 5 min; M and the interval that the new model predicts, in minutes.
DALY = [(24 * 60, 117, 0.5), (6 * 60, 57, 0.5), (15, 9.1, 0.05)]


def cycle(mtbf_s: float, *, stall_s: float = 5 * MINUTE, hidden_s: float = 0.0, restart_s: float = 10 * MINUTE) -> Cycle:
    return Cycle(stall_s, hidden_s, restart_s, 1 / mtbf_s)


def lived(outage: Outage, work_s: float, seeds: int) -> dict[str, float]:
    """Shares of the time of runs by events."""
    runs = [live(outage, work_s, seed) for seed in range(seeds)]
    whole = sum(each.time_s for each in runs)
    return {name: sum(each.lost_s[name] for each in runs) / whole for name in LOSSES} | {
        "goodput": sum(each.work_s for each in runs) / whole
    }


@pytest.mark.parametrize(("mtbf", "interval", "rounding"), DALY)
def test_daly_published_these_intervals(mtbf, interval, rounding):
    assert float(daly_s(5 * MINUTE, 1 / (mtbf * MINUTE))) / MINUTE == pytest.approx(interval, abs=rounding)


@pytest.mark.parametrize("mtbf", [24 * HOUR, 6 * HOUR, 15 * MINUTE])
def test_a_cycle_takes_as_long_as_daly_says(mtbf):
    interval, stall, restart = 30 * MINUTE, 5 * MINUTE, 10 * MINUTE
    expected = mtbf * exp(restart / mtbf) * (exp((interval + stall) / mtbf) - 1)
    assert float(seconds_a_cycle(cycle(mtbf), interval)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("hidden", [0.0, 3 * MINUTE])
@pytest.mark.parametrize("mtbf", [100 * HOUR, HOUR])
def test_no_interval_is_better_than_the_optimum(mtbf, hidden):
    own = cycle(mtbf, hidden_s=hidden)
    best = float(optimum_s(own))
    around = best * np.linspace(0.5, 2.0, 1501)
    assert efficiency(own, around).max() <= float(efficiency(own, best)) * (1 + 1e-12)


def test_young_is_the_limit_of_rare_failures():
    own = cycle(1e9, stall_s=1.0)
    assert float(optimum_s(own)) == pytest.approx(float(young_s(1.0, 1e-9)), rel=1e-4)
    assert float(young_s(1.0, 1e-9)) == pytest.approx(sqrt(2e9), rel=1e-12)


def test_a_run_that_never_fails_loses_its_checkpoints_only():
    assert float(efficiency(Cycle(1.0, 5.0, 7.0, 0.0), 9.0)) == 0.9


def test_a_checkpoint_that_hides_makes_restarts_longer_and_no_more():
    shown, hidden = cycle(6 * HOUR, restart_s=13 * MINUTE), cycle(6 * HOUR, hidden_s=3 * MINUTE)
    assert float(seconds_a_cycle(shown, HOUR)) == pytest.approx(float(seconds_a_cycle(hidden, HOUR)), rel=1e-12)


def test_a_checkpoint_longer_than_the_interval_is_waited_for():
    """Without failures a cycle lasts what the checkpoint does, and its stall."""
    assert float(seconds_a_cycle(Cycle(1.0, 30.0, 7.0, 0.0), 10.0)) == 31.0


def test_the_wait_is_the_last_term_of_erlangs_sum_over_all():
    """B(c, a) by Erlang's sum, written out."""
    sums = {servers: [1.5**k / np.prod(range(1, k + 1)) for k in range(servers + 1)] for servers in (1, 2, 5)}
    for servers, terms in sums.items():
        assert waiting_share(servers, 1.5) == pytest.approx(terms[-1] / sum(terms), rel=1e-12)


# Each with 2,400 to 5,000 failures, of which one loses about as much as the next: 1 % is 2 to 3 standard errors of the mean goodput.
BY_EVENTS = {
    "daly, M = 24 h": Outage(cycle(24 * HOUR), 117 * MINUTE),
    "daly, M = 6 h": Outage(cycle(6 * HOUR), 57 * MINUTE),
    "asynchronous": Outage(cycle(6 * HOUR, stall_s=MINUTE, hidden_s=20 * MINUTE), 57 * MINUTE),
    "asynchronous, longer than its interval": Outage(cycle(6 * HOUR, stall_s=MINUTE, hidden_s=20 * MINUTE), 15 * MINUTE),
}


@pytest.mark.parametrize("name", ["daly, M = 24 h", "daly, M = 6 h", "asynchronous"])
def test_runs_by_events_keep_on_average_what_the_closed_form_says(name):
    outage = BY_EVENTS[name]
    found, expected = lived(outage, 3000 / outage.cycle.failures_per_s, 1), shares_of_time(outage)
    assert found["goodput"] == pytest.approx(expected["goodput"], rel=0.01)
    assert found["restart"] == pytest.approx(expected["restart"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_EVENTS)
def test_every_loss_is_as_expected_over_many_failures(name):
    outage = BY_EVENTS[name]
    found, expected = lived(outage, 8000 / outage.cycle.failures_per_s, 2), shares_of_time(outage)
    assert found["goodput"] == pytest.approx(expected["goodput"], rel=0.005)
    for loss in ("checkpoint", "restart", "rework"):
        assert found[loss] == pytest.approx(expected[loss], rel=0.03), loss


SPARES = Outage(cycle(6 * HOUR), 57 * MINUTE, 0.8 / (6 * HOUR), DAY, 2)


@pytest.mark.slow
@pytest.mark.parametrize("spare_nodes", [0, 1, 2, 5])
def test_a_run_waits_for_spares_as_erlang_says(spare_nodes):
    outage = Outage(cycle(6 * HOUR), 57 * MINUTE, 0.8 / (6 * HOUR), DAY, spare_nodes)
    found, expected = lived(outage, 4000 * 6 * HOUR, 6), shares_of_time(outage)
    assert expected["waiting"] == pytest.approx(waiting_share(spare_nodes + 1, 0.8 * DAY / (6 * HOUR)))
    assert found["waiting"] == pytest.approx(expected["waiting"], rel=0.03)
    assert found["goodput"] == pytest.approx(expected["goodput"], rel=0.02)


def test_a_run_without_spares_is_up_between_two_repairs():
    """A node fails once in 1 / 0.8 x 6 h of running, and the run waits a day: 7.5 of 31.5 hours are left."""
    assert shares_of_time(Outage(cycle(6 * HOUR), 57 * MINUTE, 0.8 / (6 * HOUR), DAY, 0))["waiting"] == pytest.approx(24 / 31.5)


@pytest.mark.slow
@pytest.mark.parametrize("nodes_a_replica", [1, 3])
def test_an_elastic_run_goes_on_as_its_levels_say(nodes_a_replica):
    """Eight replicas, each lost with the first of its nodes; those left over fail no more."""
    lost = [-(-short // nodes_a_replica) for short in range(1, 8 * nodes_a_replica)]
    outage = Outage(
        cycle(12 * HOUR), 57 * MINUTE, 0.8 / (12 * HOUR), DAY, 1, tuple(SpeedLevel(1 - each / 8, 1 - each / 8) for each in lost)
    )
    found, expected = lived(outage, 10_000 * 12 * HOUR, 2), shares_of_time(outage)
    assert found["goodput"] == pytest.approx(expected["goodput"], rel=0.01)  # what taking nodes in costs is to first order
    assert found["shrunk"] == pytest.approx(expected["shrunk"], rel=0.1)  # nodes come back at the next checkpoint, half an interval later


@pytest.mark.parametrize("name", BY_EVENTS)
def test_rework_is_the_time_without_restarts_less_what_counts_and_its_checkpoints(name):
    """The first span is cut short with probability q; then one without failure must pass that is longer by the time until it is safe."""
    outage = BY_EVENTS[name]
    own, mean = outage.cycle, 1 / outage.cycle.failures_per_s
    waits = max(0.0, own.hidden_s - outage.interval_s)
    once = outage.interval_s + own.stall_s
    calm = exp(-(once + waits) / mean)
    moving = mean * (1 - calm) + (1 - calm) * mean * (exp((once + own.hidden_s) / mean) - 1)
    whole = moving * exp(own.restart_s / mean)  # each restart, until one is not cut short, on top
    assert shares_of_time(outage)["rework"] == pytest.approx((moving - once - calm * waits) / whole, rel=1e-9)


def test_shares_of_time_with_spares_and_levels_sum_to_1():
    levels = tuple(SpeedLevel(1 - short / 8, 1 - short / 8) for short in range(1, 8))
    elastic = Outage(cycle(12 * HOUR), 57 * MINUTE, 0.8 / (12 * HOUR), DAY, 1, levels)
    for outage in (SPARES, elastic):
        assert sum(shares_of_time(outage).values()) == pytest.approx(1, rel=1e-12)


def test_very_many_spares_are_as_good_as_any_number():
    calm = Cycle(3.0, 0.0, 600.0, 1e-4)
    without = shares_of_time(Outage(calm, 250.0))["goodput"]
    for levels in ((), (SpeedLevel(0.5, 0.5),)):
        many = Outage(calm, 250.0, node_failures_per_s=8e-5, repair_s=3e7, spare_nodes=200_000, levels=levels)
        assert shares_of_time(many)["goodput"] == pytest.approx(without, rel=1e-9), levels


def test_a_seed_lives_the_same_run_twice():
    once, again, other = (live(SPARES, 50 * DAY, seed) for seed in (3, 3, 4))
    assert once == again != other
    assert once.work_s == 50 * DAY
    assert once.work_s + sum(once.lost_s.values()) == pytest.approx(once.time_s, rel=1e-12)


def test_the_median_of_exponential_waits_is_that_of_failures():
    """Half of all runs of M ln 2 see no failure: one checkpoint at its end, nothing else lost."""
    outage = Outage(cycle(HOUR, stall_s=0.0, restart_s=0.0), HOUR * log(2))
    calm = sum(live(outage, HOUR * log(2), seed).num_failures == 0 for seed in range(400))
    assert 160 <= calm <= 240  # 4 standard deviations of 10


@pytest.mark.parametrize("mutant", ["a failure loses nothing", "a checkpoint is safe at once", "failures keep time"])
def test_a_run_that_lives_otherwise_is_noticed(mutant, monkeypatch):
    outage, own = BY_EVENTS["asynchronous, longer than its interval"], events._LivedRun
    if mutant == "a failure loses nothing":
        monkeypatch.setattr(own, "_fall_back", lambda self: None)
    elif mutant == "a checkpoint is safe at once":
        outage, right = BY_EVENTS["asynchronous"], own._fall_back
        monkeypatch.setattr(own, "_fall_back", lambda self: (self._keep(), right(self)))
    else:
        outage = BY_EVENTS["daly, M = 6 h"]
        monkeypatch.setattr(own, "_draws", lambda self, random: iter(lambda: (6 * HOUR, 0.5), None))
    found, expected = lived(outage, 1500 / outage.cycle.failures_per_s, 1), shares_of_time(outage)
    assert found["goodput"] != pytest.approx(expected["goodput"], rel=0.01)
