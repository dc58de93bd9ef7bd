"""Flows on links: closed forms, the definition of max-min fairness, and an own fluid model of one link."""

from __future__ import annotations

from fractions import Fraction

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from parsim.simulator import network as network_module
from parsim.simulator.demand import Leg, LinkAt
from parsim.simulator.network import FairShare, Flow, SharedLinks, fair_shares

ONE, OTHER = LinkAt("one", "node 0"), LinkAt("other", "node 0")
WIDE, NARROW = LinkAt("wide", "node 0"), LinkAt("narrow", "node 0")  # 2 and 1 bytes/s


def leg(transfer_ps: int, *, latency_ps: int = 0, load: float = 1.0) -> Leg:
    """A leg on the first link."""
    return Leg(latency_ps, transfer_ps, load, ((ONE, load),))


def ends(*flows: tuple[int, Leg]) -> tuple[list[int], SharedLinks]:
    """When flows that start at these times end."""
    env = simpy.Environment()
    network, found = SharedLinks(env), [0] * len(flows)

    def process(index: int, start_ps: int, leg: Leg):  # type: ignore[no-untyped-def]
        yield env.timeout(start_ps)
        yield from network.carry(leg, f"stream {index}", "task")
        found[index] = int(env.now)

    for index, (start_ps, each) in enumerate(flows):
        env.process(process(index, start_ps, each))
    env.run()
    return found, network


# One link of 2 bytes/s and one of 1.  A may send 2 bytes/s on the wide one; B, 1 byte/s, needs both; C, 1 byte/s, the narrow one.
A = Leg(0, 300, 2.0, ((WIDE, 1.0),))
B = Leg(0, 100, 1.0, ((WIDE, 0.5), (NARROW, 1.0)))
C = Leg(0, 50, 1.0, ((NARROW, 1.0),))
# B and C halve the narrow link, so A has 1.5 of the wide one's 2 bytes/s: parts 3/4, 1/2, 1/2.  C has its 50 ps of transfer done at
# 100 ps, when A has done 75 and B 50.  Then A and B may both send 1 byte/s: parts 1/2 and 1.  B ends at 150 ps; A has 200 left: 350 ps.
WORKED = [350, 150, 100]


def test_two_equal_flows_on_one_link_both_take_twice_the_time() -> None:
    assert ends((0, leg(1000)), (0, leg(1000)))[0] == [2000, 2000]


def test_a_short_flow_beside_a_long_one_takes_twice_its_time_and_costs_the_long_one_just_that() -> None:
    found, network = ends((0, leg(1000)), (300, leg(200)))
    assert found == [1200, 700]
    assert {(loss.stream, loss.other): loss.lost_ps for loss in network.losses()} == {
        ("stream 0", "stream 1"): 200.0,
        ("stream 1", "stream 0"): 200.0,
    }


def test_three_flows_on_two_links_get_the_max_min_answer_of_the_page() -> None:
    assert [share.rate for share in fair_shares([A, B, C])] == [0.75, 0.5, 0.5]
    assert ends((0, A), (0, B), (0, C))[0] == WORKED


def test_latency_is_paid_before_the_link_is_shared() -> None:
    assert ends((0, leg(100)), (0, leg(100, latency_ps=100)))[0] == [100, 200]
    assert ends((0, leg(100)), (0, leg(100, latency_ps=40)))[0] == [160, 200]  # alone for 40, halves for 120, alone for 40


def test_a_flow_that_is_noticed_late_has_not_lost_what_it_sent_alone() -> None:
    assert ends((0, leg(1000, latency_ps=10)), (510, leg(500)))[0] == [1510, 1510]


def test_shares_that_fill_no_link_cost_nothing() -> None:
    found, network = ends((0, leg(1000, load=0.5)), (100, leg(1000, load=0.25)), (200, leg(1000, load=0.25)))
    assert found == [1000, 1100, 1200]
    assert not network.losses()


def test_fairness_is_in_bytes_of_each_sender_so_a_narrow_flow_keeps_its_rate() -> None:
    assert [share.rate for share in fair_shares([leg(1), leg(1, load=0.25)])] == [0.75, 1.0]


def test_a_flow_alone_skips_the_solver_and_flows_of_one_instant_are_solved_once() -> None:
    assert ends((0, leg(100)), (101, leg(100)))[1].num_solved == 0
    assert ends((0, leg(100)), (100, leg(100)))[0] == [100, 200]
    found, network = ends(*[(7, leg(10)) for _ in range(8)])
    assert found == [87] * 8
    assert network.num_solved == 1


