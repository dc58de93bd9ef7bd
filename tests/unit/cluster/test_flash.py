"""Which kernel of flash attention runs where, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_rows import rows
from msgspec.structs import replace

from parsim import ParsimError, catalog, estimate, load
from parsim.cluster import Accelerator, Cluster
from parsim.cluster.flash import ARCHITECTURES, CARDS, KERNELS, TABLE, FlashKernel, architecture_of, flash_fault, flash_kernel
from parsim.cost.cost_model import CostModel
from parsim.parallel.plan import Batch
from parsim.scenario.hardware import AcceleratorRow
from parsim.scenario.rows import read

BATCH = Batch(8, 2048, "bf16")
SCENARIO = """
model: gpt3-6.7b
cluster: {{node: {node}}}
batch: {{global_batch: 8, sequence_length: 2048, dtype: bf16}}
stack: {{base: pytorch-2, attention: {attention}}}
plans: {{p: {{micro_batch: 1}}}}
"""


def step_s(path: Path, node: str, attention: str) -> float:
    file = path / "scenario.yaml"
    file.write_text(SCENARIO.format(node=node, attention=attention), encoding="utf-8")
    return estimate(load(file), "p").step_s


def test_every_kernel_is_cited_or_assumed_and_runs_somewhere() -> None:
    assert {kernel for kernel, _ in TABLE} == set(KERNELS)
    assert {architecture for _, architecture in TABLE} == {*ARCHITECTURES.values(), *CARDS.values()}
    assert all(found.forward > 0 and found.backward > 0 and len(found.source) > 10 for found in TABLE.values())


@pytest.mark.parametrize("name", [name for name in rows("accelerators") if architecture_of(name)])
def test_no_kernel_is_faster_than_the_peak_of_what_it_multiplies(name: str) -> None:
    device = read("accelerators", name)
    most = max(efficiency for _, efficiency in device.attention.efficiency_by_head_dim)
    for kernel in KERNELS:
        if found := flash_kernel(kernel, name):
            peak = device.peak("fp8" if kernel == "cudnn_fp8" else "bf16" if "bf16" in device.peak_flops_per_s else "fp16")
            usual = device.peak("bf16" if "bf16" in device.peak_flops_per_s else "fp16")
            assert most * max(found.forward, found.backward * device.attention.backward_rate) * usual <= peak, kernel


def test_a_stack_takes_a_kernel_of_8_bits_where_it_multiplies_matrices_in_4() -> None:
    def kernel_of(node: str, dtype: str) -> FlashKernel:
        return CostModel(Cluster(read("nodes", node), 1), read("stacks", "nemo-mlperf-8b"), replace(BATCH, dtype=dtype)).flash

    assert kernel_of("dgx-b200", "nvfp4") == TABLE["cudnn_fp8", "Blackwell"]
    assert kernel_of("dgx-b200", "fp8_current") == kernel_of("dgx-b200", "bf16") == TABLE["cudnn", "Blackwell"]
    assert kernel_of("dgx-a100-80gb", "nvfp4") == TABLE["cudnn", "Ampere"]  # which has none


@pytest.mark.parametrize("name", [name for name in rows("accelerators") if name != "cpu-generic"])
def test_every_accelerator_has_its_own_kernel_and_a_named_one(name: str) -> None:
    assert flash_kernel("flash", name)
    assert any(flash_kernel(kernel, name) for kernel in KERNELS), architecture_of(name)


@pytest.mark.parametrize(("kernel", "name"), [("flash_3", "b200"), ("flash_2", "v100-sxm2-32gb"), ("cudnn", "mi300x"), ("splash", "h200")])
def test_a_named_kernel_runs_only_where_it_was_written_for(kernel: str, name: str) -> None:
    assert (flash_fault(kernel, read("accelerators", name)) or "").startswith(f"attention = {kernel} does not run on {name}")


def test_pytorchs_memory_efficient_kernel_runs_on_an_a100_at_no_known_rate() -> None:
    assert (flash_fault("memory_efficient", read("accelerators", "a100-sxm4-80gb")) or "").startswith(
        "attention = memory_efficient has no known rate on a100"
    )


def test_triton_on_hopper_is_no_flashattention_3(tmp_path: Path) -> None:
    triton, second, third, own = (step_s(tmp_path, "hgx-h100-80gb", each) for each in ("flash_1_triton", "flash_2", "flash_3", "flash"))
    assert triton > second > third
    assert own == second  # what PyTorch runs


def test_a_scenario_that_names_a_kernel_its_device_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParsimError, match=r"attention = flash_3 does not run on a100-sxm4-80gb \(Ampere\); there: flash, flash_1"):
        step_s(tmp_path, "dgx-a100-80gb", "flash_3")


def test_a_renamed_or_changed_accelerator_stays_of_its_kind_under_every_stack() -> None:
    for name in rows("accelerators"):
        own = read("accelerators", name)
        renamed = AcceleratorRow.model_validate({"base": name, "name": "mine", "source": "x"}).build("")
        assert replace(renamed, name=own.name, source=own.source) == own
        for stack in catalog.names("stacks"):
            before, after = (CostModel(cluster_of(each), read("stacks", stack), BATCH) for each in (own, renamed))
            assert (before.flash, before.sustained) == (after.flash, after.sustained), (name, stack)


def test_a_share_that_a_scenario_states_is_its_own_under_every_stack() -> None:
    stated = AcceleratorRow.model_validate({"base": "b200", "sustained_factor": 0.7}).build("")
    assert CostModel(cluster_of(stated), read("stacks", "simumax"), BATCH).sustained == 0.7
    faster = AcceleratorRow.model_validate({"base": "b200", "hbm_bandwidth": "9 TB/s"}).build("")
    assert CostModel(cluster_of(faster), read("stacks", "simumax"), BATCH).sustained == 0.66  # that stack's row, of the B200


def cluster_of(device: Accelerator) -> Cluster:
    return Cluster(replace(read("nodes", "hgx-h100-80gb"), accelerator=device))
