"""The checks can fail: each wrong formula below turns `verify` red, and names the quantity that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from parsim import schedules
from parsim.collectives.ring import Ring
from parsim.estimator import group as group_module
from parsim.estimator import pipeline
from parsim.executor import finish as executor_finish
from parsim.executor import job, values
from parsim.model import op_kinds
from parsim.step import count, lower, place, timing
from parsim.verify import verify_plan
from support import STACKS, with_features

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _fresh_steps() -> Iterator[None]:
    """A lowered Step is cached; a mutant must neither find an old one nor leave one behind."""
    lower.lower.cache_clear()
    yield
    lower.lower.cache_clear()


def _half_einsum_flops(patch: pytest.MonkeyPatch) -> None:
    right = count.flops
    patch.setattr(count, "flops", lambda task, sizes: right(task, sizes) // (2 if task.kernel == "einsum" else 1))


def _free_elementwise(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(op_kinds.COSTS, "gelu", op_kinds.Cost(0))


def _ring_sends_all_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ring, "sent_elements", lambda self, operation, rank, n, elements: elements * (2 if operation == "all_reduce" else 1))


def _nothing_is_freed(patch: pytest.MonkeyPatch) -> None:
    right = group_module.lives

    def lives(tasks, entering, sizes):  # type: ignore[no-untyped-def]
        return right([replace(task, frees=()) for task in tasks], entering, sizes)

    patch.setattr(group_module, "lives", lives)


def _one_micro_batch_less_in_flight(patch: pytest.MonkeyPatch) -> None:
    right = schedules.state_columns

    def states(*shape):  # type: ignore[no-untyped-def]
        found = right(*shape)
        return replace(found, in_flight=np.maximum(found.in_flight - 1, 0))

    patch.setattr(schedules, "state_columns", states)


def _no_partial_sums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(place, "mesh_axes", tuple)  # a contraction over a sharded dim leaves nothing to reduce


def _lost_tied_gradient(patch: pytest.MonkeyPatch) -> None:
    right = lower._finish
    patch.setattr(lower, "_finish", lambda *args: [work for work in right(*args) if work.bucket != "tied"])


def _another_mask_when_recomputed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(values, "AGAIN", "@never")


def _every_shard_starts_at_row_0(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job.Job, "offset", lambda self, task, dim, at: 0)


def _norm_counts_replicated_weights_twice(patch: pytest.MonkeyPatch) -> None:
    right = executor_finish._add_norm

    def add(rank, instance, weight):  # type: ignore[no-untyped-def]
        return (*right(rank, instance, weight)[:2], {"scale": 1.0})

    patch.setitem(executor_finish._KERNELS, "norm_sq", add)


def _free_messages(patch: pytest.MonkeyPatch) -> None:
    right = pipeline._Fold.__init__

    def init(self, group, *, charging):  # type: ignore[no-untyped-def]
        right(self, group, charging=charging)
        self.message = self.zero

    patch.setattr(pipeline._Fold, "__init__", init)


def _seconds_rounded_twice(patch: pytest.MonkeyPatch) -> None:
    right = pipeline.finish_ps
    patch.setattr(pipeline, "finish_ps", lambda *args: right(*args) // 7 * 7)


def _boundary_forgets_scatter(patch: pytest.MonkeyPatch) -> None:
    from parsim.estimator import totals

    patch.setattr(totals, "boundary_bytes", lambda step, sizes: sizes.num_bytes(timing.boundary(step)))


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


@pytest.mark.parametrize(("mutate", "features", "stack", "quantity"), MUTANTS, ids=[m[0].__name__ for m in MUTANTS])
def test_a_wrong_formula_turns_its_check_red(
    mutate: Patch, features: tuple[str, ...], stack: int, quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, plan = with_features(features, STACKS[stack])
    assert all(check.ok for check in verify_plan(chosen, plan, "right"))
    lower.lower.cache_clear()
    mutate(monkeypatch)
    with np.errstate(all="ignore"):
        red = {check.quantity for check in verify_plan(chosen, plan, "wrong") if not check.ok}
    assert quantity in red
