"""The one choice of an algorithm: by size and span, the same for arrays of plans as for each of them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from parsim import collectives
from parsim.cluster.cluster import Cluster, Node
from parsim.cluster.link import CollectiveLaw
from parsim.collectives import COLLECTIVES, DEFAULTS, choose, names, reference
from parsim.collectives.placed import choose_on
from parsim.errors import ParsimError
from support import FABRIC, LINK, TOY

POWERS = (4, 8, 16, 64, 1024)


def crossover_bytes(n: int) -> float:
    """Where 2 (n - 1) hops + 2 (n - 1) / n payload equals 2 log2 n hops + 2 / 0.9 payload; a hop of 4 us is 0.1 MB at 25 GB/s."""
    return 0.1e6 * (n - 1 - (n.bit_length() - 1)) / (1 / 9 + 1 / n)


def chosen(**where: object) -> str:
    found = choose("all_reduce", **where)
    return next(name for name in names() if COLLECTIVES.get(name) is found)


def below_and_above(n: int) -> tuple[int, int]:
    """Payloads of whole chunks on either side; at the crossover itself a ring serves."""
    above = (int(crossover_bytes(n)) // n + 1) * n
    below = above - n if above - n < crossover_bytes(n) else above - 2 * n
    return below, above


def test_across_nodes_a_tree_serves_small_payloads_and_a_ring_large_ones() -> None:
    for n in POWERS:
        below, above = below_and_above(n)
        found = [chosen(num_ranks=n, payload_bytes=size, in_node=False, switch_adds=True) for size in (4, below, above, 10**12)]
        assert found == ["tree", "tree", "ring", "ring"]


def test_two_or_three_ranks_across_nodes_are_a_ring_since_a_tree_takes_as_many_steps() -> None:
    assert {chosen(num_ranks=n, payload_bytes=12 * size, in_node=False) for n in (2, 3) for size in (1, 10**3, 10**9)} == {"ring"}


def test_the_crossover_moves_with_the_latency_of_a_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    below, above = below_and_above(16)
    monkeypatch.setattr(collectives, "HOP_BYTES", 99_000)
    assert chosen(num_ranks=16, payload_bytes=below, in_node=False) == "ring"
    monkeypatch.setattr(collectives, "HOP_BYTES", 101_000)
    assert chosen(num_ranks=16, payload_bytes=above, in_node=False) == "tree"


def test_in_a_node_a_switch_that_adds_serves_more_than_4_ranks() -> None:
    sizes = (4, 10**6, 10**10)
    assert {chosen(num_ranks=n, payload_bytes=size, in_node=True, switch_adds=True) for n in (5, 8, 72) for size in sizes} == {"in_network"}
    assert {chosen(num_ranks=n, payload_bytes=size, in_node=True, switch_adds=True) for n in (1, 2, 4) for size in sizes} == {"ring"}
    assert {chosen(num_ranks=n, payload_bytes=size, in_node=True) for n in (5, 8, 72) for size in sizes} == {"ring"}


@pytest.mark.parametrize("operation", [o for o in DEFAULTS if o != "all_reduce"])
def test_other_operations_have_one_algorithm_whatever_the_size_and_span(operation: str) -> None:
    for n, size, in_node in product((2, 8, 64), (4, 10**9), (False, True)):
        assert choose(operation, num_ranks=n, payload_bytes=size, in_node=in_node, switch_adds=True) is reference(operation)


def test_a_named_algorithm_runs_whatever_the_size_and_span() -> None:
    for size, in_node in product((4, 10**9), (False, True)):
        found = choose("all_reduce", num_ranks=64, payload_bytes=size, in_node=in_node, switch_adds=True, algorithm="direct")
        assert found is COLLECTIVES.get("direct")
    with pytest.raises(ParsimError, match="tree has no all_gather"):
        choose("all_gather", num_ranks=64, payload_bytes=4, in_node=False, algorithm="tree")


def test_arrays_of_plans_are_chosen_and_counted_as_each_plan_alone() -> None:
    edges = sorted({size for n in POWERS for size in below_and_above(n)})
    grid = list(product((1, 2, 3, 5, 8, 16, 17, 64), (1, 4, 6000, *edges, 10**12), (False, True)))
    n, size, in_node = (np.array(column) for column in zip(*grid, strict=True))
    for switch_adds in (False, True):
        together = choose("all_reduce", num_ranks=n, payload_bytes=size, in_node=in_node, switch_adds=switch_adds)
        alone = [choose("all_reduce", num_ranks=a, payload_bytes=b, in_node=c, switch_adds=switch_adds) for a, b, c in grid]
        assert len(set(map(type, alone))) == 2 + switch_adds
        elements = size // 4 + 1
        each = list(zip(alone, n.tolist(), elements.tolist(), strict=True))
        for rank in (0, 1, 2):
            expected = [int(a.sent_elements("all_reduce", rank, k, count)) for a, k, count in each]
            assert np.asarray(together.sent_elements("all_reduce", rank, n, elements)).tolist() == expected
        expected = [int(a.busiest_elements("all_reduce", k, count)) for a, k, count in each]
        assert np.asarray(together.busiest_elements("all_reduce", n, elements)).tolist() == expected
        assert np.asarray(together.num_steps("all_reduce", n)).tolist() == [int(a.num_steps("all_reduce", k)) for a, k, _ in each]
        assert np.asarray(together.sent_elements("all_reduce", 0, n, elements)).dtype == np.int64


def test_plans_that_agree_share_the_algorithm_itself() -> None:
    found = choose("all_reduce", num_ranks=np.array([8, 16]), payload_bytes=np.array([4, 4]), in_node=np.array([False, False]))
    assert found is COLLECTIVES.get("tree")


def test_on_a_cluster_the_span_of_the_group_decides() -> None:
    node = Node("eight", TOY, 8, LINK, CollectiveLaw(1e-6, 1e-6, 1e8, 1e8, 0.0), LINK, 8, "switched_node", switch_adds=True)
    cluster = Cluster(node, 16, FABRIC)
    n, stride = np.array([8, 4, 8, 16, 4, 16]), np.array([1, 2, 2, 8, 8, 1])
    payload = np.array([10**3, 10**3, 10**3, 10**3, 10**9, 10**9])
    kinds = ["in_network", "ring", "tree", "tree", "ring", "ring"]
    for a, b, c, kind in zip(n.tolist(), stride.tolist(), payload.tolist(), kinds, strict=True):
        assert choose_on(cluster, "all_reduce", num_ranks=a, stride=b, payload_bytes=c) is COLLECTIVES.get(kind)
    together = choose_on(cluster, "all_reduce", num_ranks=n, stride=stride, payload_bytes=payload)
    steps = [int(COLLECTIVES.get(kind).num_steps("all_reduce", k)) for kind, k in zip(kinds, n.tolist(), strict=True)]
    assert np.asarray(together.num_steps("all_reduce", n)).tolist() == steps
    assert choose_on(cluster, "all_reduce", num_ranks=8, stride=1, payload_bytes=4, algorithm="ring") is COLLECTIVES.get("ring")
