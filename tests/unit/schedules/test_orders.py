"""Each registered order, stated in closed form there, against loops that are written out after its paper here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from parsim.schedules import Action, Phase, fault
from schedule_orders import actions_of

SHAPES = [(p, v, m) for p in (1, 2, 3, 4, 8) for v in (1, 2, 3) for m in {1, 2, 3, p, 2 * p, 5 * p}]


def gpipe(rank: int, p: int, v: int, count: int) -> Iterator[Action]:
    """All forwards, then all backwards, the last first: Huang et al. 2019, figure 2."""
    yield from (Action(rank, Phase.F, m) for m in range(count))
    yield from (Action(rank, Phase.B, m) for m in reversed(range(count)))


def one_f_one_b(rank: int, p: int, v: int, count: int) -> Iterator[Action]:
    """Warm-up, steady state, cool-down: Narayanan et al. 2021, section 2.2.1."""
    warm_up = min(p - 1 - rank, count)
    yield from (Action(rank, Phase.F, m) for m in range(warm_up))
    for m in range(count - warm_up):
        yield Action(rank, Phase.F, warm_up + m)
        yield Action(rank, Phase.B, m)
    yield from (Action(rank, Phase.B, m) for m in range(count - warm_up, count))


def zero_bubble_h1(rank: int, p: int, v: int, count: int) -> Iterator[Action]:
    """1F1B's warm-up; then a forward, a backward of inputs, and the backward of weights that is `rank` behind: Qi et al. 2023."""
    ahead = p - 1 - rank
    yield from (Action(rank, Phase.F, m) for m in range(min(ahead, count)))
    for m in range(count + rank):
        if m + ahead < count:
            yield Action(rank, Phase.F, m + ahead)
        if m < count:
            yield Action(rank, Phase.I, m)
        if m >= rank:
            yield Action(rank, Phase.W, m - rank)


def breadth_first(rank: int, p: int, v: int, count: int) -> Iterator[Action]:
    """Chunk by chunk: Lamy-Poirier 2023."""
    stages = range(rank, p * v, p)
    yield from (Action(stage, Phase.F, m) for stage in stages for m in range(count))
    yield from (Action(stage, Phase.B, m) for stage in reversed(stages) for m in range(count))


def interleaved(rank: int, p: int, v: int, count: int) -> Iterator[Action]:
    """Forward k is chunk (k // p) % v, backward the other way: Narayanan et al. 2021, section 2.2.2; the warm-up is that of torch's
    `_get_warmup_ops`, (v - 1) p on the last rank and two for each rank before it."""
    total = count * v
    warm_up = min(2 * (p - 1 - rank) + (v - 1) * p, total)

    def forward(k: int) -> Action:
        return Action(k // p % v * p + rank, Phase.F, k // (p * v) * p + k % p)

    def backward(k: int) -> Action:
        return Action((v - 1 - k // p % v) * p + rank, Phase.B, k // (p * v) * p + k % p)

    yield from map(forward, range(warm_up))
    for k in range(total - warm_up):
        yield forward(warm_up + k)
        yield backward(k)
    yield from map(backward, range(total - warm_up, total))


ORDERS: dict[str, Callable[[int, int, int, int], Iterator[Action]]] = {
    "1f1b": one_f_one_b,
    "breadth_first": breadth_first,
    "gpipe": gpipe,
    "interleaved_1f1b": interleaved,
    "zero_bubble_h1": zero_bubble_h1,
}


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_is_that_of_its_paper(name: str) -> None:
    shapes = [shape for shape in SHAPES if fault(name, *shape) is None]
    assert shapes
    for p, v, m in shapes:
        assert actions_of(name, p, v, m) == [list(ORDERS[name](rank, p, v, m)) for rank in range(p)]


def test_interleaving_alternates_where_micro_batches_are_as_many_as_ranks() -> None:
    """Megatron Core since 0.10 and torch; Megatron-LM before ran all forwards first."""
    by_rank = [" ".join(map(str, actions)) for actions in actions_of("interleaved_1f1b", 2, 2, 2)]
    assert by_rank == ["0F0 0F1 2F0 2F1 2B0 2B1 0B0 0B1", "1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1"]


def test_another_order_is_seen() -> None:
    assert actions_of("gpipe", 2, 1, 3) != [list(one_f_one_b(rank, 2, 1, 3)) for rank in range(2)]
