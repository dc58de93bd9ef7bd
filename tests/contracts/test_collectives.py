"""What every registered collective must pass: sums, bytes and steps of the messages it really sends."""

from __future__ import annotations

import numpy as np
import pytest

from parsim.collectives import COLLECTIVES, choose, chunk_elements
from parsim_kernels import Machine

choose("all_reduce")  # discovers
CASES = [(name, operation) for name in COLLECTIVES.names() for operation in COLLECTIVES.get(name).operations]
SIZES = range(2, 18)


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_messages_carry_the_bytes_and_take_the_steps_of_the_closed_forms(name: str, operation: str) -> None:
    algorithm = COLLECTIVES.get(name)
    for n in SIZES:
        for elements in (n, 3 * n, 5 * n + 2, 1):
            transfers = list(algorithm.transfers(operation, n, "sum"))
            chunks = 1 if operation in ("reduce", "broadcast") else n
            sent = [sum(int(chunk_elements(t.chunk, chunks, elements)) for t in transfers if t.src == r) for r in range(n)]
            assert sent == [int(algorithm.sent_elements(operation, r, n, elements)) for r in range(n)]
            assert len({t.step for t in transfers}) == int(algorithm.num_steps(operation, n))
            assert max(sent) <= int(algorithm.busiest_elements(operation, n, elements))


@pytest.mark.parametrize(("name", "operation"), CASES)
def test_the_numbers_come_out_right(name: str, operation: str) -> None:
    algorithm, rng = COLLECTIVES.get(name), np.random.default_rng(0)
    for n in SIZES:
        machine, arrays = Machine(n), [rng.integers(-9, 9, (2 * n, 3)).astype(float) for _ in range(n)]
        for rank, array in enumerate(arrays):
            machine.hold(rank, "x", array.copy(), 4)
        target = "y" if operation in ("all_gather", "reduce_scatter") else None
        transfers = algorithm.transfers(operation, n, "sum")
        machine.communicate(operation, "tp", range(n), ["x"], target, transfers, dim=0, itemsize=4)
        total = sum(arrays)
        for rank in range(n):
            got = machine.get(rank, target or "x")
            expected = {
                "all_reduce": total,
                "reduce": total if rank == 0 else arrays[rank],
                "broadcast": arrays[0],
                "all_gather": np.concatenate(arrays),
                "reduce_scatter": np.asarray(total)[2 * rank : 2 * rank + 2],
            }[operation]
            assert np.array_equal(got, expected)


def test_a_ring_all_reduce_sends_two_n_minus_one_over_n_of_the_payload() -> None:
    for n in SIZES:
        assert int(choose("all_reduce").sent_elements("all_reduce", 0, n, 6 * n)) == 2 * (n - 1) * 6  # Patarasuk and Yuan 2009
