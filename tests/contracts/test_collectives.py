"""What every registered collective must pass: sums, bytes and steps of the messages it really sends."""

from __future__ import annotations

import contract
import numpy as np
import pytest

from parsim.collectives import COLLECTIVES, DEFAULTS, choose, names
from parsim.collectives.hierarchical import Hierarchical
from parsim.collectives.in_network import InNetwork
from parsim.errors import ParsimError
from parsim_kernels import Machine, Transfer, fabric

CASES = [(name, operation) for name in names() for operation in COLLECTIVES.get(name).operations]


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_messages_carry_the_bytes_and_take_the_steps_of_the_closed_forms(name: str, operation: str) -> None:
    contract.closed_forms_count_the_messages(COLLECTIVES.get(name), operation)


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_the_numbers_come_out_right(name: str, operation: str) -> None:
    contract.numbers_come_out_right(COLLECTIVES.get(name), operation)


@pytest.mark.parametrize("group_size", [1, 2, 3, 4, 6, 16])
def test_a_hierarchy_of_any_group_size_is_right(group_size: int) -> None:
    contract.closed_forms_count_the_messages(Hierarchical(group_size), "all_reduce")
    contract.numbers_come_out_right(Hierarchical(group_size), "all_reduce")


def test_a_ring_all_reduce_sends_two_n_minus_one_over_n_of_the_payload() -> None:
    for n in contract.SIZES:
        assert int(choose("all_reduce").sent_elements("all_reduce", 0, n, 6 * n)) == 2 * (n - 1) * 6  # Patarasuk and Yuan 2009


@pytest.mark.parametrize("name", ["bidirectional_ring", "direct", "halving_doubling", "hierarchical"])
def test_other_bandwidth_optimal_algorithms_send_what_a_ring_sends_in_fewer_steps(name: str) -> None:
    algorithm, ring = COLLECTIVES.get(name), COLLECTIVES.get("ring")
    for n in (4, 8, 16):
        sent = [int(algorithm.sent_elements("all_reduce", rank, n, 6 * n)) for rank in range(n)]
        assert sent == [2 * (n - 1) * 6] * n
    assert int(algorithm.num_steps("all_reduce", 16)) < int(ring.num_steps("all_reduce", 16))


def test_steps_over_16_ranks_are_those_of_the_papers() -> None:
    steps = {name: int(choose("all_reduce", algorithm=name).num_steps("all_reduce", 16)) for name in names("all_reduce")}
    assert steps["ring"] == 2 * 15
    assert steps["bidirectional_ring"] == 2 * 8
    assert steps["direct"] == 2
    assert steps["halving_doubling"] == 2 * 4  # Thakur et al. 2005: 2 lg p
    assert steps["tree"] == 2 * 4  # Sanders et al. 2009: ceil(lg p) up and down
    assert steps["hierarchical"] == 2 * 7 + 2 * 1  # two groups of 8
    assert steps["in_network"] == 2  # Graham et al. 2016: up and down


def test_folding_costs_a_rank_and_its_neighbour_a_whole_tensor_more() -> None:
    # 20 elements over 5 ranks: rank 0 folds into rank 1; ranks 1 to 4 are places 0 to 3, their blocks hold 4, 4, 4 and 8 elements.
    # A place sends all but its block, then its block, then the block of its pair (8 or 12); rank 1 hands the sum back to rank 0.
    sent = [int(choose("all_reduce", algorithm="halving_doubling").sent_elements("all_reduce", rank, 5, 20)) for rank in range(5)]
    assert sent == [20, 16 + 4 + 8 + 20, 16 + 4 + 8, 16 + 4 + 12, 12 + 8 + 12]


