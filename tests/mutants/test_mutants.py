"""The checks can fail: each wrong formula below turns `verify` red, and names the quantity that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import schedules
from parsim.collectives.ring import Ring
from parsim.cost import count
from parsim.cost.sizes import Sizes
from parsim.estimator import lists, passes, pipeline, totals
from parsim.executor import calls, values
from parsim.model import op_kinds
from parsim.step import lower, place
from parsim.step.task import Send
from parsim.verify import verify_plan
from support import STACKS, forget_steps, with_features

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    """A lowered Step is cached; a mutant must neither find an old one nor leave one behind."""
    forget_steps()
    yield
    forget_steps()


def _half_einsum_flops(patch: pytest.MonkeyPatch) -> None:
    right = count.flops
    patch.setattr(totals, "flops", lambda task, *rest: right(task, *rest) // (2 if task.kernel == "einsum" else 1))


def _free_elementwise(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(op_kinds.COSTS, "gelu", op_kinds.Cost(0))


def _ring_sends_all_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        Ring, "sent_elements", lambda self, operation, rank, n, elements, *chunks: elements * (2 if operation == "all_reduce" else 1)
    )


def _nothing_is_freed(patch: pytest.MonkeyPatch) -> None:
    right = lists._lives
    patch.setattr(lists, "_lives", lambda tasks, known, sizes: right([replace(task, frees=()) for task in tasks], known, sizes))


def _one_micro_batch_less_in_flight(patch: pytest.MonkeyPatch) -> None:
    right = schedules.state_columns

    def states(*shape):  # type: ignore[no-untyped-def]
        found = right(*shape)
        return replace(found, in_flight=np.maximum(found.in_flight - 1, 0))

    patch.setattr(schedules, "state_columns", states)


def _no_partial_sums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(place, "mesh_axes", tuple)  # a contraction over a sharded dim leaves nothing to reduce


def _lost_tied_gradient(patch: pytest.MonkeyPatch) -> None:
    right = lower.finish
    patch.setattr(lower, "finish", lambda *args: [task for task in right(*args) if task.name != "tied_embedding_gradients"])


def _another_mask_when_recomputed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(values, "AGAIN", "@never")


def _every_shard_starts_at_row_0(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sizes, "start", lambda self, sharding, dim: self.zero)


def _norm_counts_replicated_weights_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(calls._WeightKernel, "norm_scale", lambda self: 1.0)


def _free_messages(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline.Stages, "send_ps", lambda self, stage, phase: self.workload.sizes.zero)


def _seconds_rounded_twice(patch: pytest.MonkeyPatch) -> None:
    right = passes.task_ps
    patch.setattr(passes, "task_ps", lambda *args: right(*args) // 7 * 7)


def _boundary_forgets_scatter(patch: pytest.MonkeyPatch) -> None:
    right = totals.sent_over

    def sent_over(task, sizes, *rest):  # type: ignore[no-untyped-def]
        return [("pp", sum(map(sizes.num_bytes, task.sources)))] if isinstance(task, Send) else right(task, sizes, *rest)

    patch.setattr(totals, "sent_over", sent_over)


def _ring_keeps_its_last_message(patch: pytest.MonkeyPatch) -> None:
    right = Ring.transfers

    def transfers(self, operation, num_ranks, operator):  # type: ignore[no-untyped-def]
        return iter(list(right(self, operation, num_ranks, operator))[:-1])

    patch.setattr(Ring, "transfers", transfers)


MUTANTS: list[tuple[Patch, tuple[str, ...], int, str]] = [
    (_half_einsum_flops, ("tp",), 0, "FLOPs"),
    (_free_elementwise, ("dp",), 0, "FLOPs"),
    (_ring_sends_all_chunks, ("dp", "tp"), 0, "bytes sent over tp"),
    (_nothing_is_freed, ("pp",), 0, "peak bytes"),
    (_one_micro_batch_less_in_flight, ("pp", "vpp"), 0, "peak bytes"),
    (_no_partial_sums, ("dp", "tp"), 0, "weight gradients"),
    (_lost_tied_gradient, ("pp",), 0, "weight gradients"),
    (_another_mask_when_recomputed, ("selective",), 0, "weight gradients"),
    (_every_shard_starts_at_row_0, ("tp",), 0, "loss"),
    (_norm_counts_replicated_weights_twice, ("tp",), 0, "updated weights"),
    (_free_messages, ("pp",), 0, "picoseconds, estimate and simulate"),
    (_seconds_rounded_twice, ("dp",), 0, "picoseconds, estimate and simulate"),
    (_boundary_forgets_scatter, ("tp", "pp"), 1, "bytes sent over pp"),
    (_ring_keeps_its_last_message, ("dp", "tp"), 0, "weight gradients"),
]


@cache
def is_right(features: tuple[str, ...], stack: int) -> bool:
    """Before anything is wrong."""
    return all(check.ok for check in verify_plan(*with_features(features, STACKS[stack]), "right"))


@pytest.mark.parametrize(("mutate", "features", "stack", "quantity"), MUTANTS, ids=[m[0].__name__ for m in MUTANTS])
def test_a_wrong_formula_turns_its_check_red(
    mutate: Patch, features: tuple[str, ...], stack: int, quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, plan = with_features(features, STACKS[stack])
    assert is_right(features, stack)
    forget_steps()
    mutate(monkeypatch)
    with np.errstate(all="ignore"):
        red = {check.quantity for check in verify_plan(chosen, plan, "wrong") if not check.ok}
    assert quantity in red
