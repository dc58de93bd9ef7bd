"""Closed forms of tensors whose chunks are not alike: counts of a table against the messages, one by one, and against the ledgers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import parsim.collectives as collectives
from parsim.collectives import COLLECTIVES, CollectiveAlgorithm, choose, names, num_chunks
from parsim_kernels import Machine

SIZES = range(2, 7)
CASES = [(name, operation) for name in names() for operation in COLLECTIVES.get(name).operations if num_chunks(operation, 2) > 1]


def random_table(operation: str, n: int, seed: int) -> np.ndarray:
    """Elements of each chunk, 0 among them; of all_to_all by source and destination."""
    return np.random.default_rng([seed, n]).integers(0, 9, (n, n) if operation == "all_to_all" else (n,))


def tensor(table: np.ndarray, n: int) -> np.ndarray:
    """Elements of each rank's tensor."""
    return np.broadcast_to(table.sum(-1), (n,))


def ports(algorithm: CollectiveAlgorithm, operation: str, n: int, table: np.ndarray) -> tuple[list[int], list[int]]:
    """Elements that each rank sends and receives, message by message."""
    sent, received = Counter[int](), Counter[int]()
    for transfer in algorithm.transfers(operation, n, "sum"):
        sent[transfer.src] += int(table.reshape(-1)[transfer.chunk])
        received[transfer.dst] += int(table.reshape(-1)[transfer.chunk])
    return [sent[rank] for rank in range(n)], [received[rank] for rank in range(n)]


def count_the_messages(algorithm: CollectiveAlgorithm, operation: str) -> None:
    for n in SIZES:
        for seed in range(10):
            table = random_table(operation, n, seed)
            sent, received = ports(algorithm, operation, n, table)
            elements = tensor(table, n)
            assert np.asarray(algorithm.sent_elements(operation, np.arange(n), n, elements, table)).tolist() == sent
            assert int(algorithm.sent_elements(operation, n - 1, n, int(elements[-1]), table)) == sent[-1]
            assert int(algorithm.busiest_elements(operation, n, int(elements[0]), table)) >= max(*sent, *received)


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_a_table_counts_what_each_rank_sends_message_by_message(name: str, operation: str) -> None:
    count_the_messages(COLLECTIVES.get(name), operation)


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_a_table_of_equal_cuts_gives_what_no_table_gives(name: str, operation: str) -> None:
    algorithm = COLLECTIVES.get(name)
    for n in SIZES:
        for elements in (1, n, 3 * n + 1, 5 * n + n - 1):
            row = np.array([len(part) for part in np.array_split(np.arange(elements), n)])
            table = np.tile(row, (n, 1)) if operation == "all_to_all" else row
            for rank in range(n):
                stated = algorithm.sent_elements(operation, rank, n, elements)
                assert algorithm.sent_elements(operation, rank, n, elements, table) == stated
            assert algorithm.busiest_elements(operation, n, elements, table) == algorithm.busiest_elements(operation, n, elements)


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_tables_of_several_plans_count_as_each_alone_and_zeros_fill_them_up(name: str, operation: str) -> None:
    algorithm = COLLECTIVES.get(name)
    tables = [random_table(operation, n, 3) for n in SIZES]
    padded = np.stack([np.pad(table, [(0, 6 - n)] * table.ndim) for n, table in zip(SIZES, tables, strict=True)])
    n, last = np.array(SIZES), np.array(SIZES) - 1
    elements = np.array([tensor(table, k)[-1] for k, table in zip(SIZES, tables, strict=True)])
    each = list(zip(SIZES, elements.tolist(), tables, strict=True))
    sent = [int(algorithm.sent_elements(operation, k - 1, k, count, table)) for k, count, table in each]
    assert np.asarray(algorithm.sent_elements(operation, last, n, elements, padded)).tolist() == sent
    busiest = [int(algorithm.busiest_elements(operation, k, count, table)) for k, count, table in each]
    assert np.asarray(algorithm.busiest_elements(operation, n, elements, padded)).tolist() == busiest


def test_the_largest_chunk_holds_up_each_step_of_a_ring_and_the_fullest_port_an_all_to_all() -> None:
    table = np.array([5, 0, 1, 2])
    for operation in ("all_gather", "reduce_scatter"):
        assert choose(operation).busiest_elements(operation, 4, 8, table) == 3 * 5
    tokens = np.array([[9, 1, 2], [4, 9, 4], [5, 0, 9]])  # by rank: 3, 8 and 5 sent to others, 9, 1 and 6 received from them
    assert choose("all_to_all").busiest_elements("all_to_all", 3, 12, tokens) == 9


def test_the_ledgers_of_the_machine_count_what_the_closed_forms_state() -> None:
    for n in SIZES:
        for seed in range(5):
            tokens, row = random_table("all_to_all", n, seed), random_table("all_gather", n, seed)
            rows = tokens.tolist()
            machine = Machine(n)
            for rank in range(n):
                machine.hold(rank, "tokens", np.ones((sum(rows[rank]), 3)), 2)
                machine.hold(rank, "whole", np.ones(int(row.sum())), 2)
            group = range(n)
            exchange = choose("all_to_all").transfers("all_to_all", n, "sum")
            machine.communicate("all_to_all", "ep", group, ["tokens"], "experts", exchange, extents=rows, itemsize=2)
            scatter = choose("reduce_scatter").transfers("reduce_scatter", n, "sum")
            machine.communicate("reduce_scatter", "tp", group, ["whole"], "part", scatter, extents=row.tolist(), itemsize=2)
            gather = choose("all_gather").transfers("all_gather", n, "sum")
            machine.communicate("all_gather", "cp", group, ["part"], "again", gather, itemsize=2)
            for rank in group:
                for axis, operation, table in (("ep", "all_to_all", 3 * tokens), ("tp", "reduce_scatter", row), ("cp", "all_gather", row)):
                    elements = int(tensor(table, n)[rank])
                    stated = choose(operation).sent_elements(operation, rank, n, elements, table)
                    assert machine.ledgers[rank].sent_bytes[axis] == 2 * stated


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_an_entry_too_far_is_seen(name: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "in_network" and operation != "all_gather":
        pytest.skip("a rank sends its whole tensor, however it is cut")
    right = collectives._entries
    monkeypatch.setattr(collectives, "_entries", lambda table, index: right(table, (index + 1) % table.shape[-1]))
    with pytest.raises(AssertionError):
        count_the_messages(COLLECTIVES.get(name), operation)
