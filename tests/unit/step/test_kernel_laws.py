"""Prices by a kernel's own law, against arithmetic on the page: hidden 12, ffn 16, 4 heads of 4, 8 tokens, bf16 (2 bytes)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from parsim.cluster import Cluster, KernelLaw
from parsim.cost import timing
from parsim.cost.cost_model import CostModel
from parsim.cost.sizes import sizes_of
from parsim.cost.timing import compute_s, task_ps
from parsim.cost.work import Work, law_name
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.plans import Plans
from parsim.schedules.phase import Phase
from parsim.step.lower import lower
from parsim.step.step import Step
from parsim.step.structure import Structure
from parsim.step.task import Compute, Launches, Task
from parsim.verify.contract import verify_plan
from support import DTYPES, GPT, NODE, STACK, TOY, scenario

MODEL = replace(GPT, dropout=0.0)
Laws = Mapping[str, KernelLaw]


def cluster(kernels: Laws, busy_kernels: Laws | None = None) -> Cluster:
    return Cluster(replace(NODE, accelerator=replace(TOY, kernels=kernels, busy_kernels=busy_kernels or {})))


class Priced:
    """One plan of the toy GPT on a node of 4 devices whose kernels have these laws."""

    def __init__(self, kernels: Laws, busy: Laws | None = None, plan: Plan | None = None, stack: Stack = STACK) -> None:
        self.plan = plan or Plan(micro_batch=2)
        self.model = CostModel(cluster(kernels, busy), stack, Batch(4, 8, "bf16"))
        self.step: Step = lower(Structure.of(MODEL, self.model.batch, self.plan, stack))
        self.sizes = sizes_of(MODEL, self.model.batch, Plans.of([self.plan]), stack, DTYPES)

    def tasks(self) -> list[Task]:
        """Those of a forward and a backward through each segment."""
        return [task for segment in self.step.segments.values() for phase in (Phase.F, Phase.B) for task in segment.phases[phase]]

    def seconds(self, name: str) -> float:
        task = next(each for each in self.tasks() if isinstance(each, Compute) and each.name == name)
        return float(np.asarray(compute_s(task, self.sizes, self.model)).reshape(-1)[0])

    def finish_ps(self, kernel: str) -> int:
        task = next(each for each in self.step.finish if isinstance(each, Compute) and each.kernel == kernel)
        return int(task_ps(task, self.sizes, self.model, dict(MODEL.layout))[0])


def test_every_coefficient_of_a_law_counts_once() -> None:
    law = KernelLaw(1e-6, 5e-6, 1e9, 1e9, 1e8, ((1000.0, 1e7), (5000.0, 1.0)))
    # B S D, D F -> B S F: 2 x 2 x 8 x 12 x 16 = 6144 FLOPs; 192 + 192 + 256 elements, 1280 bytes, 512 written, 280 beyond the knee.
    expected = 1e-6 + 6144e-9 + 1280e-9 + 512e-8 + 280e-7
    assert Priced({"einsum": law}).seconds("up_gemm") == pytest.approx(expected, rel=1e-12)


def test_a_batched_product_has_its_own_law_and_pays_for_each_matrix() -> None:
    # B S K R C, B Z K C -> B K R S Z: a matrix for each of 2 sequences and 4 heads.
    laws = {"einsum": KernelLaw(1.0), "einsum_batched": KernelLaw(matrix_s=1e-6)}
    assert Priced(laws).seconds("scores") == pytest.approx(8e-6, rel=1e-12)


def test_a_kernel_without_a_law_of_its_own_keeps_that_of_its_family() -> None:
    assert Priced({"relu": KernelLaw(1.0)}).seconds("up_gemm") == Priced({}).seconds("up_gemm")


def test_numpy_fuses_nothing_so_a_fused_kernel_moves_all_of_its_bytes() -> None:
    fused, law = replace(STACK, fusions=("gelu", "bias")), {"gelu": KernelLaw(bytes_per_s=1e9)}
    # 2 x 8 x 16 elements in and out, 2 bytes each.
    assert Priced(law, stack=fused).seconds("activation") == pytest.approx(1024e-9, rel=1e-12)
    assert Priced({}, stack=fused).seconds("activation") < Priced({}).seconds("activation")


def test_what_accumulates_bears_it_in_the_name_of_its_law() -> None:
    tasks = Priced({}, stack=replace(STACK, fusions=("gradient_accumulation",))).tasks()
    names = {law_name(task) for task in tasks if isinstance(task, Compute) and task.kernel == "einsum"}
    assert {"einsum", "einsum_add", "einsum_batched"} <= names


@pytest.mark.parametrize(("plan", "share"), [(Plan(), 0.0), (Plan(data_parallel=2), 1 / 3), (Plan(data_parallel=4), 1.0)])
def test_devices_that_work_at_the_same_time_slow_one_another(plan: Plan, share: float) -> None:
    # 1, 2 and 4 of 4 devices at work: none, one and all of the three others.
    laws = {"einsum": KernelLaw(1e-6)}, {"einsum": KernelLaw(4e-6)}
    assert Priced(*laws, plan=plan).seconds("up_gemm") == pytest.approx(1e-6 + share * 3e-6, rel=1e-12)


def test_every_rank_draws_the_whole_tensor_before_it_takes_its_part() -> None:
    priced = Priced({"draw": KernelLaw(matrix_s=1e-3, flops_per_s=1e6)}, plan=Plan(data_parallel=2, micro_batch=2))
    assert priced.seconds("tokens") == pytest.approx(4e-3 + 32e-6, rel=1e-12)  # 2 replicas x 2 sequences, of 8 tokens each


def updates() -> int:
    return Priced({"adam": KernelLaw(call_s=1e-6)}).finish_ps("adam")


# 4 layers of 16 weights (2 norms of 2, 6 matrices with a bias each), 2 tables, and the last norm's 2.
UPDATES_PS = (4 * 16 + 2 + 2) * 1_000_000


def test_an_optimizer_is_called_once_a_weight() -> None:
    assert updates() == UPDATES_PS


def test_an_optimizer_that_is_called_once_a_segment_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "works_of", lambda *rest: [Work(0, 0) for _ in MODEL.layout])
    assert updates() != UPDATES_PS


def test_laws_of_kernels_hold_what_the_host_does_to_launch_them() -> None:
    slow = replace(STACK, host_launch_s=1.0)
    launches = Launches("launches", 2)
    with_law, without = (Priced(laws, stack=slow) for laws in ({"einsum": KernelLaw(1e-6)}, {}))
    assert int(task_ps(launches, with_law.sizes, with_law.model)[0]) == 0
    assert int(task_ps(launches, without.sizes, without.model)[0]) == 2 * 10**12


@pytest.mark.parametrize("plan", [Plan(micro_batch=2), Plan(tensor_parallel=2), Plan(pipeline_parallel=2), Plan(data_parallel=2)])
def test_estimate_events_and_clocks_agree_to_the_picosecond_with_laws_of_kernels(plan: Plan) -> None:
    laws = {name: KernelLaw(1.1e-6, 1e-7, 3e9, 7e9, 5e9, ((300.0, 2e9),)) for name in ("einsum", "einsum_batched", "gelu", "adam", "clip")}
    checks = verify_plan(scenario(model=MODEL, cluster=cluster(laws, {"einsum": KernelLaw(2e-6)})), plan, "laws")
    assert all(check.ok for check in checks), checks
