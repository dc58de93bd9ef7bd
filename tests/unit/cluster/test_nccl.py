"""What communicators hold, by NCCL's constants on the page, beside what people measured."""

from __future__ import annotations

import numpy as np
import pytest

from parsim.cluster import Cluster, nccl
from parsim.scenario.rows import read

MIB = 2**20
# 8 steps of 8 lines x 512 threads x 16 bytes, of 120 words of 8 bytes x 640 threads, and 4 MiB; a page of each end is 2 MiB.
LL, LL128, SIMPLE = 8 * 8 * 512 * 16, 8 * 120 * 8 * 640, 4 * MIB
REDUCES, GATHERS = nccl.CarriedTraffic(frozenset({"all_reduce"})), nccl.CarriedTraffic(frozenset({"all_gather"}))


def _bytes(cluster: Cluster, use: nccl.CarriedTraffic, ranks: int, stride: int = 1, *, lazy: bool = True) -> int:
    return int(nccl.buffer_bytes(cluster, use, np.array([ranks]), np.array([stride]), ["lazy"] if lazy else [])[0])


def _nodes(name: str, fabric: str, count: int = 16) -> Cluster:
    return Cluster(read("nodes", name), count, read("fabrics", fabric))


def _pages(size: int) -> int:
    return -(-size // (2 * MIB)) * 2 * MIB


A100, H100 = (Cluster(read("nodes", name)) for name in ("dgx-a100-80gb", "hgx-h100-80gb"))


def test_a_pair_of_connections_holds_twelve_mib_in_a_node_whichever_end_has_the_large_buffer_and_twenty_over_a_nic() -> None:
    assert _pages(4096) + _pages(4096 + LL + LL128 + SIMPLE) == (2 + 10) * MIB == nccl.PAIR
    assert _pages(4096 + SIMPLE) + _pages(4096 + LL + LL128) == (6 + 6) * MIB == nccl.PAIR  # Ampere reads from the sender
    assert _pages(LL128 + SIMPLE) + _pages(LL + LL128 + SIMPLE) == (10 + 10) * MIB == nccl.NIC_PAIR


def test_two_a100_hold_what_was_measured_and_so_does_the_end_of_a_chain_of_four() -> None:
    """NVIDIA/nccl issue 964: 544 MB of two and 688 of more than two, of a rank that has one neighbour in a tree, and the others two."""
    shared = 32 * 16 * MIB // 2  # of 24 channels, 32 of messages; 16 steps of 512 KiB
    assert _bytes(A100, REDUCES, 2, lazy=False) == shared + 24 * 12 * MIB == 544 * MIB
    assert shared + 24 * (12 + 6) * MIB == 688 * MIB
    assert _bytes(A100, REDUCES, 4, lazy=False) == shared + 24 * (12 + 12) * MIB


def test_eight_h100_that_exchange_tokens_hold_nearly_what_was_measured() -> None:
    """NVIDIA/nccl issue 1685: 1.06 GB before and 4.34 GB after the first all_to_all, by buffers of 10 and 2 MiB of 32 channels."""
    assert _bytes(H100, nccl.CarriedTraffic(everybody=True), 8) == 7 * 32 * 12 * MIB
    assert 0.8 < _bytes(H100, nccl.CarriedTraffic(everybody=True), 8) / (4.34e9 - 1.06e9) < 1


def test_a_switch_adds_in_two_mib_a_channel_and_rank_for_more_than_four() -> None:
    rings_and_trees = 24 * (12 + 12) * MIB
    assert _bytes(H100, REDUCES, 4) == rings_and_trees
    assert _bytes(H100, REDUCES, 8) == rings_and_trees + 16 * 2 * 8 * MIB  # 8 steps of 128 KiB, each way
    assert _bytes(H100, GATHERS, 8) == 24 * 12 * MIB


@pytest.mark.parametrize(("name", "fabric", "channels"), [("hgx-h100-80gb", "ib-ndr-8rail", 4), ("dgx-a100-80gb", "ib-hdr-8rail", 2)])
def test_a_rank_in_each_node_has_a_ring_over_its_nic_and_two_neighbours_in_trees(name: str, fabric: str, channels: int) -> None:
    cluster = _nodes(name, fabric)
    assert _bytes(cluster, GATHERS, 16, 8) == channels * 20 * MIB
    assert _bytes(cluster, REDUCES, 16, 8) == channels * (20 + 2 * 20) * MIB
    assert _bytes(cluster, REDUCES, 2, 8) == channels * 20 * MIB  # the ring's neighbour is that of the tree


def test_trees_of_two_nodes_have_connections_of_their_own_where_rings_leave_a_node_by_another_rank() -> None:
    """16 channels: in each node a ring has 7 pairs and one over a NIC, and so has a tree, whose head is not where the ring leaves."""
    assert _bytes(_nodes("hgx-h100-80gb", "ib-ndr-8rail", 2), REDUCES, 16) == 16 * 2 * (7 * 12 + 20) * MIB // 8


def test_the_switch_has_buffers_from_the_start_of_more_than_two_in_a_node_where_nothing_is_lazy() -> None:
    """NVIDIA/nccl, tag v2.21.5-1, src/transport/nvls.cc: ncclNvlsInit returns for two; what the search found is beside it."""
    assert _bytes(H100, GATHERS, 4, lazy=False) == (24 * 24 + 4 * 32 + 32 * 8) * MIB
    assert _bytes(H100, GATHERS, 2, lazy=False) == (24 * 12 + 32 * 8) * MIB
    two = _nodes("hgx-h100-80gb", "ib-ndr-8rail", 2)
    assert _bytes(two, GATHERS, 16, lazy=False) - _bytes(two, REDUCES, 16) == 8 * 32 * MIB + 8 * 16 * 2 * MIB  # and what messages share


def test_whole_nodes_share_their_nics_connections_out() -> None:
    """16 channels, each of which leaves a node by one of its 8 ranks."""
    assert _bytes(_nodes("hgx-h100-80gb", "ib-ndr-8rail"), GATHERS, 64) == 16 * (7 * 12 + 20) * MIB // 8


def test_messages_to_other_nodes_go_through_what_all_share_and_those_in_a_node_through_two_channels_each() -> None:
    cluster = _nodes("hgx-h100-80gb", "ib-ndr-8rail")
    shared = 16 * 16 * MIB // 8  # 16 channels, 16 steps of 128 KiB
    assert (
        _bytes(cluster, nccl.CarriedTraffic(everybody=True), 64) == 7 * 2 * 12 * MIB + (8 + 1) * shared
    )  # to send, for each rank of the node
    assert _bytes(cluster, nccl.CarriedTraffic(neighbours=2), 8, 8) == 2 * (4 * 16 * MIB // 8)


def test_what_is_not_lazy_connects_all_from_the_start_and_a_lone_rank_nothing() -> None:
    assert _bytes(H100, nccl.CarriedTraffic(), 8) == 0
    assert _bytes(H100, nccl.CarriedTraffic(), 8, lazy=False) == _bytes(H100, REDUCES, 8) + 32 * 8 * MIB
    assert _bytes(H100, nccl.CarriedTraffic(frozenset({"all_reduce"}), everybody=True), 1, lazy=False) == 0


def test_devices_without_links_have_few_channels_and_other_makers_are_not_known() -> None:
    assert _bytes(Cluster(read("nodes", "pcie4-8x-l40s")), REDUCES, 2) == 2 * 12 * MIB
    assert [nccl.runs_on(Cluster(read("nodes", name))) for name in ("hgx-b200", "mi300x-8", "one-cpu-generic")] == [True, False, False]


def test_links_between_devices_are_theirs_however_fast_those_of_their_hosts_are() -> None:
    """Four GH200 have the NVLink of as many H100, and as much to their host."""
    gh200 = read("nodes", "alps-gh200")
    assert gh200.link.bandwidth_bytes_per_s == gh200.host_link.bandwidth_bytes_per_s
    assert _bytes(Cluster(gh200), REDUCES, 4) == _bytes(H100, REDUCES, 4)


def test_a_communicator_has_no_more_than_64_channels_however_many_nics_a_node_has() -> None:
    racks = _nodes("gb200-nvl72", "ib-ndr-72rail", 2)
    shared = 2 * MIB * 64  # 16 steps of 128 KiB a channel
    assert _bytes(racks, nccl.CarriedTraffic(neighbours=1), 144) == 2 * shared + 2 * 12 * MIB
