"""What a registered collective or schedule must pass: asked here of every one that there is, and of one that a test makes up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from parsim.cluster.scalars import Ints
from parsim.collectives import CollectiveAlgorithm, chunk_elements, num_chunks
from parsim.schedules import SCHEDULES, Action, Columns, Phase, Rounds, check, columns, find, rounds
from parsim_kernels import Machine, fabric
from schedule_orders import actions_of, in_order, states_of

SIZES = range(2, 18)
SHAPES = [(p, v, m) for p in (1, 2, 3, 4, 8) for v in (1, 2, 3) for m in {1, 2, 3, p, 2 * p, 3 * p, 5 * p}]


def closed_forms_count_the_messages(algorithm: CollectiveAlgorithm, operation: str) -> None:
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


def numbers_come_out_right(algorithm: CollectiveAlgorithm, operation: str) -> None:
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
                "shift": arrays[rank - 1],
                "reduce_scatter": total[own],
                "all_to_all": np.concatenate([array[own] for array in arrays]),
            }[operation]
            assert np.array_equal(got[rank], expected)


def communicated(algorithm: CollectiveAlgorithm, operation: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """What the machine's ranks hold after a collective of these arrays."""
    n, machine = len(arrays), Machine(len(arrays))
    for rank, array in enumerate(arrays):
        machine.hold(rank, "x", array.copy(), 4)
    target = "y" if operation in ("all_gather", "reduce_scatter", "shift") else None
    machine.communicate(operation, "tp", range(n), ["x"], target, algorithm.transfers(operation, n, "sum"), dim=0, itemsize=4)
    return [machine.get(rank, target or "x") for rank in range(n)]


def exchanged(algorithm: CollectiveAlgorithm, arrays: list[np.ndarray]) -> list[np.ndarray]:
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
    phases = SCHEDULES.get(name).phases
    assert phases in ((Phase.F, Phase.B), (Phase.F, Phase.I, Phase.W))
    for p, v, m in shapes:
        check(find(name, p), p, v, m)
        order = in_order(name, p, v, m)
        place = {action: index for index, action in enumerate(order)}
        assert len(place) == len(order) == len(phases) * p * v * m
        each = p * v // find(name, p).num_copies
        for stage in range(p * v):
            for micro_batch in range(m):
                forward, backward, *weights = (place[Action(stage, phase, micro_batch)] for phase in phases)
                assert forward < backward and all(backward < each for each in weights)
                if stage % each:
                    assert place[Action(stage - 1, phases[0], micro_batch)] < forward
                    assert backward < place[Action(stage - 1, phases[1], micro_batch)]


def every_rank_holds_its_chunks(name: str) -> None:
    """Each stage lives on one rank, and each rank has `chunks` of them."""
    for p, v, _ in legal_shapes(name):
        held = [find(name, p).stages_of(rank, p, p * v) for rank in range(p)]
        assert sorted(stage for stages in held for stage in stages) == list(range(p * v))
        assert all(len(stages) == v for stages in held)
        assert all(find(name, p).rank_of(stage, p) == rank for rank, stages in enumerate(held) for stage in stages)


