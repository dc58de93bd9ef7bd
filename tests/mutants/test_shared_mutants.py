"""What prediction and execution share, both believe: each fault of it below meets a witness of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cost import count, gemms, timing, workload
from parsim.estimator.estimate import estimate
from parsim.model import dims
from parsim.model.op_kinds import COSTS
from parsim.parallel.optimizer import OPTIMIZERS, Optimizer
from parsim.parallel.plan import Batch, Plan
from parsim.schedules import SCHEDULES
from parsim.step import lower
from parsim.step.task import Collective, Launches, Send, Task
from parsim.verify import verify_plan
from parsim_kernels import KERNELS, machine
from parsim_kernels.signature import Array
from price_by_hand import differences
from schedule_orders import as_text
from support import GPT, STACK, forget_steps, scenario, with_features

Patch = Callable[[pytest.MonkeyPatch], None]


def red(features: tuple[str, ...]) -> set[str]:
    with np.errstate(all="ignore"):
        return {each.quantity for each in verify_plan(*with_features(features, STACK), "toy") if not each.ok}


def _twice_the_hbm_bytes(patch: pytest.MonkeyPatch) -> None:
    right = count.hbm_bytes
    patch.setattr(count, "hbm_bytes", lambda *args: 2 * right(*args))


def _a_megabyte_an_element(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Optimizer, "moved_bytes", lambda self, weight_bytes, gradient_bytes: 10**6)


def _frees_at_the_end_of_a_pass(patch: pytest.MonkeyPatch) -> None:
    right = lower.with_frees

    def with_frees(tasks, keep, entering):  # type: ignore[no-untyped-def]
        return _at_the_end(right(tasks, keep, entering))

    patch.setattr(lower, "with_frees", with_frees)


def _at_the_end(tasks: Sequence[Task]) -> tuple[Task, ...]:
    every = tuple(name for task in tasks for name in task.frees)
    bare = [replace(task, frees=()) for task in tasks]
    return (*bare[:-1], *(replace(task, frees=every) for task in bare[-1:]))


def _kernel(name: str, wrong: Callable[[Array], None]) -> Patch:
    """A kernel whose first result is changed behind it."""
    right = KERNELS[name]

    def kernel(inputs, attributes, out):  # type: ignore[no-untyped-def]
        results, flops = right(inputs, attributes, out)
        wrong(results[0])
        return results, flops

    return lambda patch: patch.setattr(machine, "KERNELS", {**KERNELS, name: kernel})


def _times_1_3(result: Array) -> None:
    result *= 1.3


def _plus_a_tenth(result: Array) -> None:
    result += 0.1


def _adam_at_twice_the_rate(patch: pytest.MonkeyPatch) -> None:
    def adam(inputs, attributes, out):  # type: ignore[no-untyped-def]
        return KERNELS["adam"](inputs, {**attributes, "lr": 2 * attributes["lr"]}, out)

    patch.setattr(machine, "KERNELS", {**KERNELS, "adam": adam})


def _moments_of_40_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(OPTIMIZERS, "adamw", replace(OPTIMIZERS["adamw"], states=(("m", 40), ("v", 40))))


def _masks_of_no_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(dims.FIXED_ITEMSIZE_BYTES, dims.MASK, 0)  # type: ignore[index]


VERIFIED: dict[str, tuple[Patch, tuple[str, ...], str]] = {
    "HBM bytes twice": (_twice_the_hbm_bytes, (), "HBM bytes"),
    "an update moves a megabyte an element": (_a_megabyte_an_element, (), "HBM bytes"),
    "frees at the end of a pass": (_frees_at_the_end_of_a_pass, ("pp",), "frees"),
    "a gradient of gelu times 1.3": (_kernel("gelu_grad", _times_1_3), (), "weight gradients, by hand"),
    "a layer norm plus 0.1": (_kernel("layer_norm", _plus_a_tenth), (), "loss, by hand"),
    "Adam at twice the rate": (_adam_at_twice_the_rate, (), "updated weights, by hand"),
    "Adam moments of 40 bytes": (_moments_of_40_bytes, (), "lasting bytes, by hand"),
    "masks of no bytes": (_masks_of_no_bytes, (), "HBM bytes"),
}


@pytest.mark.parametrize("features", dict.fromkeys(features for _, features, *_ in VERIFIED.values()), ids=str)
def test_without_a_mutant_all_is_green(features: tuple[str, ...]) -> None:
    assert not red(features)


def test_rows_added_to_a_float32_table_are_read_and_written_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = scenario(stack=replace(STACK, fusions=("gradient_accumulation",)))
    assert all(each.ok for each in verify_plan(chosen, Plan(), "toy"))
    forget_steps()
    monkeypatch.setattr(count, "_rows_added", lambda task, operand: operand)  # as if the whole table were
    assert not all(each.ok for each in verify_plan(chosen, Plan(), "toy") if each.quantity == "HBM bytes")


@pytest.mark.parametrize("kernel", ["lookup", "position", "pick"])
def test_a_table_is_not_read_whole(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup reads a row for each token, a position one for all sequences, the loss one logit of each row."""
    chosen = scenario(model=replace(GPT, num_layers=1), batch=Batch(1, 4))  # of 8 positions
    assert all(each.ok for each in verify_plan(chosen, Plan(), "toy"))
    monkeypatch.setitem(COSTS, kernel, replace(COSTS[kernel], picks=(), positions=()))  # type: ignore[index]
    assert [each.quantity for each in verify_plan(chosen, Plan(), "toy") if not each.ok] == ["HBM bytes"]


