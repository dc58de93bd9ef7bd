"""Rows of devices other than NVIDIA's: the cluster that they stand for, and the software that runs there."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from parsim import catalog
from parsim.estimator.estimate import estimate_legal
from parsim.validate.case import scenario_of
from parsim.validate.clusters import cluster_of
from parsim.validate.defaults import precision_of, software_of
from parsim.validate.table import TableRow
from validate_rows import SMALL, described

MLPERF = "mlcommons/training_results_v5.1 AMD/results/MI355X_EPYC_9575F_pytorch/llama31_8b/result_*.txt"


def row(text=None, **counts):
    return TableRow(text or {}, counts, {}, ())


@pytest.mark.parametrize(
    ("accelerator", "devices", "a_slice", "axes", "slices"),
    [
        *(("tpu-v6e", 8, None, (2, 4), 1), ("tpu-v6e", 128, None, (8, 16), 1), ("tpu-v5e", 512, None, (16, 16), 2)),
        *(("tpu-v7x", 128, None, (4, 4, 8), 1), ("tpu-v4", 384, 192, (4, 6, 8), 2), ("tpu-v5p", 2048, None, (8, 16, 16), 1)),
    ],
)
def test_tpus_are_a_slice_of_the_largest_torus_of_their_kind(accelerator, devices, a_slice, axes, slices):
    counts = {"devices_per_node": a_slice} if a_slice else {}
    cluster = cluster_of(row({"accelerator": accelerator}, **counts), devices)
    assert (cluster.node.torus, cluster.num_nodes) == (axes, slices)
    assert cluster.node.devices_per_node == math.prod(axes)
    assert (cluster.fabric is None) == (slices == 1)


def test_a_slice_has_its_part_of_the_network_between_slices():
    """TPU v5e: 8 chips a host, whose two ports of 100 Gb/s are taken as one."""
    assert cluster_of(row({"accelerator": "tpu-v5e"}, devices_per_node=64), 128).nics_per_node == 64 // 8


@pytest.mark.parametrize(("accelerator", "ports"), [("mi355x", 8), ("mi300x", 8), ("trainium1", 8), ("gaudi2", 8), ("h800-sxm5-80gb", 8)])
def test_what_joins_nodes_is_usual_for_them_where_no_generation_is_known(accelerator, ports):
    assert cluster_of(row({"accelerator": accelerator}), 64).nics_per_node == ports


@pytest.mark.parametrize(
    ("accelerator", "source", "stack"),
    [
        *(("tpu-v6e", "AI-Hypercomputer/tpu-recipes", "jax-xla-tpu"), ("tpu-v5p", "somebody's blog", "jax-xla-tpu")),
        *(("h100-sxm5-80gb", "AI-Hypercomputer/maxtext", "jax-xla"), ("trainium1", "aws-neuron/aws-neuron-sdk", "neuronx-distributed")),
        *(("mi300x", "AMD-AGI/Primus", "megatron-core"), ("mi355x", MLPERF, "nemo")),
        *(("TPU v6e", "somebody's blog", "jax-xla-tpu"), ("MI300X", "somebody's blog", "megatron-core")),
        *(("gaudi2", "mlcommons/training_results_v4.0 Intel-HabanaLabs", "megatron-deepspeed-gaudi"),),
    ],
)
def test_software_is_what_runs_on_the_devices(accelerator, source, stack):
    assert software_of(row({"accelerator": accelerator, "source": source})).stack == stack


def test_software_that_shards_parameters_is_not_megatron_of_2022():
    """A run of FSDP from a repository of no known stack, as VectorInstitute/vectorlm."""
    known = {"accelerator": "a100-sxm4-80gb", "source": "somebody's repository"}
    sharded = TableRow({**known, "zero_stage": "3"}, {"zero_stage": 3}, {}, ())
    assert [software_of(each).stack for each in (row(known), sharded)] == ["megatron-2022", "pytorch-2"]


def test_amd_submits_to_mlperf_with_delayed_scaling_and_nvidia_does_not():
    """Its src/train.py: fp8 hybrid with a history of maxima; NVIDIA's config_common.sh: FP8_RECIPE="tensorwise"."""
    known = {"source": MLPERF, "source_family": "mlperf", "dtype": "fp8"}
    assert [precision_of(row({**known, "accelerator": name})) for name in ("b200", "mi355x")] == ["fp8_current", "fp8"]
    amd = described_as_mlperf()
    assert amd.batch.dtype == "fp8_delayed" and amd.stack.name == "nemo" and not amd.stack.graphs


