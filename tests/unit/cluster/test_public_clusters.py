"""Rows of public clusters against what was measured there, each figure as its source prints it."""

from __future__ import annotations

import pytest
from cluster_rows import fabric, node

from parsim.cluster import Cluster
from parsim.cluster.network import collective_s, p2p_s


@pytest.mark.parametrize(("num_nodes", "measured_s"), [(4, 11.4e-3), (8, 12.6e-3), (16, 14.2e-3), (32, 15.2e-3), (64, 16.1e-3)])
def test_an_all_reduce_of_mare_nostrum_5_takes_what_nccl_took(num_nodes: int, measured_s: float) -> None:
    """HLC-Lab/pico@413bc5d0, results/mare_nostrum, 512 MiB: medians of runs where NCCL chose the algorithm."""
    where, ranks = Cluster(node("mare-nostrum-5"), num_nodes, fabric("ib-ndr200-4rail")), 4 * num_nodes
    steps = 2 * (ranks - 1)
    assert float(collective_s(where, "all_reduce", steps / ranks * 2**29, steps, ranks, 1)) == pytest.approx(measured_s, rel=0.12)


@pytest.mark.parametrize(("size", "measured_s"), [(8, 9.85e-6), (2**25, 631.3e-6), (2**26, 1215.9e-6), (2**28, 3655e-6), (2**30, 14.89e-3)])
def test_a_message_between_two_gpus_of_leonardo_takes_what_nccl_took(size: int, measured_s: float) -> None:
    """NVIDIA/nccl-tests issue 331: sendrecv on a node of Leonardo, NCCL 2.22."""
    assert float(p2p_s(Cluster(node("leonardo")), size, 1)) == pytest.approx(measured_s, rel=0.04)


def test_a_message_between_nodes_of_alps_nearly_fills_its_port() -> None:
    """NVIDIA/nccl issue 1272: 24.2 GB/s of 25, 512 MB between nodes of 4 GH200."""
    where = Cluster(node("alps-gh200"), 4, fabric("slingshot-11"))
    assert 512e6 / float(p2p_s(where, 512e6, 4)) == pytest.approx(24.2e9, rel=0.03)


def test_an_all_reduce_on_leonardo_gets_half_the_bandwidth_of_the_same_ports_at_twice_the_rate() -> None:
    ours, theirs = (Cluster(node("leonardo"), 16, fabric(name)) for name in ("leonardo", "ib-ndr200-4rail"))
    took = [float(collective_s(where, "all_reduce", 126 / 64 * 1e12, 126, 64, 1)) for where in (ours, theirs)]
    assert took[0] / took[1] == pytest.approx(2, rel=0.01)