@pytest.mark.parametrize(("mutate", "features", "quantity"), VERIFIED.values(), ids=VERIFIED)
def test_verify_notices(mutate: Patch, features: tuple[str, ...], quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert quantity in red(features)


def _seconds_times(kind: type[Task], factor: int) -> Patch:
    """The price of tasks of a kind."""
    right = workload.task_ps
    return lambda patch: patch.setattr(
        workload, "task_ps", lambda task, *args: right(task, *args) * (factor if isinstance(task, kind) else 1)
    )


def _gemms_times_10(patch: pytest.MonkeyPatch) -> None:
    right = gemms.gemm_s
    patch.setattr(gemms, "gemm_s", lambda *args, **options: 10 * right(*args, **options))


def _priced_at_twice_the_hbm_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timing, "hbm_bytes", lambda *args: 2 * count.hbm_bytes(*args))


PRICED: dict[str, tuple[Patch, str, str]] = {
    "GEMMs at 10 times their price": (_gemms_times_10, "alone", "up_gemm"),
    "collectives for nothing": (_seconds_times(Collective, 0), "tp", "leave_mlp"),
    "boundary sends for nothing": (_seconds_times(Send, 0), "pp", "send"),
    "launches for nothing": (_seconds_times(Launches, 0), "alone", "launches"),
    "prices of HBM bytes twice": (_priced_at_twice_the_hbm_bytes, "alone", "norm1"),
    "the price of a megabyte an element": (_a_megabyte_an_element, "alone", "update"),
}


@pytest.mark.parametrize(("mutate", "case", "task"), PRICED.values(), ids=PRICED)
def test_the_prices_of_the_page_notice(mutate: Patch, case: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not differences(case)
    mutate(monkeypatch)
    assert any(name.startswith(task) for name, *_ in differences(case))


# Narayanan et al. 2021 (arXiv:2104.04473), figure 4, top: 4 ranks, 8 micro_batches.
ONE_F_ONE_B = (
    "0F0 0F1 0F2 0F3 0B0 0F4 0B1 0F5 0B2 0F6 0B3 0F7 0B4 0B5 0B6 0B7",
    "1F0 1F1 1F2 1B0 1F3 1B1 1F4 1B2 1F5 1B3 1F6 1B4 1F7 1B5 1B6 1B7",
    "2F0 2F1 2B0 2F2 2B1 2F3 2B2 2F4 2B3 2F5 2B4 2F6 2B5 2F7 2B6 2B7",
    "3F0 3B0 3F1 3B1 3F2 3B2 3F3 3B3 3F4 3B4 3F5 3B5 3F6 3B6 3F7 3B7",
)


def test_the_figure_of_its_paper_notices_a_1f1b_that_runs_the_order_of_gpipe(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_text("1f1b", 4, 1, 8) == ONE_F_ONE_B
    monkeypatch.setitem(SCHEDULES._values, "1f1b", SCHEDULES.get("gpipe"))
    assert as_text("1f1b", 4, 1, 8) != ONE_F_ONE_B


def test_the_volume_of_its_paper_notices_zero_that_gathers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rajbhandari et al. 2020 (arXiv:1910.02054), section 7.1: gradients are scattered once and parameters gathered once."""
    layer = 4 * 12 + 4 * 192 + 3 * 16 + 12 + 2 * 192 + 16 + 12  # norms; q, k, v, out and their biases; up, down and theirs
    psi = GPT.num_layers * layer + 64 * 12 + 8 * 12 + 2 * 12  # and two tables, with the last norm

    def sent_bytes() -> int:
        model, plan = replace(GPT, vocab_size=64), Plan(data_parallel=2, zero_stage=1)
        return estimate(scenario(model=model, batch=Batch(2, 8)), plan).sent_bytes[0]["dp"]

    assert sent_bytes() == psi // 2 * 4 + psi // 2 * 2 + 4  # float32 gradients, bf16 parameters, and the norm as a float32
    forget_steps()
    right = lower.finish
    monkeypatch.setattr(
        lower, "finish", lambda *args: [each for task in right(*args) for each in [task] * (1 + (task.name == "gather_weights"))]
    )
    assert sent_bytes() == psi // 2 * 4 + 2 * (psi // 2 * 2) + 4