def columns_are_the_order(name: str) -> None:
    """Row by row what the actions say: who runs what, after what, whose message it takes, and what it sends."""
    phases = SCHEDULES.get(name).phases
    for p, v, m in legal_shapes(name):
        by_rank, held = actions_of(name, p, v, m), columns(name, p, v, m)
        actions = [(rank, action) for rank in range(p) for action in by_rank[rank]]
        assert held.rank.tolist() == [rank for rank, _ in actions]
        assert held.phases == phases and held.actions() == [action for _, action in actions]
        row, each = {action: index for index, (_, action) in enumerate(actions)}, p * v // find(name, p).num_copies
        previous: dict[object, int] = {}
        closing = {action.stage: index for index, (_, action) in enumerate(actions) if action.phase.accumulates}
        for index, (rank, action) in enumerate(actions):
            step = action.phase.step
            neighbours = action.stage - step, action.stage + step
            source, target = (s if step and s // each == action.stage // each else None for s in neighbours)
            sends = target is not None and find(name, p).rank_of(target, p) != rank
            local = source is not None and find(name, p).rank_of(source, p) == rank
            awaits = -1 if source is None or local else row[action._replace(stage=source)]
            k = phases.index(action.phase)
            follows = row[action._replace(phase=phases[k - 1])] if k else -1
            takes = -1 if source is None else row[action._replace(stage=source)]
            assert (*held.needs[:, index], held.awaits[index]) == (follows, takes, awaits)
            assert (held.sends[index], held.closes[index]) == (sends, closing[action.stage] == index)
            assert held.before[index] == previous.get(rank, -1)
            assert held.sent_before[index] == (previous.get((rank, step), -1) if sends else -1)
            previous[rank] = index
            if sends:
                previous[rank, step] = index
        in_levels(held)
        pairs_wait_for_neither(held, p * v // find(name, p).num_copies)


def pairs_wait_for_neither(held: Columns, stages_a_copy: int) -> None:
    """A forward, and behind it a whole backward of another micro_batch, whose own forward is done."""
    actions, backward = held.actions(), held.phases[1:]
    begins = np.flatnonzero(held.ends != np.arange(len(held.ends))).tolist()
    assert sorted(row + more for row in begins for more in range(len(held.phases))) == np.flatnonzero(held.paired).tolist()
    for row in begins:
        (forward, *behind), rank = actions[row : row + len(held.phases)], held.rank[row : row + len(held.phases)]
        assert forward.phase is Phase.F and [each.phase for each in behind] == [*backward] and held.ends[row] == row + 1
        assert len({(each.stage, each.micro_batch) for each in behind}) == 1 and len(set(rank.tolist())) == 1
        copies = {each.stage // stages_a_copy for each in (forward, behind[0])}
        assert forward.micro_batch != behind[0].micro_batch or len(copies) == 2


def in_levels(held: Columns) -> None:
    """Each row in one level, and what it comes after in earlier ones, of which one is the level just before."""
    level = {int(row): number for number, rows in enumerate(held.levels) for row in rows}
    assert len(level) == len(held.rank) == sum(map(len, held.levels))
    for row, own in level.items():
        earlier = [level[int(held.before[row])]] if held.before[row] >= 0 else []
        earlier += [level[int(held.ends[held.awaits[row]])]] if held.awaits[row] >= 0 else []  # with which its message leaves
        assert own == max(earlier, default=-1) + 1


def later_ranks_hold_no_more(name: str) -> None:
    """Of a schedule that says so: each state of a rank is reached by one before the same phase of the same chunk of the rank before it."""
    for p, v, m in legal_shapes(name) if SCHEDULES.get(name).falls else ():
        by_rank = states_of(name, p, v, m)
        for before, states in pairwise(by_rank):
            for state, *start in states:
                assert any(start == other and all(a >= b for a, b in zip(more, state, strict=True)) for more, *other in before)


def rounds_are_the_order(name: str) -> None:
    """Head, loops and tail run level by level what the columns do, and each message is read before another takes its place."""
    counts = {(p, v, m) for p, v, _ in legal_shapes(name) for m in range(4 * p + 1, 13 * p, 1 + p // 2)}
    for p, v, m in {*counts, *legal_shapes(name)}:
        if SCHEDULES.get(name).legal(p, v, m) is not None:
            continue
        held, (each, loops) = columns(name, p, v, m), rounds(name, p, v, m)
        levels = [*each.head, *each.loop * loops, *each.tail]
        assert len(levels) == len(held.levels)
        alone, action, there, closing = held.phase * p * v + held.stage, names_of(held, each), {each.num_rows - 2: -1}, list[int]()
        for level, rows in zip(levels, held.levels, strict=True):
            assert level.action.tolist() == action[rows].tolist()
            assert np.arange(p)[level.rank].tolist() == held.rank[rows].tolist()
            # Forwards of pairs leave their messages with their backwards.
            late = [row - 1 for row in rows if row and held.ends[row - 1] == row != held.ends[row] - 1]
            messages = np.array([*rows, *late])
            assert [there.get(row) for row in level.reads.tolist()] == [*held.awaits[rows].tolist(), *sends_before(held, messages)]
            assert level.sends.tolist() == alone[messages].tolist()
            assert rows[np.arange(len(rows))[level.ends] if late else slice(None)].tolist() == [*rows, *held.ends[late]]
            leaves = held.sends[messages] & (np.array([*(held.ends[rows] == rows), *late]) > 0)
            there.update((place, row) for place, row in zip(level.gives[leaves].tolist(), messages[leaves].tolist(), strict=True))
            assert (level.gives[~leaves] == each.num_rows - 1).all()
            closing += [] if level.closing is None else rows[level.closing].tolist()
        assert sorted(closing) == np.flatnonzero(held.closes).tolist()
        assert each.closing.ravel().tolist() == alone[held.closes].tolist()
        begins = held.ends != np.arange(len(held.ends))
        assert each.times(loops).sum() == begins.sum()


def names_of(held: Columns, each: Rounds) -> Ints:
    """The number of each action: of a pair, that of its own where its backward begins, and the last elsewhere."""
    pairs, found = each.pairs.tolist(), held.phase * (held.stage.max() + 1) + held.stage
    found[held.paired] = each.first_pair + len(pairs)
    for row in np.flatnonzero(held.ends != np.arange(len(held.ends))).tolist():
        found[row + 1] = each.first_pair + pairs.index(held.stage[row : row + 2].tolist())
    return found


def sends_before(held: Columns, rows: Ints) -> list[int]:
    """What was sent before what these rows send; of what sends nothing, nothing."""
    return np.where(held.sends[rows], held.sent_before[rows], -1).tolist()


def a_few_rounds_show_every_memory_state(name: str) -> None:
    """The states of `steady_rounds` rounds are those of many: of the whole order each that no other exceeds is found, and no more."""
    legal, phases = SCHEDULES.get(name).legal, SCHEDULES.get(name).phases
    many = {
        (p, v, next(m for m in range(9 * p + more, 99 * p) if legal(p, v, m) is None)) for p, v, _ in legal_shapes(name) for more in (0, 1)
    }
    for p, v, m in {*many, *legal_shapes(name)}:
        for rank, states in enumerate(states_of(name, p, v, m)):
            own = find(name, p).stages_of(rank, p, p * v)
            in_flight = {(c, k): 0 for c in range(v) for k in phases[:-1]}
            seen = defaultdict[tuple[int, Phase, int], set[tuple[int, ...]]](set)
            actions, pairs = actions_of(name, p, v, m)[rank], find(name, p).pairs(rank, p, v, m).tolist()
            inside = {place + more for place in pairs for more in range(1, len(phases))}
            for place, action in enumerate(actions):
                chunk, k = own.index(action.stage), phases.index(action.phase)
                if place not in inside:
                    seen[chunk, action.phase, own.index(actions[place + 1].stage) if place in pairs else -1].add(tuple(in_flight.values()))
                if action.phase != phases[-1]:
                    in_flight[chunk, action.phase] += 1
                if k:
                    in_flight[chunk, phases[k - 1]] -= 1
            assert set(in_flight.values()) == {0}
            greatest = {
                (state, chunk, phase, with_chunk)
                for (chunk, phase, with_chunk), some in seen.items()
                for state in some
                if not any(other != state and all(a >= b for a, b in zip(other, state, strict=True)) for other in some)
            }
            assert greatest == set(states) and len(states) == len(greatest)
