"""The rules that live in one place can fail, and each is noticed: by `verify`, by step.check, or by arithmetic on the page.

estimate, simulate and execute only interpret tasks, so what all three believe needs a witness outside them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from msgspec.structs import replace

from made_up import mixture, registered
from parsim.cost import count, timing, workload
from parsim.cost.count import state_bytes
from parsim.cost.sizes import Sizes, Table
from parsim.errors import ScheduleError
from parsim.estimator import memory
from parsim.estimator.estimate import estimate, stages_of
from parsim.executor import bind
from parsim.executor import program as walked
from parsim.executor.run import execute
from parsim.model.dims import COMPUTE
from parsim.model.families.mlp import MlpSpec
from parsim.parallel.group import Group
from parsim.parallel.plan import Batch, Plan
from parsim.schedules.phase import SPLIT, WHOLE
from parsim.simulator import transfers
from parsim.step import check, finish, lower, program, split
from parsim.step.structure import Structure
from parsim.step.task import COMPUTE_STREAM, Collective, HostCopy, Task
from parsim.verify import verify_plan
from parsim_kernels import Machine
from support import GPT, STACKS, forget_steps, scenario, with_features

Patch = Callable[[pytest.MonkeyPatch], None]


def _without(name: str) -> Patch:
    """The end of a step lacks the tasks of this name."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = lower.finish
        patch.setattr(lower, "finish", lambda *args: [task for task in right(*args) if task.name != name])

    return mutate


def _gradient_buckets_in_bf16(patch: pytest.MonkeyPatch) -> None:
    right = program.replica_sums

    def replica_sums(*args, **facts):  # type: ignore[no-untyped-def]
        for each in right(*args, **facts):
            wrong = replace(each.source, dtype=COMPUTE)
            yield replace(each, source=wrong, frees=(wrong,))

    patch.setattr(program, "replica_sums", replica_sums)
    patch.setattr(program, "whole_gradients", lambda *args: replace(finish.whole_gradients(*args), dtype=COMPUTE))


def _master_weights_of_two_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory, "state_bytes", lambda structure, sizes: state_bytes(structure, sizes) - 2)


def _nothing_closes(patch: pytest.MonkeyPatch) -> None:
    right = workload.pass_of
    patch.setattr(workload, "pass_of", lambda *args, **facts: right(*args, **{**facts, "closes": False}))


