"""Megatron-LM: plans come back from its command line, its flags are of the version, and its traps are laid open."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

import parsim
from megatron_plans import drawn
from parsim.errors import ParsimError, PlanError
from parsim.targets import NotExpressible, Setup, export_plan, read_job
from parsim.targets.entries import Keys
from parsim.targets.exporting import differences, export_setup, find
from parsim.targets.launchers.megatron_lm import VERSIONS, entries
from round_trips import unnoticed

# Names alone: NVIDIA/Megatron-LM, tag core_v0.16.1 and d98e8a64 (0.20.0), megatron/training/arguments.py.
FLAGS = Path(__file__).with_name("megatron_flags.csv")
SCRIPT = "pretrain.sh"


def exported(setup: Setup, version: str = VERSIONS[0]) -> str:
    return export_setup(find("megatron-lm")[0], version, setup).files[SCRIPT]


def of(name: str, plan: str) -> Setup:
    scenario = parsim.load(f"scenarios/{name}.yaml")
    return Setup(plan, scenario, scenario.legal_plan(plan))


@pytest.mark.parametrize("seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 500))])
def test_a_plan_comes_back_from_its_command_line(seed: int) -> None:
    setup, version = drawn(seed), VERSIONS[seed % len(VERSIONS)]
    job = read_job(exported(setup, version), SCRIPT)
    assert [*differences(setup, job, entries(version))] == [] and job.left == ()
    assert job.num_devices == setup.plan.num_devices
    assert setup.dtype == "fp32" or job.keys["stack.gradient_dtype"] == setup.stack.gradient_dtype


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_that_is_written_is_one_of_its_version(version: str) -> None:
    known = {row["flag"] for row in csv.DictReader(FLAGS.read_text().splitlines()) if version in row["versions"].split()}
    written = {flag for seed in range(30) for flag in re.findall(r"^  (--\S+)", exported(drawn(seed), version), re.MULTILINE)}
    assert len(written) > 80 and written <= known


@pytest.mark.parametrize("plan", ["full", "seqsel"])
def test_a_published_run_is_read_back_with_its_model(plan: str) -> None:
    setup = of("table5-175b", plan)
    keys = read_job(exported(setup), SCRIPT).keys
    assert (keys["model.num_layers"], keys["model.hidden_size"], keys["model.num_heads"]) == (96, 12288, 96)  # arXiv:2205.05198, table 3
    assert (keys["plan.tensor_parallel"], keys["plan.pipeline_parallel"], keys["plan.virtual_pipeline"]) == (8, 8, 3)
    assert keys["plan.recompute"] == {"full": "full", "seqsel": "selective"}[plan]


def test_the_sharding_strategy_is_written_whatever_the_plan_since_its_default_moved() -> None:
    for seed in range(10):
        assert "--data-parallel-sharding-strategy " in exported(drawn(seed))
    line = "torchrun --nproc-per-node 8 pretrain_gpt.py --micro-batch-size 1 --use-megatron-fsdp"
    target = find("megatron-lm")[0]
    keys, _ = target.read(line, "x.sh") or ({}, "")
    stages = {version: next(e for e in target.entries(version) if "plan.zero_stage" in e.fields) for version in VERSIONS}
    assert {version: entry.read(Keys(keys))["plan.zero_stage"] for version, entry in stages.items()} == {"0.20.0": 3, "0.16.1": 0}


def test_experts_are_split_as_layers_are_where_nothing_is_said_of_it() -> None:
    line = "torchrun --nproc-per-node 8 pretrain_gpt.py --micro-batch-size 1 --tensor-model-parallel-size 4 --num-experts 8"
    assert read_job(line, "x.sh").keys["plan.expert_tensor_parallel"] == 4
    assert read_job(f"{line} --expert-tensor-parallel-size 1", "x.sh").keys["plan.expert_tensor_parallel"] == 1
    for setup in (each for each in map(drawn, range(40)) if each.model.num_experts):  # type: ignore[attr-defined]
        assert f"--expert-tensor-parallel-size {setup.plan.expert_tensor_parallel}" in exported(setup)


def test_one_connection_before_blackwell_for_tensor_parallelism_and_more_for_megatron_fsdp() -> None:
    setup = of("table5-175b", "seqsel")
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1\n" in exported(setup)
    sharded = replace(
        setup, plan=replace(setup.plan, zero_stage=3, pipeline_parallel=1, virtual_pipeline=1, data_parallel=8, schedule="1f1b")
    )
    text = exported(sharded)
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=32\n" in text and "--data-parallel-sharding-strategy optim_grads_params" in text
    assert "--ckpt-format fsdp_dtensor" in text


def test_a_global_batch_that_does_not_divide_is_refused_although_its_parser_lets_it_through() -> None:
    scenario = parsim.load("scenarios/table5-175b.yaml")
    with pytest.raises(PlanError, match="does not divide global_batch = 64"):
        export_plan(scenario, parsim.Plan(tensor_parallel=8, data_parallel=8, micro_batch=3), "megatron-lm")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedule": "gpipe", "virtual_pipeline": 1}, "schedule"),
        ({"recompute": "none", "recompute_ops": ("mlp",)}, "recompute_ops"),
        ({"recompute_every": 2}, "recompute_every"),
        ({"optimizer": "adamw_8bit"}, "optimizer"),
        ({"rank_order": "pp-dp-tp"}, "rank_order"),
    ],
)
def test_what_no_flag_says_is_refused(changes: dict[str, object], field: str) -> None:
    setup = of("table5-175b", "seqsel")
    with pytest.raises(NotExpressible) as caught:
        exported(replace(setup, plan=replace(setup.plan, **changes)))
    assert caught.value.field == field


def test_a_model_that_is_no_decoder_of_gpts_kind_is_refused() -> None:
    with pytest.raises(NotExpressible, match=r"model\.family"):
        exported(of("t5-11b", next(iter(parsim.load("scenarios/t5-11b.yaml").plans))))


def test_experts_beside_tensor_parallelism_without_sequence_parallelism_are_refused() -> None:
    setup = next(each for each in map(drawn, range(99)) if each.model.num_experts and each.plan.tensor_parallel > 1)  # type: ignore[attr-defined]
    with pytest.raises(ParsimError, match="need sequence parallelism"):
        exported(replace(setup, plan=replace(setup.plan, sequence_parallel=False)))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["megatron-lm@0.20.0", "megatron-lm@0.16.1", "megatron-bridge"])
def test_no_entry_could_be_silent_or_deaf_without_notice(target: str) -> None:
    assert not unnoticed(target, map(drawn, range(60)))
