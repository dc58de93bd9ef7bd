"""The price of an algorithm that a plan names: arithmetic on the page, and what the wires can carry."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster.cluster import Cluster, Fabric, Node
from parsim.cluster.link import CollectiveLaw, Link
from parsim.collectives import alpha_beta, names
from parsim.collectives.alpha_beta import alpha_beta_s, crossings
from parsim.errors import ParsimError, ScenarioError
from support import TOY

# Nodes of 8 with 4 NICs of 10 bytes/s, half of it reached: a device's share is 2.5 bytes/s, that of a whole node 20.
WIRE = Link("wire", 100.0, 0.25)
NODE = Node("toy", TOY, 8, WIRE, CollectiveLaw(2.0, 0.5, 50.0, 80.0, 0.125), WIRE, 4, "switched_node")
FABRIC = Fabric("toy", Link("nic", 10.0, 1.0), 4, "fat_tree", 0.9, 1.0, 3.0, 4.0, 0.25, 5.0, 0.5, ring_efficiency=0.5)
CLUSTER = Cluster(NODE, 128, FABRIC)


def seconds(algorithm: str, n: int, stride: int, elements: int, operation: str = "all_reduce", where: Cluster = CLUSTER) -> float:
    return float(np.asarray(alpha_beta_s(where, operation, algorithm, elements=elements, itemsize_bytes=4, num_ranks=n, stride=stride)))


def test_in_a_node_it_is_start_steps_and_the_busiest_port() -> None:
    assert seconds("ring", 4, 1, 100) == 2 + 6 * 0.5 + 600 / 50  # 2 x 3 / 4 of 400 bytes
    assert seconds("ring", 4, 2, 100, "all_gather") == 2 + 3 * 0.5 + 300 / 50
    assert seconds("tree", 8, 1, 200) == 2 + 6 * 0.5 + 1600 / 50  # 2 x log2 8 steps, twice the tensor
    adding = Cluster(replace(NODE, switch_adds=True), 1)
    assert seconds("in_network", 8, 1, 200, where=adding) == 2 + 2 * 0.5 + 800 / 50
    assert seconds("star", 4, 1, 100, "reduce") == 2 + 3 * 0.5 + 1200 / 50


def test_steps_between_nodes_have_the_latency_of_the_fabric() -> None:
    # 4 ranks, one a node: each has the share of one device.
    assert seconds("ring", 4, 8, 100) == 1 + 6 * 4 + 600 / 2.5
    assert seconds("tree", 4, 8, 100) == 1 + 4 * 4 + 800 / 2.5
    # 16 ranks on 2 whole nodes: of a ring's 30 steps 2 (k - 1) = 2 cross, of a tree's 8 2 log2 k = 2; a tree's bytes may cross twice.
    assert seconds("ring", 16, 1, 400) == 1 + 2 * 4 + 28 * 0.5 + 3000 / 20
    assert seconds("tree", 16, 1, 400) == 1 + 2 * 4 + 6 * 0.5 + 3200 / (20 / 2)
    # halving and doubling: every rank sends across for itself; 8 steps, of them 2 among 2 nodes.
    assert seconds("halving_doubling", 16, 1, 400) == 1 + 2 * 4 + 6 * 0.5 + 3000 / 2.5
    # groups of 8 are the nodes: each of their ranks sends an eighth across; 16 steps, 2 x 1 among 2 nodes.
    assert seconds("hierarchical", 16, 1, 400) == 1 + 2 * 4 + 14 * 0.5 + 3000 / 20


def test_a_tree_wins_for_small_payloads_and_many_ranks_and_loses_for_large_ones() -> None:
    # One rank a node: a ring takes 2 (n - 1) steps and 2 (n - 1) / n of the bytes, a tree 2 log2 n and twice the bytes.
    for n in (4, 8, 16, 64):
        even = (n - 1 - np.log2(n)) * 4 * 2.5 * n  # bytes at which both take as long
        below, above = (int(even * factor) // (4 * n) * n for factor in (0.9, 1.2))
        assert seconds("tree", n, 8, below) < seconds("ring", n, 8, below)
        assert seconds("tree", n, 8, above) > seconds("ring", n, 8, above)
    assert seconds("tree", 2, 8, 1000) == seconds("ring", 2, 8, 1000)  # two steps, one tensor
    gains = [seconds("ring", n, 8, 1024) - seconds("tree", n, 8, 1024) for n in (4, 8, 16, 64)]
    assert gains == sorted(gains)


@pytest.mark.parametrize("name", [name for name in names("all_reduce") if name != "in_network"])
def test_bytes_cross_the_boundary_of_a_node_no_oftener_than_stated(name: str) -> None:
    for inside in (1, 2, 3, 4, 6, 8):
        for n in (*(inside * k for k in (2, 3, 4, 5, 8)), 2 * inside + 1):
            crossing, most = crossed(name, n, inside)
            assert crossing <= most * crossings("all_reduce", name, inside)


def crossed(name: str, n: int, inside: int) -> tuple[int, int]:
    """Chunks through the busiest node's boundary one way, and through the busiest port."""
    algorithm, leaving, coming = alpha_beta.find("all_reduce", name), Counter[int](), Counter[int]()
    for t in algorithm.transfers("all_reduce", n, "sum"):
        if t.src // inside != t.dst // inside:
            leaving[t.src // inside] += 1
            coming[t.dst // inside] += 1
    return max(*leaving.values(), *coming.values()), int(algorithm.busiest_elements("all_reduce", n, n))


def test_all_bytes_through_one_wire_would_be_too_fast_for_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpha_beta, "crossings", lambda operation, algorithm, inside: 1)
    with pytest.raises(AssertionError):
        test_no_price_beats_what_the_nics_of_a_node_carry("tree")


@pytest.mark.parametrize("name", [name for name in names("all_reduce") if name != "in_network"])
def test_no_price_beats_what_the_nics_of_a_node_carry(name: str) -> None:
    at_once = Cluster(
        replace(NODE, law=CollectiveLaw(0.0, 0.0, 1e9, 1e9, 0.0)),  # a law faster than its link of 100 bytes/s
        16,
        replace(FABRIC, start_s=0.0, ring_step_s=0.0, ring_efficiency=1.0),
    )
    for n, stride in ((2, 8), (16, 8), (4, 4), (8, 4), (16, 2), (16, 1), (32, 1)):
        inside = max(8 // stride, 1)
        chunks, most = crossed(name, n, inside)
        took_s = seconds(name, n, stride, n, where=at_once)
        assert took_s >= 4 * chunks / (inside * 5.0) * (1 - 1e-12)  # 40 bytes/s over 8 devices; rounding
        assert took_s >= 4 * most / 100.0 or inside == 1


def test_arrays_are_priced_as_each_plan_alone() -> None:
    shapes = [(n, stride, elements) for n in (1, 2, 5, 8, 16) for stride in (1, 2, 8, 16) for elements in (1, 100, 10**6)]
    n, stride, elements = (np.array(column) for column in zip(*shapes, strict=True))
    for name in ("ring", "tree", "hierarchical", "direct"):
        together = alpha_beta_s(CLUSTER, "all_reduce", name, elements=elements, itemsize_bytes=4, num_ranks=n, stride=stride)
        assert np.asarray(together).tolist() == [seconds(name, *shape) for shape in shapes]
        assert seconds(name, 1, 8, 100) == 0.0


def test_what_the_hardware_lacks_is_refused_with_a_way_out() -> None:
    with pytest.raises(ParsimError, match=r"in_network all_reduce where no switch adds\n  Choose ring or tree"):
        seconds("in_network", 8, 1, 8)
    with pytest.raises(ParsimError, match="where no switch adds"):
        seconds("in_network", 16, 1, 8, where=Cluster(replace(NODE, switch_adds=True), 2, FABRIC))
    with pytest.raises(ParsimError, match="tree needs a switch, and the node is a torus"):
        seconds("tree", 8, 1, 8, where=Cluster(replace(NODE, torus=(2, 4)), 1))
    with pytest.raises(ScenarioError, match="there is no fabric"):
        seconds("ring", 16, 1, 8, where=Cluster(NODE, 1))
