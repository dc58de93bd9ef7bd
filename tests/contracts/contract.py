"""What a registered collective or schedule must pass: asked here of every one that there is, and of one that a test makes up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from parsim.collectives import Collective, chunk_elements, num_chunks
from parsim.schedules import SCHEDULES, Action, memory_states, ordered
from parsim_kernels import Machine, fabric

SIZES = range(2, 18)
SHAPES = [(p, v, m) for p in (1, 2, 3, 4, 8) for v in (1, 2, 3) for m in {1, 2, 3, p, 2 * p, 3 * p, 5 * p}]


def closed_forms_count_the_messages(algorithm: Collective, operation: str) -> None:
    """Elements by rank, steps, and a busiest port that no rank's sending or receiving exceeds; alone and as arrays."""
    for n in SIZES:
        transfers = list(algorithm.transfers(operation, n, "sum"))
        chunks = num_chunks(operation, n)
        assert {t.step for t in transfers} == set(range(int(algorithm.num_steps(operation, n))))
        for elements in (n, 3 * n, 5 * n + 2, 1):
            sent, received = Counter[int](), Counter[int]()
            for t in transfers:
                size = int(chunk_elements(t.chunk, chunks, elements))
                sent[t.src] += size
                received[t.dst] += size
            ranks = np.arange(n)
            stated = np.asarray(algorithm.sent_elements(operation, ranks, np.full(n, n), np.full(n, elements)))
            assert stated.tolist() == [sent[rank] for rank in range(n)]
            assert int(algorithm.sent_elements(operation, n - 1, n, elements)) == sent[n - 1]
            ports = [count[rank] for count in (sent, received) for rank in range(n)]  # a switch has as many as there are ranks
            assert max(ports) <= int(algorithm.busiest_elements(operation, n, elements))
    many, elements = np.array(SIZES), np.array(SIZES) * 7 + 1
    for n, most, steps in zip(
        SIZES,
        np.asarray(algorithm.busiest_elements(operation, many, elements)),
        np.asarray(algorithm.num_steps(operation, many)),
        strict=True,
    ):
        assert most == algorithm.busiest_elements(operation, n, 7 * n + 1) and steps == algorithm.num_steps(operation, n)
    assert list(algorithm.transfers(operation, 1, "sum")) == [] and int(algorithm.num_steps(operation, 1)) == 0
    assert int(algorithm.sent_elements(operation, 0, 1, 5)) == 0 == int(algorithm.busiest_elements(operation, 1, 5))


def numbers_come_out_right(algorithm: Collective, operation: str) -> None:
    """Every operation against numpy, on integers in float64."""
    rng = np.random.default_rng(0)
    for n in SIZES:
        arrays = [rng.integers(-9, 9, (2 * n, 3)).astype(float) for _ in range(n)]
        got = exchanged(algorithm, arrays) if operation == "all_to_all" else communicated(algorithm, operation, arrays)
        total = np.asarray(sum(arrays))
        for rank in range(n):
            own = slice(2 * rank, 2 * rank + 2)
            expected = {
                "all_reduce": total,
                "reduce": total if rank == 0 else got[rank],  # what the others are left with means nothing
                "broadcast": arrays[0],
                "all_gather": np.concatenate(arrays),
                "reduce_scatter": total[own],
                "all_to_all": np.concatenate([array[own] for array in arrays]),
            }[operation]
            assert np.array_equal(got[rank], expected)


def communicated(algorithm: Collective, operation: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What the machine's ranks hold after a collective of these arrays."""
    n, machine = len(arrays), Machine(len(arrays))
    for rank, array in enumerate(arrays):
        machine.hold(rank, "x", array.copy(), 4)
    target = "y" if operation in ("all_gather", "reduce_scatter") else None
    machine.communicate(operation, "tp", range(n), ["x"], target, algorithm.transfers(operation, n, "sum"), dim=0, itemsize=4)
    return [machine.get(rank, target or "x") for rank in range(n)]


def exchanged(algorithm: Collective, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What each rank holds after an all_to_all: from every rank s, in order, chunk s n + d."""
    n = len(arrays)
    chunks: fabric.Chunks = [[None] * (n * n) for _ in range(n)]
    for rank, array in enumerate(arrays):
        chunks[rank][rank * n : (rank + 1) * n] = np.array_split(array, n)
    fabric.run(algorithm.transfers("all_to_all", n, "sum"), chunks, lambda src, dst, array: None)
    return [np.concatenate([chunk for chunk in chunks[rank][rank::n] if chunk is not None]) for rank in range(n)]


def legal_shapes(name: str) -> Iterator[tuple[int, int, int]]:
    """Numbers of ranks, chunks and micro_batches that a schedule accepts."""
    return (shape for shape in SHAPES if SCHEDULES.get(name).legal(*shape) is None)


def actions_follow_what_they_need(name: str) -> None:
    """Each micro_batch forward through the stages, then backward; every action once, and no rank waits for ever."""
    shapes = list(legal_shapes(name))
    assert shapes, f"{name} accepts nothing"
    for p, v, m in shapes:
        order = ordered(name, p, v, m)
        place = {action: index for index, action in enumerate(order.overall)}
        assert len(place) == len(order.overall) == 2 * p * v * m
        for stage in range(p * v):
            for micro_batch in range(m):
                assert place[Action(stage, "F", micro_batch)] < place[Action(stage, "B", micro_batch)]
                if stage:
                    assert place[Action(stage - 1, "F", micro_batch)] < place[Action(stage, "F", micro_batch)]
                    assert place[Action(stage, "B", micro_batch)] < place[Action(stage - 1, "B", micro_batch)]


def a_few_rounds_show_every_memory_state(name: str) -> None:
    """The states of `steady_rounds` rounds are those of many: each state of the whole order is found."""
    legal = SCHEDULES.get(name).legal
    many = {
        (p, v, next(m for m in range(9 * p + more, 99 * p) if legal(p, v, m) is None)) for p, v, _ in legal_shapes(name) for more in (0, 1)
    }
    for p, v, m in {*many, *legal_shapes(name)}:
        for rank, states in enumerate(memory_states(name, p, v, m)):
            in_flight, seen = [0] * v, set()
            for action in ordered(name, p, v, m).by_rank[rank]:
                seen.add((tuple(in_flight), action.stage // p, action.kind))
                in_flight[action.stage // p] += 1 if action.kind == "F" else -1
            assert seen == set(states)
