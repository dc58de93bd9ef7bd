"""The fold of many plans at once against each action of each plan by itself, whatever the schedule, durations and number of loops."""

from __future__ import annotations

import numpy as np
import pytest

from parsim import schedules
from parsim.cluster.scalars import Ints
from parsim.errors import ScenarioError
from parsim.estimator import fold as module
from parsim.estimator.fold import Passes, fold
from parsim.schedules import steady

SHAPES = [(1, 1), (2, 1), (4, 1), (5, 1), (2, 2), (3, 2), (4, 2), (3, 3)]


def one_by_one(
    name: str, shape: tuple[int, int], count: int, spans: list[int], sends: list[int], late: list[int], far: list[int]
) -> Passes:
    """A plan's actions in an order in which they can run, each after its rank's last and after its message; closing ones are late, and
    some messages on their way for long.
    """
    p, v = shape
    held = schedules.columns(name, p, v, count)
    actions, takes = (held.phase * p * v + held.stage).tolist(), spans_of(held, spans)
    start, end, left, sent, arrival = ([0] * (len(actions) + 1) for _ in range(5))  # the last is what nobody waits for
    flying, starts = [0] * p, [0] * len(spans)
    waits = [*zip(held.before.tolist(), held.awaits.tolist(), held.sent_before.tolist(), held.closes.tolist(), strict=True)]
    for row in np.concatenate(held.levels).tolist():
        before, awaits, _, closes = waits[row]
        start[row] = max(end[before], arrival[awaits])
        end[row] = start[row] + takes[row] + closes * late[actions[row]]
        for each in (row - 1, row) if row and held.ends[row - 1] == row else (row,) if held.ends[row] == row else ():
            left[each] = end[row]  # of a pair, both messages
            sent[each] = max(end[row], sent[waits[each][2]]) + sends[actions[each]]
            arrival[each] = sent[each] + far[actions[each]]
        flying[held.rank[row]] += start[row] - max(end[before], left[awaits])
        if closes:
            starts[actions[row]] = start[row]
    last = np.flatnonzero(np.diff(held.rank, append=p))
    return Passes(np.array(end)[last], np.array(starts), np.array(flying))


def spans_of(held: schedules.Columns, spans: list[int]) -> list[int]:
    """How long each action takes: a pair what it is drawn to where its backward begins, and nothing elsewhere."""
    stages = held.stage.tolist()
    pairs = sorted({(stages[row], stages[row + 1]) for row in np.flatnonzero(held.ends != np.arange(len(stages))).tolist()})
    first = len(held.phases) * (max(stages) + 1)
    actions = (held.phase * (max(stages) + 1) + held.stage).tolist()
    found = [0 if paired else spans[action] for paired, action in zip(held.paired, actions, strict=True)]
    for row in np.flatnonzero(held.ends != np.arange(len(stages))).tolist():
        found[row + 1] = spans[first + pairs.index((stages[row], stages[row + 1]))]
    return found


def drawn(rng: np.random.Generator, name: str, p: int, v: int) -> tuple[Ints, Ints]:
    """Durations of 6 plans: equal stages or none alike, one that is slow or not, messages from none at all to longer than the actions."""
    num_actions, most = len(schedules.find(name, p).phases) * p * v, int(rng.choice([4, 1000, 10**12]))
    spans = rng.integers(1, most, (num_actions, 6))
    sends = rng.integers(0, np.array([1, 1, most // 4, most // 4, most, 3 * most]), (num_actions, 6))
    spans[:, ::2], sends[:, ::2] = spans[:1, ::2], sends[:1, ::2]
    spans[p * v - 1 :: p * v, 3:] += most
    return spans, sends


def check_all(name: str, seed: int = 0) -> int:
    """Compare what plans of different numbers of micro_batches come to, those of the same rounds together; the most loops of one."""
    rng, most = np.random.default_rng(seed), 0
    for p, v in SHAPES:
        legal = [m for m in range(1, 16 * p, 1 + p // 2) if schedules.fault(name, p, v, m) is None]
        v *= schedules.find(name, p).num_copies  # stages of a rank
        spans, sends = drawn(rng, name, p, v)
        groups: dict[schedules.Rounds, list[tuple[int, int, int]]] = {}
        for m in legal:
            rounds, loops = schedules.rounds(name, p, v, m)
            groups.setdefault(rounds, []).append((m, loops, int(rng.integers(6))))
        for rounds, members in groups.items():
            plans = [plan for _, _, plan in members]
            num_pairs = len(rounds.pairs)
            pairs = np.concatenate([rng.integers(1, 3 * spans.max(), (num_pairs, 6)), np.zeros((1, 6), dtype=np.int64)])
            late = rng.integers(0, 1000, spans.shape)
            far = rng.integers(0, [1, 1, 1, spans.max(), 5 * spans.max(), 5 * spans.max()], spans.shape)
            own = np.concatenate([spans, pairs]), *(np.concatenate([each, pairs * 0]) for each in (sends, late, far))
            times = (each[:, plans] for each in own)
            got = fold(rounds, np.array([loops for _, loops, _ in members]), *times, watch=True)
            for place, (m, loops, plan) in enumerate(members):
                expected = one_by_one(name, (p, v), m, *(each[:, plan].tolist() for each in own))
                assert all((one[:, place] == other).all() for one, other in zip(got, expected, strict=True)), (p, v, m)
                most = max(most, loops)
    return most


@pytest.mark.parametrize("name", schedules.names())
def test_a_fold_comes_to_what_the_actions_do_one_by_one(name: str) -> None:
    loops = check_all(name)
    assert loops > 5 or schedules.find(name, 2).steady_rounds is None


@pytest.mark.parametrize("wrong", ["moved", "turned", "places", "first", "late"])
def test_mutants_of_the_fold_are_noticed(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = steady._steady, steady._with_loop, steady._at_length
    match wrong:
        case "moved":  # a rank that moves on is no steady state
            monkeypatch.setattr(module._Run, "has_moved", lambda self, by: by[0] > 0)
        case "turned":  # what is left of a period is forgotten
            monkeypatch.setattr(module, "_run_loops", lambda run, loops: run.every)
        case "late":
            advance = module._Run.advance
            monkeypatch.setattr(
                module._Run, "advance", lambda self, levels: advance(self, [each._replace(closing=None) for each in levels])
            )
        case "places":
            monkeypatch.setattr(steady, "_places", lambda made: 1)
        case "first":  # copies begin one level too soon
            right = steady._copies
            monkeypatch.setattr(steady, "_copies", lambda *args: (found := right(*args)) and found._replace(first=found.first - 1))
    for each in caches:
        each.cache_clear()
    with pytest.raises(AssertionError):
        check_all("interleaved_1f1b")
    for each in caches:
        each.cache_clear()


def test_loops_cost_nothing_once_all_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    right = module._Run.advance
    monkeypatch.setattr(module._Run, "advance", lambda self, levels: (runs.append(len(levels)), right(self, levels))[1])
    rounds, loops = schedules.rounds("1f1b", 4, 1, 10**6)
    spans = np.array([[1, 1, 1, 3] * 2]).T  # the last stage takes longest
    found = fold(rounds, np.array([loops]), spans, spans * 0, spans * 0)
    assert found.ends.max() == 3 + 6 * 10**6 + 3
    assert sum(runs) < 100


def test_a_step_beyond_int64_is_refused() -> None:
    rounds, loops = schedules.rounds("1f1b", 2, 1, 10**6)
    with pytest.raises(ScenarioError, match="the step would take"):
        fold(rounds, np.array([loops]), np.full((4, 1), 10**16), *np.zeros((2, 4, 1), dtype=np.int64))
