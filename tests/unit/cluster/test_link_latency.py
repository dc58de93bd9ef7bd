"""A link whose latency is edited answers: each message of an algorithm takes so much more, or less, than on the link of the fit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from cluster_rows import fabric, node
from msgspec.structs import replace
from test_law_limits import FABRICS, NODES, SIZES, groups, seconds

from parsim.cluster import OPERATIONS, Cluster
from parsim.cluster.link import Link
from parsim.cluster.network import collective_s, p2p_s
from parsim.cluster.scalars import Floats
from parsim.collectives import names
from parsim.collectives.alpha_beta import alpha_beta_s
from parsim.errors import ParsimError
from parsim.scenario.hardware import FabricRow, NodeRow

H100, NDR = node("hgx-h100-80gb"), fabric("ib-ndr-8rail")
TEN_US = {"link": {"base": "nvlink4", "latency": "10.6 us"}}  # 10 us more than nvlink4 has


def edited(link: Link, latency_s: float) -> Link:
    return replace(link, latency_s=latency_s, fitted_latency_s=link.latency_s)


def by(where: Cluster, latency_s: float | None) -> Cluster:
    """The cluster with all links of that latency; None: with those of the fit."""
    links = (where.node.link, where.fabric.nic if where.fabric else None, where.node.nic_link or where.node.host_link)
    link, nic, slot = (each and edited(each, each.latency_s if latency_s is None else latency_s) for each in links)
    return replace(where, node=replace(where.node, link=link, nic_link=slot), fabric=where.fabric and replace(where.fabric, nic=nic))


def clusters() -> Iterator[Cluster]:
    yield from (Cluster(node(name)) for name in NODES)
    yield from (Cluster(node("tpu-v5p-4x4x4" if other == "dcn-tpu" else "hgx-h100-80gb"), 4, fabric(other)) for other in FABRICS)


def all_s(where: Cluster) -> Floats:
    """Of every operation, message and named algorithm, at every size and group."""
    ranks, stride = groups(where.node.devices_per_node, where.num_nodes)
    ranks, stride, size = (each.ravel() for each in np.broadcast_arrays(ranks[:, None], stride[:, None], SIZES[::4]))
    found = [seconds(where, operation, size, ranks, stride) for operation in OPERATIONS]
    if not where.node.torus:
        found += [named_s(where, operation, algorithm) for operation in OPERATIONS for algorithm in names(operation)]
    return np.concatenate([*found, np.asarray(p2p_s(where, size, stride, num_ranks=ranks))])


def named_s(where: Cluster, operation: str, algorithm: str) -> Floats:
    try:
        ranks = where.num_devices
        return np.atleast_1d(
            alpha_beta_s(where, operation, algorithm, elements=np.array([2**20]), itemsize_bytes=2, num_ranks=ranks, stride=1)
        )
    except ParsimError:  # no switch adds, or an algorithm of other numbers of ranks
        return np.zeros(0)


def test_the_latency_of_the_fit_changes_nothing_to_the_last_bit() -> None:
    for where in clusters():
        assert np.array_equal(all_s(where), all_s(by(where, None))), where.node.name


def test_no_message_is_sooner_on_a_slower_link_and_none_takes_less_than_nothing() -> None:
    for where in clusters():
        found = [all_s(by(where, latency_s)) for latency_s in (0.0, 1e-7, 1e-6, 1e-5, 1e-3, 1.0)]
        assert np.all(found[0] >= 0.0), where.node.name
        for less, more in pairwise(found):
            assert np.all(less <= more), where.node.name
        assert np.all(found[-1] > found[0]), where.node.name


def by_hand(in_node_s: float, between_s: float) -> dict[str, float]:
    """Seconds that a rank's messages take more, if one takes `in_node_s` and `between_s` more: 8 ranks on one node, 16 on 2 nodes."""
    return {
        "all_gather of 8": 7 * in_node_s,  # a ring
        "all_reduce of 4": 2 * 3 * in_node_s,  # reduces, then gathers
        "all_reduce of 8": 2 * in_node_s,  # up to the switch that adds, and down
        "all_to_all of 8": 7 * in_node_s,
        "message of 8": in_node_s,
        "all_gather of 16": 14 * in_node_s + between_s,  # 15 steps, of which the other node takes 1
        "all_reduce of 16": 2 * 7 * in_node_s + 2 * between_s,  # a chain of 8 in each node, a tree of 2, up and down
        "all_to_all of 16": 7 * in_node_s + 8 * between_s,
        "message of 16": between_s,
    }


def difference_s(case: str, slower: Cluster) -> float:
    operation, ranks = case.split(" of ")
    nodes = 2 if ranks == "16" else 1
    before, after = (replace(each, num_nodes=nodes) for each in (Cluster(H100, 2, NDR), slower))
    if operation == "message":
        return float(p2p_s(after, 1e9, 1, num_ranks=int(ranks))) - float(p2p_s(before, 1e9, 1, num_ranks=int(ranks)))
    steps = (2 if operation == "all_reduce" else 1) * (int(ranks) - 1)
    return float(collective_s(after, operation, 1e9, steps, int(ranks), 1)) - float(
        collective_s(before, operation, 1e9, steps, int(ranks), 1)
    )


@pytest.mark.parametrize("case", by_hand(0, 0))
def test_each_message_of_an_algorithm_takes_the_difference(case: str) -> None:
    slower_link = Cluster(NodeRow.model_validate({"base": "hgx-h100-80gb", **TEN_US}).build(""), 2, NDR)
    assert difference_s(case, slower_link) == pytest.approx(by_hand(1e-5, 0.0)[case], abs=1e-12)
    slower_nic = FabricRow.model_validate({"base": "ib-ndr-8rail", "nic": {"base": "ib-ndr", "latency": "5.7 us"}}).build("")
    assert difference_s(case, Cluster(H100, 2, slower_nic)) == pytest.approx(by_hand(0.0, 3e-6)[case], abs=1e-12)
    slower_slot = NodeRow.model_validate({"base": "hgx-h100-80gb", "host_link": {"base": "pcie5", "latency": "3 us"}}).build("")
    assert difference_s(case, Cluster(slower_slot, 2, NDR)) == pytest.approx(by_hand(0.0, 2 * 2e-6)[case], abs=1e-12)


def test_another_link_of_the_catalog_in_the_place_of_one_brings_its_latency() -> None:
    box = NodeRow.model_validate({"base": "hgx-h100-80gb", "link": "pcie5"}).build("")
    assert (box.link.latency_s, box.link.fitted_latency_s) == (1e-6, 0.6e-6)
    stated = {"name": "mine", "bandwidth": "450 GB/s", "latency": "3 us", "fitted_latency": "1 us"}
    assert NodeRow.model_validate({"base": "hgx-h100-80gb", "link": stated}).build("").link.added_latency_s == pytest.approx(2e-6)


def test_a_law_that_knows_no_latency_of_its_fit_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the tests above see."""
    monkeypatch.setattr(Link, "added_latency_s", 0.0)
    with pytest.raises(AssertionError):
        test_each_message_of_an_algorithm_takes_the_difference("message of 8")
    with pytest.raises(AssertionError):
        test_no_message_is_sooner_on_a_slower_link_and_none_takes_less_than_nothing()
