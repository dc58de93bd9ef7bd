"""Links between sites: what crosses them by hand, and which groups and messages do, device by device."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster import Cluster, Link
from parsim.cluster.network import collective_s, p2p_s
from parsim.cluster.sites import Reach, leaves_site, spread_over_sites
from parsim.errors import ScenarioError
from support import FABRIC, NODE

BYTES, RATE, LATENCY_S = 1e6, 1e6, 0.25
TWO = Cluster(NODE, 8, FABRIC, num_sites=2, site_link=Link("sea", RATE, LATENCY_S))  # 16 devices a site
ONE = replace(TWO, num_sites=1, site_link=None)
NUM = 32


@pytest.mark.parametrize(("operation", "ways"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_ranks_of_a_site_combine_what_they_send_to_the_other(operation: str, ways: int) -> None:
    wire = ways * (NUM - 1) / NUM * BYTES
    within = collective_s(ONE, operation, ways * 15 / 16 * BYTES, ways * 15, 16, 1)
    # The 16 ranks of a site send half of the payload each way between them, all at once, after a latency each way.
    expected = within + FABRIC.start_s + ways * LATENCY_S + ways * BYTES / 2 / RATE
    assert collective_s(TWO, operation, wire, ways * (NUM - 1), NUM, 1) == pytest.approx(expected, rel=1e-12)


def test_an_exchange_sends_what_is_for_the_other_site_and_waits_once() -> None:
    sent = (NUM - 1) / NUM * BYTES
    expected = LATENCY_S + 16 * (BYTES * 16 / 32) / RATE  # half of what each of 16 ranks has is for the other 16
    assert collective_s(TWO, "all_to_all", sent, NUM - 1, NUM, 1) == pytest.approx(expected, rel=1e-12)


def test_pairs_across_sites_share_the_link_with_all_pairs() -> None:
    # Rank i of one site and rank i of the other sum what they have: 16 payloads cross each way.
    expected = FABRIC.start_s + 2 * LATENCY_S + 16 * BYTES / RATE
    assert collective_s(TWO, "all_reduce", BYTES, 2, 2, 16) == pytest.approx(expected, rel=1e-12)
    ends = Reach(span=32, together=4)  # of a pipeline of 8 stages of 4 devices: those of one stage
    assert collective_s(TWO, "all_reduce", BYTES, 2, 2, 28, reach=ends) == pytest.approx(expected - 12 * BYTES / RATE, rel=1e-12)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "all_to_all", "broadcast"])
def test_what_stays_in_a_site_takes_as_long_as_without_sites(operation: str) -> None:
    for ranks, stride in ((2, 1), (16, 1), (4, 4), (2, 8)):
        asked = operation, BYTES, ranks - 1, ranks, stride
        assert collective_s(TWO, *asked) == collective_s(ONE, *asked)


def test_a_message_to_another_site_shares_the_link_with_its_stage() -> None:
    there = np.array([False, True])
    near, far = np.ravel(p2p_s(TWO, BYTES, np.array([4, 4]), num_ranks=8, between_sites=there))
    assert near == p2p_s(ONE, BYTES, 4, num_ranks=8)
    assert far == pytest.approx(FABRIC.p2p_start_s + 4 * BYTES / RATE, rel=1e-12)


def test_which_messages_leave_a_site_is_what_the_devices_say() -> None:
    for sites, each, ranks, stride in product((2, 3), (2, 4, 6), (2, 3, 4), (1, 2, 3, 4)):
        cluster = Cluster(replace(NODE, devices_per_node=1), sites * each, FABRIC, num_sites=sites, site_link=TWO.site_link)
        block = ranks * stride
        if cluster.num_devices % block:
            continue
        for rank, to in product(range(ranks), repeat=2):
            starts = [b * block + o for b in range(cluster.num_devices // block) for o in range(stride)]
            crosses = any((at + rank * stride) // each != (at + to * stride) // each for at in starts)
            assert bool(leaves_site(cluster, rank, to, ranks, stride)) == crosses, (sites, each, ranks, stride, rank, to)
        touched = {len({(b * block + d) // each for d in range(block)}) for b in range(cluster.num_devices // block)}
        spread = spread_over_sites(cluster, np.array([float(block)]), block)
        assert int(spread.sites[0]) == max(touched)


def test_sites_are_of_equal_size_and_have_a_link() -> None:
    with pytest.raises(ScenarioError, match="8 nodes are no multiple of the 3 sites"):
        replace(TWO, num_sites=3)
    with pytest.raises(ScenarioError, match=r"2 sites without a link\n.*site_link"):
        replace(TWO, site_link=None)


def test_a_link_priced_at_the_fabric_s_rate_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from parsim.cluster import sites

    monkeypatch.setattr(sites, "site_share", lambda cluster, together: np.asarray(FABRIC.nic.bandwidth_bytes_per_s))
    with pytest.raises(AssertionError):
        test_pairs_across_sites_share_the_link_with_all_pairs()
    with pytest.raises(AssertionError):
        test_ranks_of_a_site_combine_what_they_send_to_the_other("all_reduce", 2)