def described_as_mlperf():
    shape = {name: SMALL[name] for name in ("num_layers", "hidden_size", "num_heads")}
    counts = {name: int(value) for name, value in shape.items()} | {"global_batch": 32, "sequence_length": 512, "num_devices": 8}
    text = {"source": MLPERF, "source_family": "mlperf", "dtype": "fp8", "accelerator": "mi355x", "id": "x"}
    return scenario_of(TableRow({**text, **{name: str(value) for name, value in counts.items()}}, counts, {}, ()), "x.csv")


def test_a_compiled_program_of_a_tpu_waits_for_no_launches(tmp_path):
    """Nor for a host that takes a second to launch a kernel."""
    tiny = {
        "accelerator": "tpu-v6e",
        "num_devices": "1",
        "tensor_parallel": "1",
        "pipeline_parallel": "1",
        "dtype": "bf16",
        "hidden_size": "128",
    }
    on_tpu = described(tmp_path, **tiny, num_heads="1", source="AI-Hypercomputer/maxtext", source_family="x")
    slow, launched = replace(on_tpu.stack, host_launch_s=1.0), replace(on_tpu.stack, graphs={}, host_launch_s=1.0)
    free_s, slow_s, launched_s = (
        estimate_legal(each, each.plan("row")).step_s for each in (on_tpu, *(replace(on_tpu, stack=stack) for stack in (slow, launched)))
    )
    assert free_s == slow_s < 1 < launched_s and on_tpu.stack.flash == "splash"


@pytest.mark.parametrize(("path", "again"), [("trillium/Llama3.1-8B-MaxText/v6e-8", False), ("trillium/Llama3.1-70B-MaxText/v6e-64", True)])
def test_a_recipe_of_a_source_says_what_of_a_layer_it_keeps(tmp_path, path, again):
    """Both keep queries, keys and values; the smaller keeps the output projection, too, and neither the MLP."""
    on = {"accelerator": "tpu-v6e", "num_devices": "8", "tensor_parallel": "1", "pipeline_parallel": "1", "dtype": "bf16", "recompute": ""}
    told = described(tmp_path, **on, mlp="swiglu", source_family="x", source=f"AI-Hypercomputer/tpu-recipes training/{path}/README.md")
    plan = told.plan("row")
    assert plan.recompute == "none" and {"gate_gemm", "up_gemm"} <= set(plan.recompute_ops)
    assert "q_gemm" not in plan.recompute_ops and ("out_gemm" in plan.recompute_ops) == again
    assert described(tmp_path, **on, mlp="swiglu", source_family="x", source="AI-Hypercomputer/maxtext").plan("row").recompute == "full"


@pytest.mark.parametrize("name", catalog.names("accelerators"))
def test_a_row_of_any_accelerator_is_predicted_on_many_nodes(name):
    counts = {name: int(SMALL[name]) for name in ("num_layers", "hidden_size", "num_heads", "sequence_length")}
    told = scenario_of(TableRow({"id": "x", "accelerator": name}, {**counts, "num_devices": 64, "global_batch": 64}, {}, ()), "x.csv")
    assert told.cluster.node.accelerator.name == name and told.cluster.num_devices >= 64


def test_a_card_takes_the_network_of_its_own_node_and_says_where_that_is_a_default():
    """Four ports of a server of PCIe cards, not the eight of a DGX."""
    counts = {name: int(SMALL[name]) for name in ("num_layers", "hidden_size", "num_heads", "sequence_length")}
    text = {"id": "x", "accelerator": "h100-pcie-80gb"}
    told = scenario_of(TableRow(text, {**counts, "num_devices": 64, "global_batch": 64}, {}, ()), "x.csv")
    assert told.cluster.nics_per_node == 4 and told.cluster.fabric.name == "ethernet-100g"
    assert "fabric = ethernet-100g" in map(str, told.assumed)


def test_what_is_left_open_is_trained_in_what_the_devices_multiply(tmp_path):
    open_dtype = {"source_family": "misc_repos", "tensor_parallel": "1", "pipeline_parallel": "1", "dtype": ""}
    known = {name: described(tmp_path, **open_dtype, accelerator=name).batch.dtype for name in ("v100-sxm2-32gb", "t4", "h100-sxm5-80gb")}
    assert known == {"v100-sxm2-32gb": "fp16", "t4": "fp16", "h100-sxm5-80gb": "bf16"}