def test_a_rank_inside_one_tree_is_a_leaf_of_the_other() -> None:
    """Sanders et al. 2009; where n is odd, only the root of the first may have a child in the second too."""
    for n in contract.SIZES:
        inside = [set(), set()]
        for t in choose("all_reduce", algorithm="tree").transfers("all_reduce", n, "sum"):
            if t.operator == "sum":
                inside[t.chunk >= (n + 1) // 2].add(t.dst)
        assert inside[0] & inside[1] <= ({0} if n % 2 else set())


def test_a_rank_sends_its_tensor_once_to_a_switch_that_adds() -> None:
    algorithm = COLLECTIVES.get("in_network")
    for n in contract.SIZES:
        assert [int(algorithm.sent_elements("all_reduce", rank, n, 6 * n)) for rank in range(n)] == [6 * n] * n  # Graham et al. 2016
        assert [int(algorithm.sent_elements("all_gather", rank, n, 6 * n)) for rank in range(n)] == [6] * n
        machine = Machine(n)
        for rank in range(n):
            machine.hold(rank, "x", np.ones(6 * n), 2)
        machine.communicate("all_reduce", "tp", range(n), ["x"], None, algorithm.transfers("all_reduce", n, "sum"), itemsize=2)
        assert [ledger.sent_bytes for ledger in machine.ledgers] == [{"tp": 2 * 6 * n}] * n  # what the switch sends is nobody's


def test_a_switch_adds_in_the_order_of_the_ranks_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for n in contract.SIZES:
        arrays = [rng.standard_normal(5) for _ in range(n)]
        expected = arrays[0]
        for array in arrays[1:]:
            expected = expected + array
        assert all(np.array_equal(got, expected) for got in contract.communicated(COLLECTIVES.get("in_network"), "all_reduce", arrays))


def test_a_position_past_the_ranks_that_never_sends_is_no_switch() -> None:
    with pytest.raises(ValueError, match="there is no position 2 with a chunk 0 among 2"):
        fabric.run([Transfer(0, 0, 2, 0, "sum")], [[np.ones(1)], [np.ones(1)]], lambda src, dst, array: None)


@pytest.mark.parametrize(
    ("name", "operation"), [("in_network", "all_reduce"), ("in_network", "reduce_scatter"), ("in_network", "all_gather")]
)
def test_a_message_less_breaks_the_contract_of_a_switch(name: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = InNetwork.transfers
    monkeypatch.setattr(InNetwork, "transfers", lambda self, *args: (t for i, t in enumerate(right(self, *args)) if i))
    with pytest.raises(AssertionError):
        contract.closed_forms_count_the_messages(COLLECTIVES.get(name), operation)
    with pytest.raises((AssertionError, ValueError)):
        contract.numbers_come_out_right(COLLECTIVES.get(name), operation)


@pytest.mark.parametrize("operation", DEFAULTS)
def test_another_algorithm_in_the_registry_changes_no_default(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = choose(operation)
    monkeypatch.setattr(COLLECTIVES, "_values", {"aaa_first": Hierarchical(2, tuple(DEFAULTS)), **COLLECTIVES._values})
    assert (
        choose(operation)
        is before
        is COLLECTIVES.get({"reduce": "star", "broadcast": "star", "all_to_all": "pairwise", "shift": "rotation"}.get(operation, "ring"))
    )


def test_an_algorithm_that_does_not_know_the_operation_is_refused_with_those_that_do() -> None:
    with pytest.raises(
        ParsimError, match=r"star has no all_gather\n  Algorithms of all_gather: bidirectional_ring, direct, in_network, ring\."
    ):
        choose("all_gather", algorithm="star")
    with pytest.raises(ParsimError, match=r"unknown operation 'all_reduces' \(did you mean 'all_reduce'\?\)"):
        choose("all_reduces")
    with pytest.raises(ParsimError, match=r"unknown collective algorithm 'rin' \(did you mean 'ring'\?\)"):
        choose("all_reduce", algorithm="rin")


def test_closed_forms_of_large_tensors_stay_exact() -> None:
    n, elements = np.array([3, 1000, 1024]), np.array([2**50 + 1] * 3)
    for name in names("all_reduce"):
        sent = np.asarray(choose("all_reduce", algorithm=name).sent_elements("all_reduce", 2, n, elements))
        assert sent.dtype == np.int64
        assert sent.tolist() == [int(choose("all_reduce", algorithm=name).sent_elements("all_reduce", 2, int(k), 2**50 + 1)) for k in n]
