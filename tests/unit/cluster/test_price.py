"""What a price says of the links it loads, by arithmetic on the toy cluster: 4 devices a node, links of 1e8 bytes/s, 4 NICs of 5e7."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import astuple, replace

from parsim.cluster import OPERATIONS
from parsim.cluster.network import collective_s, p2p_s
from parsim.cluster.price import Load, collective_price, load_of, p2p_price
from parsim.collectives.alpha_beta import alpha_beta_s
from parsim.collectives.placed import group_price
from support import CLUSTER, FABRIC, NODE

US = 1_000_000  # picoseconds
LEAVES = replace(CLUSTER, fabric=replace(FABRIC, topology="fat_tree", oversubscription=3.0, nodes_per_leaf=2))
TREE = replace(CLUSTER, node=replace(NODE, topology="pcie_tree"))
# ranks, stride and bytes of plans: alone, in a node, across two, on parts of nodes, across leaves
SHAPES = [(n, stride, sent) for n in (1, 2, 3, 4, 8, 16) for stride in (1, 2, 4) for sent in (0.0, 1.0, 1000.0, 1e7)]


def columns(load: Load) -> list[list[float]]:
    return [each.tolist() for each in astuple(load)]


def test_an_all_reduce_in_a_node_pays_start_and_steps_and_then_fills_its_port() -> None:
    load = load_of(collective_price(CLUSTER, "all_reduce", 1000, 2, 2, 1))
    assert (load.latency_ps, load.transfer_ps) == (3 * US, 10 * US)  # 1 us + 2 steps of 1 us; 1000 / 1e8 s
    assert (load.port_bytes_per_s, load.nic_bytes_per_s) == (1e8, 0)


def test_an_all_gather_across_nodes_takes_nine_tenths_of_its_nic() -> None:
    load = load_of(collective_price(CLUSTER, "all_gather", 2700, 3, 4, 4))
    assert (load.latency_ps, load.transfer_ps) == (4 * US, 60 * US)  # 1 us + 3 further nodes; 2700 / (.9 x 5e7) s
    assert (load.port_bytes_per_s, load.nic_share) == (0, pytest.approx(0.9))


def test_a_ring_over_whole_nodes_sends_a_quarter_of_its_bytes_by_each_nic() -> None:
    load = load_of(collective_price(CLUSTER, "all_gather", 8000, 7, 8, 1))  # the port binds at 1e8; its NICs could take 4 x .9 x 5e7
    assert (load.port_bytes_per_s, load.nic_bytes_per_s) == (pytest.approx(0.75e8), pytest.approx(0.25e8))
    assert load.nic_share == pytest.approx(0.5)


def test_an_all_to_all_leaves_its_node_with_what_goes_to_other_nodes() -> None:
    load = load_of(collective_price(CLUSTER, "all_to_all", 7000, 7, 8, 1))  # 4 of 7 peers are elsewhere, at .9 of a NIC of 5e7
    assert (load.nic_bytes_per_s, load.port_bytes_per_s) == (pytest.approx(4.5e7), pytest.approx(4.5e7 * 3 / 4))


def test_a_message_across_nodes_loads_nics_and_one_within_a_node_its_port() -> None:
    across, inside = load_of(p2p_price(CLUSTER, 4000, 4)), load_of(p2p_price(CLUSTER, 4000, 1))
    assert (across.latency_ps, across.transfer_ps, across.nic_share) == (US, 100 * US, pytest.approx(0.8))  # 4000 / (.8 x 5e7) s
    assert (inside.latency_ps, inside.transfer_ps, inside.port_bytes_per_s) == (US, 40 * US, 1e8)


def test_the_seconds_of_a_price_are_those_of_the_laws() -> None:
    ranks, stride, sent = (np.array(column) for column in zip(*SHAPES, strict=True))
    for operation in OPERATIONS:
        assert np.array_equal(
            collective_price(LEAVES, operation, sent, ranks, ranks, stride).seconds,
            np.asarray(collective_s(LEAVES, operation, sent, ranks, ranks, stride)),
        )
    assert np.array_equal(
        p2p_price(LEAVES, sent, stride, num_ranks=ranks).seconds, np.asarray(p2p_s(LEAVES, sent, stride, num_ranks=ranks))
    )


@pytest.mark.parametrize("cluster", [CLUSTER, LEAVES, TREE], ids=["plain", "leaves", "tree"])
def test_loads_of_many_plans_are_those_of_each_alone(cluster) -> None:  # type: ignore[no-untyped-def]
    ranks, stride, sent = (np.array(column) for column in zip(*SHAPES, strict=True))
    for operation in OPERATIONS:
        together = columns(load_of(collective_price(cluster, operation, sent, ranks, ranks, stride)))
        alone = [columns(load_of(collective_price(cluster, operation, s, n, n, d))) for n, d, s in SHAPES]
        assert together == [[plan[index][0] for plan in alone] for index in range(len(together))]
    together = columns(load_of(p2p_price(cluster, sent, stride, num_ranks=ranks)))
    alone = [columns(load_of(p2p_price(cluster, s, d, num_ranks=n))) for n, d, s in SHAPES]
    assert together == [[plan[index][0] for plan in alone] for index in range(len(together))]


def test_an_algorithm_that_is_named_sends_the_bytes_of_a_ring_in_its_own_time() -> None:
    asked = {"elements": 4 * 10**6, "num_ranks": 4, "stride": 4}
    ring = group_price(CLUSTER, "all_reduce", itemsize_bytes=4, **asked)
    named = group_price(CLUSTER, "all_reduce", itemsize_bytes=4, algorithm="tree", **asked)
    assert named.seconds[0] == alpha_beta_s(CLUSTER, "all_reduce", "tree", itemsize_bytes=4, **asked)
    own, its = load_of(ring), load_of(named)
    assert its.latency_ps == own.latency_ps
    assert its.nic_bytes_per_s * its.transfer_ps == pytest.approx(own.nic_bytes_per_s * own.transfer_ps, rel=1e-12)  # products of floats


def test_what_happens_in_some_plans_only_loads_nothing_in_the_others() -> None:
    price = collective_price(CLUSTER, "all_reduce", np.array([1e6, 1e6]), 6, 4, 4).where(np.array([True, False]))
    assert price.ps[1] == 0 < price.ps[0]
    load = load_of(price)
    assert (load.nic_bytes_per_s[1], load.latency_ps[1], load.transfer_ps[1]) == (0, 0, 0)
