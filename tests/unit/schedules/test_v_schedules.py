"""Zero-bubble schedules beyond H1, and V-shaped ones: bubbles and micro_batches in flight as their papers state them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from parsim.cluster.scalars import Ints
from parsim.estimator.fold import fold
from parsim.schedules import SCHEDULES, Action, Phase, fault, find, rounds
from parsim.schedules.dual_pipe import DualPipe
from parsim.schedules.reordering import reorder
from parsim.schedules.v_half import VHalf
from parsim.schedules.v_min import VMin
from parsim.schedules.v_shaped import BuildingBlocks
from parsim.schedules.zero_bubble_v import ZeroBubbleV
from schedule_orders import actions_of, in_order, needs, states_of

SHAPES = [(2, 8), (3, 12), (4, 16), (5, 11), (6, 24), (8, 32)]
CHUNKS = {"dual_pipe": 2, "1f1b": 1, "zero_bubble_h2": 1, "zero_bubble_v": 2, "dual_pipe_v": 2, "v_half": 2, "v_min": 2}


def idle(name: str, p: int, m: int, takes: dict[Phase, int]) -> int:
    """The longest that a rank waits between its first and its last action, where messages take no time: a longest path."""
    v = CHUNKS[name]
    start: dict[int, int] = {}
    free, busy = [0] * p, [0] * p
    end: dict[Action, int] = {}
    for action in in_order(name, p, v, m):
        rank = find(name, p).rank_of(action.stage, p)
        begins = max([free[rank], *(end[each] for each in needs(action, p * v // find(name, p).num_copies))])
        start.setdefault(rank, begins)
        end[action] = free[rank] = begins + takes[action.phase]
        busy[rank] += takes[action.phase]
    return max(free[rank] - start[rank] - busy[rank] for rank in range(p))


def most_in_flight(name: str, p: int, m: int) -> list[int]:
    """The most micro_batches of a chunk between forward and weights that each rank holds, together; a pair's forward is one more."""
    return [max(sum(in_flight) + (pair >= 0) for in_flight, _, _, pair in states) for states in states_of(name, p, CHUNKS[name], m)]


@pytest.mark.parametrize(("p", "m"), SHAPES)
@pytest.mark.parametrize("name", ["zero_bubble_h2", "zero_bubble_v"])
def test_no_rank_waits_where_all_phases_take_as_long(name: str, p: int, m: int) -> None:
    """Qi et al. 2023, sections 2.2 and 6; 1F1B waits (p - 1) (T_F + T_B)."""
    assert idle(name, p, m, {Phase.F: 1, Phase.I: 1, Phase.W: 1}) == 0
    assert idle("1f1b", p, m, {Phase.F: 1, Phase.B: 2}) == (p - 1) * 3


@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_as_much_is_in_flight_as_the_papers_say(p: int, m: int) -> None:
    """In halves of a stage: ZB-V p whole ones on every rank (section 6), DualPipeV one half more (its README: PP + 1 of 2 p stages)."""
    assert most_in_flight("zero_bubble_h2", p, m) == [min(2 * p - 1, m)] * p
    assert most_in_flight("zero_bubble_v", p, m) == [min(2 * p, 2 * m)] * p
    if m >= 2 * p:
        assert most_in_flight("dual_pipe_v", p, m) == [2 * p + 1] * p


@pytest.mark.parametrize("p", [8, 16, 32, 64])
def test_v_half_holds_half_and_v_min_a_third_of_1f1b(p: int) -> None:
    """Qi et al. 2024 (arXiv:2405.15362), section 3.2, but for a few halves of stages that do not grow with the ranks."""
    assert 0 <= max(most_in_flight("v_half", p, 4 * p)) - p <= 2
    assert 0 <= max(most_in_flight("v_min", p, 4 * p)) - 2 * p / 3 <= 3