def _no_sums_inside_the_replicas(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(finish, "_partial_axes", lambda *args: ([], []))


def _norms_of_one_stage(patch: pytest.MonkeyPatch) -> None:
    right = finish._norm_axes
    patch.setattr(finish, "_norm_axes", lambda *args: tuple(axis for axis in right(*args) if axis != "pp"))


def _swapped_micro_batches(patch: pytest.MonkeyPatch) -> None:
    """On the last rank the first two micro_batches change places in their backwards."""
    right = walked.columns

    def columns(*shape):  # type: ignore[no-untyped-def]
        found = right(*shape)
        mine = (found.rank == 1) & (found.phase == 1) & (found.micro_batch < 2)
        return replace(found, micro_batch=np.where(mine, 1 - found.micro_batch, found.micro_batch))

    patch.setattr(walked, "columns", columns)


VERIFIED: dict[str, tuple[Patch, tuple[str, ...], int, str]] = {
    "a gather too few": (_without("gather_weights"), ("zero1",), 0, "updated weights"),
    "a broadcast too few": (_without("share_weights"), ("master",), 0, "updated weights"),
    "a sum over replicas dropped": (_without("data_parallel_gradients"), ("dp",), 0, "weight gradients"),
    "a sum over replicas beside the passes dropped": (_nothing_closes, ("dp",), 1, "weight gradients"),
    "a sum of partial gradients dropped": (_no_sums_inside_the_replicas, ("sp",), 0, "weight gradients"),
    "a norm of one stage": (_norms_of_one_stage, ("pp",), 0, "updated weights"),
    "a wrong bucket dtype": (_gradient_buckets_in_bf16, ("zero2",), 0, "peak bytes"),
    "master weight bytes": (_master_weights_of_two_bytes, ("dp",), 0, "peak bytes"),
}


@pytest.mark.parametrize(("mutate", "features", "stack", "quantity"), VERIFIED.values(), ids=VERIFIED)
def test_verify_notices(mutate: Patch, features: tuple[str, ...], stack: int, quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, plan = with_features(features, STACKS[stack])
    assert quantity not in red(chosen, plan)
    forget_steps()
    mutate(monkeypatch)
    assert quantity in red(chosen, plan)


def red(chosen, plan) -> set[str]:  # type: ignore[no-untyped-def]
    with np.errstate(all="ignore"):
        return {each.quantity for each in verify_plan(chosen, plan, "toy") if not each.ok}


def test_verify_notices_f_and_b_of_two_micro_batches_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPipe's backwards may run in either order, so nothing waits for ever; but not in the order that was priced."""
    chosen, plan = scenario(batch=Batch(4, 8)), Plan(pipeline_parallel=2, schedule="gpipe")
    assert not red(chosen, plan)
    _swapped_micro_batches(monkeypatch)
    assert "picoseconds, virtual clocks and simulate" in red(chosen, plan)


def _dropped_send(patch: pytest.MonkeyPatch) -> None:
    right = program.send_tasks
    patch.setattr(program, "send_tasks", lambda step, last, phase: () if phase is WHOLE[1] else right(step, last, phase))


def _stage_on_another_rank(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(workload.Workload, "rank_of", lambda self, stage: (stage + 1) % self.num_ranks)


@pytest.mark.parametrize("mutate", [_dropped_send, _stage_on_another_rank])
def test_ranks_that_wait_for_a_message_that_nobody_sends_them_are_named(mutate: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, plan = scenario(model=replace(GPT, num_layers=3), batch=Batch(4, 8)), Plan(pipeline_parallel=3)
    assert not red(chosen, plan)
    mutate(monkeypatch)
    with pytest.raises(ScheduleError, match=r"ranks wait for one another: rank \d at MessageNeed"):
        red(chosen, plan)


def _frees_moved(by: int) -> Patch:
    """Each buffer that dies inside a list dies one task earlier, or later."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = lower.with_frees

        def with_frees(*args):  # type: ignore[no-untyped-def]
            tasks = right(*args)
            moved: list[list[object]] = [[] for _ in tasks]
            for index, task in enumerate(tasks):
                moved[min(max(index + by, 0), len(tasks) - 1)] += task.frees
            return tuple(replace(task, frees=tuple(frees)) for task, frees in zip(tasks, moved, strict=True))

        patch.setattr(lower, "with_frees", with_frees)

    return mutate


def _another_group_for_one_weight(patch: pytest.MonkeyPatch) -> None:
    right = lower._weight

    def weight(block, name, *rest, **told):  # type: ignore[no-untyped-def]
        found = right(block, name, *rest, **told)
        return replace(found, group=Group(("tp",))) if name == "up.weight" else found

    patch.setattr(lower, "_weight", weight)


def _host_copies_on_the_compute_stream(patch: pytest.MonkeyPatch) -> None:
    right = lower.finish

    def moved(task: Task) -> Task:
        return replace(task, stream=COMPUTE_STREAM) if isinstance(task, HostCopy) else task

    patch.setattr(lower, "finish", lambda *args: map(moved, right(*args)))


def _one_buffer_for_two_gradients(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(split, "_APART", "")


CHECKED: dict[str, tuple[Patch, tuple[str, ...], str]] = {
    "a free too early": (_frees_moved(-1), (), "which is not there"),
    "a free too late": (_frees_moved(1), (), "late, which it does not use"),
    "a wrong group for one weight": (
        _another_group_for_one_weight,
        ("dp",),
        "up.weight is replicated over 'tp', but",
    ),
    "a host copy on the compute stream": (_host_copies_on_the_compute_stream, ("offload",), "gradients_to_host runs on stream 'compute'"),
    "a gradient that W reads is changed by I": (_one_buffer_for_two_gradients, ("zbh1",), "makes d_y twice"),
}


@pytest.mark.parametrize(("mutate", "features", "fault"), CHECKED.values(), ids=CHECKED)
def test_step_check_notices(mutate: Patch, features: tuple[str, ...], fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not faults(features)
    forget_steps()
    mutate(monkeypatch)
    assert any(fault in each for each in faults(features))


def faults(features: tuple[str, ...]) -> list[str]:
    chosen, plan = with_features(features, STACKS[0])
    model = replace(chosen.model, dropout=0.0)  # so that weight gradients read what the residual's gradient is added to
    step = lower.lower(Structure.of(model, chosen.batch, plan, chosen.stack))
    return [fault for phases in (WHOLE, SPLIT) for fault in check.faults(step, phases)]


def test_arithmetic_notices_gradients_that_are_summed_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three readers would believe it."""
    model = replace(GPT, tied_embedding=False, vocab_size=64)
    layer = 4 * 12 + 4 * 192 + 3 * 16 + 12 + 2 * 192 + 16 + 12  # norms; q, k, v, out and their biases; up, down and theirs
    weights = GPT.num_layers * layer + 2 * 64 * 12 + 8 * 12 + 2 * 12

    def sent_bytes() -> int:
        return estimate(scenario(model=model), Plan(data_parallel=2)).sent_bytes[0]["dp"]

    assert sent_bytes() == weights * 4  # once round a ring of two
    forget_steps()
    monkeypatch.setattr(finish, "GRADIENT", COMPUTE)
    assert sent_bytes() == weights * 2


def _swapped_chunks(patch: pytest.MonkeyPatch) -> None:
    """The first rank lays the two parts that it is sent in the wrong order."""
    right = Machine.communicate

    def communicate(self, operation, axis, group, sources, target, transfers, **options):  # type: ignore[no-untyped-def]
        right(self, operation, axis, group, sources, target, transfers, **options)
        if operation == "all_to_all":
            found = self.get(group[0], target)
            found[...] = np.concatenate(np.split(found, len(group), axis=options["dim"])[::-1], axis=options["dim"])

    patch.setattr(Machine, "communicate", communicate)


def _one_unit_less(patch: pytest.MonkeyPatch) -> None:
    right = Sizes._of_table
    patch.setattr(Sizes, "_of_table", lambda self, cut, axis: right(self, cut, axis) - 1)


def _priced_by_the_least(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Table, "worst", property(lambda self: np.argmin(self.parts, axis=1)))


@pytest.mark.parametrize(("mutate", "dimension"), [(_swapped_chunks, "exchange_parallel"), (_one_unit_less, "uneven_ffn")])
def test_verify_notices_a_wrong_chunk_and_a_wrong_extent(
    mutate: Patch, dimension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registered(tmp_path, monkeypatch) as package:
        model = mixture(package) if dimension == "exchange_parallel" else GPT
        chosen, plan = scenario(model=model, batch=Batch(8, 4)), Plan(dimensions=((dimension, 2),))
        assert not red(chosen, plan)
        mutate(monkeypatch)
        assert {"weight gradients", "loss"} <= red(chosen, plan)


def test_a_price_of_the_rank_that_has_least_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(tmp_path, monkeypatch):
        steps_s = []
        for mutate in (lambda patch: None, _priced_by_the_least):
            mutate(monkeypatch)
            steps_s.append([estimate(scenario(), Plan(dimensions=((name, 2),))).step_s for name in ("uneven_ffn", "ffn_parallel")])
        (worst_s, even_s), (least_s, _) = steps_s
        assert least_s < even_s < worst_s  # 6, 8 and 10 of 16 units


def _chunks(change: Callable[[np.ndarray], np.ndarray | None], reader: ModuleType, name: str = "chunks_of") -> Patch:
    """A reader is told other chunks of a tensor that a table cuts."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        right = getattr(reader, name)
        patch.setattr(reader, name, lambda *asked: None if (found := right(*asked)) is None else change(found))

    return mutate


def _next(chunks: np.ndarray) -> np.ndarray:
    return np.roll(chunks, 1, axis=-1)


def _equal(chunks: np.ndarray) -> None:
    return None


def _swapped(chunks: np.ndarray) -> np.ndarray:
    return chunks.swapaxes(1, 2) if chunks.ndim > 2 else chunks


def _unlike(package: str, kind: str):  # type: ignore[no-untyped-def]
    """A stream of 1, 5 and 2 of 8 tokens; 1, 0 and 4 of 5 experts."""
    on = {"stream": ("ffn_of_stream", "dealt_stream"), "experts": ("samples_of_experts", "dealt_experts")}[kind]
    rows = MlpSpec(name="rows", num_layers=2, hidden_size=6, ffn_hidden_size=6, num_features=5, num_labels=3)
    model = rows if kind == "stream" else mixture(package, ffn_hidden_size=6, num_experts=5)
    return scenario(model=model, batch=Batch(12, 8)), Plan(dimensions=((on[0], 3), (on[1], 1)))


@pytest.mark.parametrize("kind", ["stream", "experts"])
@pytest.mark.parametrize("change", [_next, _equal])
@pytest.mark.parametrize(("reader", "quantity"), [(count, "bytes sent over {}"), (transfers, "bytes sent over {}, simulated")])
def test_verify_notices_chunks_that_are_the_next_ones_or_all_alike(
    reader: ModuleType,
    quantity: str,
    change: Callable[[np.ndarray], np.ndarray],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with registered(tmp_path, monkeypatch) as package:
        chosen, plan = _unlike(package, kind)
        assert not red(chosen, plan)
        _chunks(change, reader)(monkeypatch)
        assert red(chosen, plan) == {quantity.format("st" if kind == "stream" else "ex")}


def test_arithmetic_notices_chunks_whose_source_and_destination_are_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to the experts comes back, so a step sends the same bytes; not so one exchange."""
    with registered(tmp_path, monkeypatch) as package:
        stages = stages_of(*_unlike(package, "experts"))
        there = next(task for task in stages.workload.step.segments["layer"].phases[WHOLE[0]] if isinstance(task, Collective))

        def sent() -> list[int]:
            each = (count.sent_bytes(there, stages.workload.sizes.at({"ex": rank}), stages.workload.model, rank) for rank in range(3))
            return [int(found[0]) for found in each]

        rows = [8 * 6 * 2 * (5 - own) for own in (1, 0, 4)]  # tokens x hidden x bf16, of a sample, for the experts of others
        assert sent() == rows
        for change in (_next, _equal, _swapped):
            with monkeypatch.context() as patch:
                _chunks(change, count)(patch)
                assert sent() != rows


def test_a_price_of_equal_chunks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(tmp_path, monkeypatch) as package:
        for kind in ("stream", "experts"):
            chosen, plan = _unlike(package, kind)
            worst_s = estimate(chosen, plan).step_s
            with monkeypatch.context() as patch:
                _chunks(_equal, timing)(patch)
                assert estimate(chosen, plan).step_s < worst_s


def test_parts_of_other_extents_than_the_tables_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registered(tmp_path, monkeypatch) as package:
        for kind, change in product(("stream", "experts"), (_next, _equal)):
            chosen, plan = _unlike(package, kind)
            with monkeypatch.context() as patch:
                _chunks(change, bind, "extents_of")(patch)
                with pytest.raises(ValueError, match=r"ranks do not divide dim|shape|dim E is \d in one operand and \d in another"):
                    execute(chosen, plan)