def test_a_link_is_busy_while_at_least_one_flow_is_on_it() -> None:
    network = ends((0, leg(100, latency_ps=5)), (50, leg(100)), (1000, leg(7)))[1]
    assert [(use.link, use.busy_ps) for use in network.links()] == [("one", 200 + 7)]  # 5 to 205, and 7 later


def test_a_link_that_nobody_touches_is_not_solved() -> None:
    elsewhere = Leg(0, 100, 1.0, ((OTHER, 1.0),))
    assert ends((0, leg(100)), (0, leg(100)), (0, elsewhere))[0] == [200, 200, 100]


@st.composite
def legs(draw: st.DrawFn) -> list[Leg]:
    """Flows over up to four links."""
    wires = [LinkAt(f"w{index}", "") for index in range(4)]
    found = []
    for _ in range(draw(st.integers(1, 7))):
        on = draw(st.lists(st.sampled_from(wires), min_size=1, max_size=3, unique=True))
        loads = tuple((wire, draw(st.integers(1, 16)) / 16) for wire in on)
        found.append(Leg(0, draw(st.integers(1, 50)), float(draw(st.integers(1, 8))), loads))
    return found


@settings(max_examples=200, deadline=None)
@given(legs())
def test_no_link_is_overfull_and_every_slowed_flow_has_a_full_link_on_which_no_sender_has_more(drawn: list[Leg]) -> None:
    """What max-min fair means: Bertsekas and Gallager 1992, section 6.5.2."""
    shares = fair_shares(drawn)
    taken: dict[LinkAt, float] = {}
    for each, share in zip(drawn, shares, strict=True):
        assert 0 < share.rate <= 1
        for wire, load in each.loads:
            taken[wire] = taken.get(wire, 0.0) + load * share.rate
    assert all(value <= 1 + 1e-9 for value in taken.values())
    for each, share in zip(drawn, shares, strict=True):
        if share.rate == 1:
            continue
        assert share.bound is not None
        assert taken[share.bound] == pytest.approx(1, rel=1e-9)
        on_it = [s.rate * other.bytes_per_s for other, s in zip(drawn, shares, strict=True) if share.bound in dict(other.loads)]
        assert share.rate * each.bytes_per_s >= max(on_it) * (1 - 1e-9)


def processor_sharing(flows: list[tuple[int, int]]) -> list[Fraction]:
    """When flows of (start, transfer) end on a link that they share evenly, in exact fractions."""
    left = {index: Fraction(transfer) for index, (_, transfer) in enumerate(flows)}
    found = [Fraction(0)] * len(flows)
    now = Fraction(0)
    while left:
        here = [index for index in left if flows[index][0] <= now]
        coming = [Fraction(flows[index][0]) for index in left if flows[index][0] > now]
        ending = [now + left[index] * len(here) for index in here]
        then = min((*coming, *ending))
        for index in here:
            left[index] -= (then - now) / len(here)
            if left[index] == 0:
                found[index] = then
                del left[index]
        now = then
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 1000)), min_size=1, max_size=6))
def test_a_link_shared_by_equal_senders_is_processor_sharing(flows: list[tuple[int, int]]) -> None:
    found, network = ends(*[(start, leg(transfer)) for start, transfer in flows])
    for end, exact in zip(found, processor_sharing(flows), strict=True):
        assert -1e-2 <= end - exact <= len(flows)  # each departure is rounded up to a picosecond
    lost = sum(loss.lost_ps for loss in network.losses())
    took = sum(end - start - transfer for end, (start, transfer) in zip(found, flows, strict=True))
    assert lost == pytest.approx(took, abs=len(flows) ** 2)


def _equal_split(flows: list[Leg]) -> list[FairShare]:
    """Every flow of a link gets an equal part of it, whatever the others can use."""
    count: dict[LinkAt, int] = {}
    for each in flows:
        for wire, _ in each.loads:
            count[wire] = count.get(wire, 0) + 1
    return [FairShare(min(1.0, *(1 / count[wire] / load for wire, load in each.loads)), each.loads[0][0]) for each in flows]


def test_mutant_an_equal_split_turns_the_worked_example_red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "fair_shares", _equal_split)
    assert ends((0, A), (0, B), (0, C))[0] != WORKED


def test_mutant_sharing_from_the_first_instant_turns_the_latency_example_red(monkeypatch: pytest.MonkeyPatch) -> None:
    right = SharedLinks._issue

    def issue(self: SharedLinks, leg: Leg, stream: str, task: str) -> Flow:
        return right(self, Leg(0, leg.latency_ps + leg.transfer_ps, leg.bytes_per_s, leg.loads), stream, task)

    monkeypatch.setattr(SharedLinks, "_issue", issue)
    assert ends((0, leg(100)), (0, leg(100, latency_ps=100)))[0] != [100, 200]