@pytest.mark.parametrize("p", [4, 8, 16])
def test_v_half_waits_half_and_v_min_two_thirds_of_1f1b_with_the_memory_of_their_table(p: int) -> None:
    """sail-sg's table for arXiv:2405.15362, where all phases take as long: bubbles p / 2m and 2p / 3m beside p / m, (p + 2) // 2 and
    (p + 4) // 3 micro_batches of a whole stage."""
    takes, wholly = {Phase.F: 1, Phase.I: 1, Phase.W: 1}, idle("1f1b", p, 4 * p, {Phase.F: 2, Phase.B: 4})
    for name, share, most in (("v_half", 1 / 2, (p + 2) // 2), ("v_min", 2 / 3, (p + 4) // 3)):
        assert share * wholly - 6 <= idle(name, p, 4 * p, takes) <= share * wholly  # of 6 m slots of work
        assert max(most_in_flight(name, p, 4 * p)) == 2 * most


@pytest.mark.parametrize("p", [1, 2, 3, 4, 6, 7])
@pytest.mark.parametrize("blocks", [VHalf(), VMin()], ids=["half", "min"])
def test_further_micro_batches_pass_as_those_in_the_middle_do(blocks: BuildingBlocks, p: int) -> None:
    for m in (2 * p + 3, 3 * p + 5):
        whole = reorder([[[*range(start, start + 6 * m, 6)] for start in blocks.slots(rank, p)] for rank in range(p)])
        for rank, slots in enumerate(whole):
            kinds = np.repeat(range(5), [m, m, m, m, 2 * m])[np.argsort(np.concatenate(slots))]
            stage, phase, _ = blocks.arrays(rank, p, 2, m)
            assert np.where(phase == 2, 4, 2 * phase + ((phase == 1) ^ (stage != rank))).tolist() == kinds.tolist()


def test_less_memory_costs_time() -> None:
    takes = {Phase.F: 1, Phase.I: 1, Phase.W: 1}
    assert 0 == idle("zero_bubble_v", 8, 32, takes) < idle("v_half", 8, 32, takes) < idle("1f1b", 8, 32, {Phase.F: 2, Phase.B: 4})


def zero_bubble_v(rank: int, p: int, count: int) -> Iterator[Action]:
    """The text of pytorch's ScheduleZBVZeroBubble, by counters."""
    down, up, total = rank, 2 * p - 1 - rank, max(2 * p - 1, count)
    f0 = f1 = b0 = b1 = w0 = w1 = 0
    for _ in range(2 * (p - rank) - 1):
        yield Action(down, Phase.F, f0)
        f0 += 1
    for _ in range(rank):
        yield from (Action(up, Phase.F, f1), Action(down, Phase.F, f0))
        f0, f1 = f0 + 1, f1 + 1
    for _ in range(p - rank):
        yield from (Action(up, Phase.F, f1), Action(up, Phase.I, b1), Action(up, Phase.W, b1))
        f1, b1, w1 = f1 + 1, b1 + 1, w1 + 1
    while f1 < f0 or f0 < total:
        if f0 < total:
            yield Action(down, Phase.F, f0)
            f0 += 1
        yield from (Action(down, Phase.I, b0), Action(down, Phase.W, b0))
        yield from (Action(up, Phase.F, f1), Action(up, Phase.I, b1), Action(up, Phase.W, b1))
        b0, w0, f1, b1, w1 = b0 + 1, w0 + 1, f1 + 1, b1 + 1, w1 + 1
    for _ in range(rank):
        yield from (Action(down, Phase.I, b0), Action(up, Phase.I, b1))
        b0, b1 = b0 + 1, b1 + 1
    for _ in range(p - rank):
        yield from (Action(down, Phase.I, b0), Action(down, Phase.W, w0))
        b0, w0 = b0 + 1, w0 + 1
    yield from (Action(up, Phase.W, m) for m in range(w1, b1))
    yield from (Action(down, Phase.W, m) for m in range(w0, b0))


@pytest.mark.parametrize(("p", "m"), [(1, 1), (2, 1), (3, 4), (4, 7), (4, 16), (8, 9)])
def test_the_order_of_zb_v_is_that_of_torch(p: int, m: int) -> None:
    for rank, actions in enumerate(actions_of("zero_bubble_v", p, 2, m)):
        assert actions == [each for each in zero_bubble_v(rank, p, m) if each.micro_batch < m]


def test_the_order_of_dual_pipe_v_on_the_ends_of_the_v() -> None:
    """torch's ScheduleDualPipeV step by step for 2 ranks and 4 micro_batches, each whole backward as its halves."""
    first, last = (" ".join(map(str, actions)) for actions in actions_of("dual_pipe_v", 2, 2, 4))
    assert first == "0F0 0F1 0F2 3F0 3I0 3W0 3F1 0F3 3I1 3W1 3F2 0I0 0W0 3I2 3W2 3F3 0I1 0W1 3I3 3W3 0I2 0W2 0I3 0W3"
    assert last == "1F0 2F0 1F1 2F1 1F2 2I0 2W0 2F2 1I0 1W0 1F3 2I1 2W1 2F3 1I1 1W1 2I2 2W2 1I2 1W2 2I3 1I3 2W3 1W3"


def test_the_order_of_dual_pipe_on_a_pair_of_ranks() -> None:
    """deepseek-ai/DualPipe, dualpipe.py, its steps 2, 4, 6 and 8 for 2 ranks and 4 chunks; stages 2 and 3 are those of the second copy."""
    first, last = (" ".join(map(str, actions)) for actions in actions_of("dual_pipe", 2, 2, 2))
    assert first == "0F0 3F0 0F1 3I0 3W0 3F1 0I0 0W0 3I1 3W1 0I1 0W1"
    assert last == "2F0 1F0 2F1 1I0 1W0 1F1 2I0 2W0 1I1 1W1 2I1 2W1"


def step(p: int, m: int, takes: dict[Phase, int]) -> int:
    """What DualPipe takes where messages take no time, and a pair as long as its parts."""
    found, loops = rounds("dual_pipe", p, 2, m)
    every = sum(takes.values())
    spans = np.array([each for each in takes.values() for _ in range(2 * p)] + [every] * len(found.pairs) + [0])[:, None]
    return int(fold(found, np.array([loops]), spans, spans * 0, spans * 0).ends.max())


def blocks_of_dual_pipe(rank: int, p: int, m: int) -> list[list[Action]]:
    """The actions of a rank as its code runs them: a forward beside a backward, and whole backwards, take and give at their ends only."""
    near, actions = min(rank, p - 1 - rank), iter(actions_of("dual_pipe", p, 2, m)[rank])
    waits, main = p // 2 - near - 1, m - p + near + 1
    sizes = [1] * (p + 3 * waits) + [3] * 2 * main + [2, 3] * waits + [2] * (near + 1) + [1] * 2 * (near + 1 + waits)
    found = [[next(actions) for _ in range(size)] for size in sizes]
    assert not [*actions]
    return found


@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 4), (4, 8), (6, 6), (8, 16)])
@pytest.mark.parametrize(("f", "i", "w"), [(1, 1, 1), (2, 3, 1), (10, 12, 9)])
def test_dual_pipe_waits_and_holds_what_its_paper_says(p: int, m: int, f: int, i: int, w: int) -> None:
    """DeepSeek-AI 2024, table 2: a bubble of (PP / 2 - 1)(F&B + B - 3W), PP + 1 micro_batches in flight, where F&B takes F + B.

    Where I hands its result on before W outside of pairs, as where parsim runs it, ranks wait less.
    """
    takes = {Phase.F: f, Phase.I: i, Phase.W: w}
    todo = [blocks_of_dual_pipe(rank, p, m) for rank in range(p)]
    end, free, place = dict[Action, int](), [0] * p, [0] * p
    while any(place[rank] < len(todo[rank]) for rank in range(p)):
        for rank in range(p):
            for block in todo[rank][place[rank] :]:
                wants = {each for action in block for each in needs(action, p)}.difference(block)
                if not wants <= end.keys():
                    break
                free[rank] = max([free[rank], *(end[each] for each in wants)]) + sum(takes[action.phase] for action in block)
                end |= dict.fromkeys(block, free[rank])
                place[rank] += 1
    b = i + w
    assert max(free) - 2 * m * (f + b) == (p // 2 - 1) * ((f + b) + b - 3 * w) >= step(p, m, takes) - 2 * m * (f + b)
    assert most_in_flight("dual_pipe", p, m) == [p + 1] * p


def test_shapes_that_they_refuse_are_said() -> None:
    assert fault("dual_pipe", 3, 1) == "schedule 'dual_pipe' pairs the ranks of a pipeline, but pipeline_parallel = 3"
    assert "runs one chunk of each of its two copies of the model a rank, but virtual_pipeline = 2" in str(fault("dual_pipe", 4, 2))
    assert "needs as many micro batches as ranks, 4, for each of two copies of the model, not 3" in str(fault("dual_pipe", 4, 1, 3))
    assert fault("zero_bubble_v", 4, 1) == "schedule 'zero_bubble_v' runs two chunks of the model a rank: virtual_pipeline = 2, not 1"
    assert "needs as many micro batches as stages, 8, but a replica has 7" in str(fault("dual_pipe_v", 4, 2, 7))


class Hasty(ZeroBubbleV):
    """The mutant: the first backward of weights two actions late."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        held = super().arrays(rank, num_ranks, chunks, num_micro_batches)
        place = int(np.argmax(held[1] == self.phases.index(Phase.W)))
        order = [*range(place), place + 1, place + 2, place, *range(place + 3, held.shape[1])]
        return held[:, order]


class Alone(DualPipe):
    """The mutant: a copy that takes in as many micro_batches at first as if it had the ranks for itself."""

    def arrays(self, rank: int, num_ranks: int, chunks: int, num_micro_batches: int) -> Ints:
        held = super().arrays(rank, num_ranks, chunks, num_micro_batches)
        return held[:, np.argsort(held[1] > 0, kind="stable")]


class Slow(VHalf):
    """The mutant: a backward one period later."""

    def slots(self, rank: int, num_ranks: int) -> tuple[int, int, int, int]:
        first, second, third, fourth = super().slots(rank, num_ranks)
        return first, second, third + 6, fourth + 6


def test_weights_late_and_backward_late_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCHEDULES, "_values", {**SCHEDULES._values, "hasty": Hasty(), "slow": Slow(), "alone": Alone()})
    monkeypatch.setitem(CHUNKS, "alone", 2)
    monkeypatch.setitem(CHUNKS, "hasty", 2)
    monkeypatch.setitem(CHUNKS, "slow", 2)
    assert most_in_flight("hasty", 4, 16) != [8] * 4 or idle("hasty", 4, 16, {Phase.F: 1, Phase.I: 1, Phase.W: 1}) > 0
    assert max(most_in_flight("slow", 16, 64)) - 16 > 2
    assert most_in_flight("alone", 4, 8) != [5] * 4
