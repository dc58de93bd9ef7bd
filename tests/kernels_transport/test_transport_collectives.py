"""Every collective by real ranks equals the same transfers in one process, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transport_targets as targets

from parsim.collectives import COLLECTIVES, names, num_chunks
from parsim_kernels import fabric

Ranks = Callable[..., list[Any]]
ALGORITHMS = [(name, operation) for name in names() for operation in COLLECTIVES.get(name).operations]


def chunks_at_start(operation: str, num_ranks: int, elements: int, dtype: str, seed: int) -> fabric.Chunks:
    """As the operation cuts a tensor; random floats, so the order of additions shows."""
    count, rng = num_chunks(operation, num_ranks), np.random.default_rng(seed)
    everyone: fabric.Chunks = []
    for rank in range(num_ranks):
        parts: list[np.ndarray | None] = list(np.array_split((rng.standard_normal(elements) * 1e3).astype(dtype), count))
        if operation == "all_gather":
            parts = [part if chunk == rank else None for chunk, part in enumerate(parts)]
        if operation == "all_to_all":
            parts = [
                part if chunk // num_ranks == rank else None
                for chunk, part in enumerate(np.resize(parts_of(parts, num_ranks), num_ranks**2))
            ]
        if operation == "shift":
            parts = [parts[0] if chunk == rank else None for chunk in range(num_ranks)]
        everyone.append(parts)
    return everyone


def parts_of(parts: list[np.ndarray | None], num_ranks: int) -> np.ndarray:
    found = np.empty(num_ranks, object)
    for i, part in enumerate(parts):
        found[i] = part
    return found


def cases(num_ranks: int) -> list[targets.Case]:
    made = []
    for name, operation in ALGORITHMS:
        for elements, dtype, operator in (
            (7 * num_ranks + 2, "f8", "sum"),
            (1, "f8", "sum"),
            (3 * num_ranks, "i8", "max"),
            (5000, "f4", "sum"),
        ):
            transfers = list(COLLECTIVES.get(name).transfers(operation, num_ranks, operator))
            made.append((transfers, chunks_at_start(operation, num_ranks, elements, dtype, len(made))))
    return made


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None and b is None) or (a is not None and b is not None and a.dtype == b.dtype and a.tobytes() == b.tobytes())


def faults(made: list[targets.Case], by_rank: list[Any], group: list[int]) -> list[str]:
    """Where the ranks' outcome is not that of `fabric.run`."""
    found = []
    for i, (transfers, everyone) in enumerate(made):
        expected, sent = [list(own) for own in everyone], []
        fabric.run(transfers, expected, lambda src, dst, array, sent=sent: sent.append((src, dst, array.nbytes)))
        for position, rank in enumerate(group):
            chunks, own_sent = by_rank[rank][i]
            if not all(map(same, chunks, expected[position])):
                found.append(f"case {i}: position {position} holds something else")
            if own_sent != [message for message in sent if message[0] == position]:
                found.append(f"case {i}: position {position} sent something else")
    return found


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_every_collective_equals_the_one_in_lockstep_bit_for_bit_and_in_the_bytes_sent(ranks: Ranks, num_ranks: int) -> None:
    made, group = cases(num_ranks), list(range(num_ranks))[::-1]  # position p is rank n - 1 - p
    assert len(made) == 4 * len(ALGORITHMS) > 40
    assert faults(made, ranks(targets.collectives, num_ranks, group, made, slot_bytes=targets.SLOT), group) == []
