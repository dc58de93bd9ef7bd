"""What holds for sequences over ranks of their own, and for kv heads that several ranks hold, can fail, and `verify` notices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import pytest
from msgspec.structs import replace

from parsim.cost import sizes
from parsim.executor import calls
from parsim.parallel.group import Group
from parsim.parallel.plan import Plan
from parsim.step import finish, ring
from parsim.step.task import Collective, Operand, Task
from parsim.verify import verify_plan
from parsim_kernels import attention
from support import GPT, STACKS, enough, forget_steps, scenario

RING = Plan(context_parallel=4, context_kind="ring")
ZIGZAG = Plan(context_parallel=2, context_kind="all_gather")
NESTED = Plan(context_parallel=4, context_group=2, context_kind="ulysses_ring")
COPIES = Plan(tensor_parallel=4)
Patch = Callable[[pytest.MonkeyPatch], None]


def _zigzag_counted_as_contiguous(patch: pytest.MonkeyPatch) -> None:
    right = sizes.causal_pairs
    neighbours = lambda runs: [(place, place + stop - start) for place, (start, stop) in zip((0, 4), runs, strict=False)]  # noqa: E731
    patch.setattr(sizes, "causal_pairs", lambda queries, keys, window: right(neighbours(queries), keys, window))


def _a_turn_dropped(patch: pytest.MonkeyPatch) -> None:
    right = ring.with_turns
    patch.setattr("parsim.step.lower.with_turns", lambda tasks, num_ranks: right(tasks, max(1, num_ranks - 1)))


def _merged_without_a_new_scale(patch: pytest.MonkeyPatch) -> None:
    def merge(o, lse, more, its):  # type: ignore[no-untyped-def]
        o += more
        lse[...] = attention.np.logaddexp(lse, its)

    patch.setattr(attention, "merge", merge)


def _gradients_of_keys_stay_one_rank_short(patch: pytest.MonkeyPatch) -> None:
    """A slice keeps what is there."""
    right = ring._Ring.moves

    def moves(self: ring._Ring, sources: Iterable[Operand], targets: Iterable[Operand], stream: str) -> Iterator[Task]:
        for task in right(self, sources, targets, stream):
            yield task if stream == ring.RING else replace(task, operation="slice")

    patch.setattr(ring._Ring, "moves", moves)


def _blocks_go_to_the_next_rank_of_the_group(patch: pytest.MonkeyPatch) -> None:
    """Which has other heads of the same tokens."""
    right = ring._Ring.of.__func__  # type: ignore[attr-defined]
    inside = classmethod(lambda cls, task, num_ranks: replace(right(cls, task, num_ranks), group=Group(("cp_group",))))
    patch.setattr(ring._Ring, "of", inside)


def _kv_heads_not_summed(patch: pytest.MonkeyPatch) -> None:
    right = finish._sums
    patch.setattr(finish, "_sums", lambda structure, every: (t for t in right(structure, every) if t.name != "kv_head_gradients"))


def _copies_counted_twice_in_the_norm(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls._WeightKernel, "is_copy", False)


def _gradients_not_summed_over_the_sequence(patch: pytest.MonkeyPatch) -> None:
    """cp out of the group, as if each of its ranks had all tokens."""
    right = finish._replica_sums
    without = lambda task: replace(task, group=replace(task.group, axes=task.group.axes[:-1])) if isinstance(task, Collective) else task  # noqa: E731
    patch.setattr(finish, "_replica_sums", lambda structure, every: map(without, right(structure, every)))


def red(plan: Plan) -> set[str]:
    model = replace(GPT, num_layers=1, num_kv_heads=2 if plan == COPIES else 4)
    toy = scenario(model=model, batch=enough(plan), stack=replace(STACKS[0], attention="flash"))
    return {check.quantity for check in verify_plan(toy, plan, "toy") if not check.ok}


red_as_it_is = cache(red)


@pytest.mark.parametrize(
    ("mutate", "plan", "quantity"),
    [
        (_zigzag_counted_as_contiguous, ZIGZAG, "FLOPs"),
        (_a_turn_dropped, RING, "weight gradients"),
        (_merged_without_a_new_scale, RING, "loss"),
        (_gradients_of_keys_stay_one_rank_short, RING, "weight gradients"),
        (_blocks_go_to_the_next_rank_of_the_group, NESTED, "loss"),
        (_zigzag_counted_as_contiguous, NESTED, "FLOPs"),
        (_gradients_not_summed_over_the_sequence, NESTED, "weight gradients"),
        (_kv_heads_not_summed, COPIES, "weight gradients"),
        (_copies_counted_twice_in_the_norm, COPIES, "updated weights"),
        (_gradients_not_summed_over_the_sequence, replace(ZIGZAG, data_parallel=2), "weight gradients"),
    ],
)
def test_verify_notices(mutate: Patch, plan: Plan, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not red_as_it_is(plan)
    forget_steps()
    mutate(monkeypatch)
    assert quantity in red(plan)
