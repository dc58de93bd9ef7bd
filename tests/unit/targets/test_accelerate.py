"""accelerate's YAML and the line that starts it: what a plan is there, what its Accelerator refuses, what other people's files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_deepspeed import scenario

import parsim
from parsim.errors import ParsimError
from parsim.parallel.plan import Plan
from parsim.scenario.tree import parse
from parsim.targets import NotExpressible, read_job

FSDP_1 = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
downcast_bf16: 'no'
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_sharding_strategy: {strategy}
machine_rank: 0
mixed_precision: bf16
num_machines: 2
num_processes: 16
use_cpu: false
"""


def exported(plan: Plan, **options: Any) -> dict[str, Any]:
    text = parsim.export_plan(scenario(**options), plan, "accelerate").files["accelerate.yaml"]
    return dict(parse(text, "accelerate.yaml").value)


def parallel(**sizes: int) -> dict[str, int]:
    return {f"parallelism_config_{name}_size": size for name, size in sizes.items()}


def test_fsdp_with_tensor_parallelism_is_what_its_documentation_says() -> None:
    found = exported(Plan(data_parallel=4, tensor_parallel=2, zero_stage=3, recompute="full"))
    wraps = {"fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "fsdp_activation_checkpointing": True}
    assert found == {
        **{"compute_environment": "LOCAL_MACHINE", "distributed_type": "FSDP", "num_machines": 1, "num_processes": 8},
        "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True, **wraps},
        "parallelism_config": parallel(dp_replicate=1, dp_shard=4, tp=2, cp=1),
        "mixed_precision": "bf16",
    }


def test_groups_that_shard_among_themselves_are_replicated() -> None:
    found = exported(Plan(data_parallel=8, zero_stage=3, zero_group=4))["parallelism_config"]
    assert found == parallel(dp_replicate=2, dp_shard=4, tp=1, cp=1)


def test_what_a_plan_is_run_by_follows_from_what_it_shards() -> None:
    kinds = {0: "MULTI_GPU", 1: "DEEPSPEED", 2: "DEEPSPEED", 3: "FSDP"}
    assert {stage: exported(Plan(data_parallel=8, zero_stage=stage))["distributed_type"] for stage in kinds} == kinds
    offloaded = exported(Plan(data_parallel=8, zero_stage=3, offload_optimizer=True))
    assert offloaded["deepspeed_config"]["zero_stage"] == 3 and offloaded["deepspeed_config"]["offload_optimizer_device"] == "cpu"


def test_the_line_that_starts_it_says_what_the_yaml_cannot() -> None:
    launch = parsim.export_plan(scenario(), Plan(data_parallel=8, micro_batch=2), "accelerate")
    flags = "--per_device_train_batch_size 2 --gradient_accumulation_steps 2 --max_length 8 --optim adamw_torch --learning_rate 0.001"
    assert launch.command == f"accelerate launch --config_file accelerate.yaml train.py {flags}"
    assert launch.files["accelerate.yaml"].startswith(f"# {launch.command}\n")


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan(data_parallel=4, pipeline_parallel=2), "pipeline_parallel"),
        (Plan(data_parallel=4, tensor_parallel=2), "tensor_parallel"),  # parallelism_config only with FSDP v2
        (Plan(data_parallel=4, context_parallel=2, context_kind="ring"), "context_parallel"),
        (Plan(data_parallel=8, zero_stage=3, zero_group=1), "zero_group"),  # dp_replicate > 1 with dp_shard = 1
        (Plan(data_parallel=4, context_parallel=2, context_kind="ring", zero_stage=1), "context_kind"),
        (Plan(data_parallel=8, zero_stage=1, zero_group=4), "zero_group"),
        (Plan(data_parallel=8, optimizer="sgd_momentum"), "optimizer"),  # of the Trainer, sgd has no momentum
    ],
)
def test_what_it_does_not_run_is_not_expressible(plan: Plan, field: str) -> None:
    with pytest.raises(NotExpressible) as caught:
        exported(plan)
    assert (caught.value.field, caught.value.target, caught.value.version) == (field, "accelerate", "1.15.0")


@pytest.mark.parametrize(
    ("strategy", "plan"),
    [
        ("FULL_SHARD", Plan(data_parallel=16, zero_stage=3, reshard_after_forward=True)),
        ("2", Plan(data_parallel=16, zero_stage=3, reshard_after_forward=False)),
        ("NO_SHARD", Plan(data_parallel=16)),
        ("HYBRID_SHARD", Plan(data_parallel=16, zero_stage=3, reshard_after_forward=True, zero_group=8)),  # the devices of a machine
    ],
)
def test_fsdp_of_version_1_is_read_by_the_name_or_number_of_its_strategy(tmp_path: Path, strategy: str, plan: Plan) -> None:
    (tmp_path / "fsdp.yaml").write_text(FSDP_1.replace("{strategy}", strategy))
    found = parsim.import_job(tmp_path / "fsdp.yaml", model="tiny-gpt", node="dgx-a100-80gb", global_batch=32)
    assert found.scenario.plan("imported") == plan and found.scenario.cluster.num_nodes == 2
    assert found.scenario.stack.name == "hf-trainer" and [each.key for each in found.left][:1] != ["num_machines"]


def test_a_mesh_without_fsdp_2_or_of_pure_replicas_beside_tp_is_refused() -> None:
    mesh = "parallelism_config: {parallelism_config_tp_size: 2, parallelism_config_dp_replicate_size: 4}\nnum_processes: 8\n"
    with pytest.raises(ParsimError, match="is for FSDP of fsdp_version 2 alone"):
        read_job("distributed_type: MULTI_GPU\n" + mesh, "a.yaml")
    with pytest.raises(ParsimError, match="dp_replicate_size above 1 with dp_shard_size = 1"):
        read_job("distributed_type: FSDP\nfsdp_config: {fsdp_version: 2}\n" + mesh, "a.yaml")


def test_a_line_of_the_shell_is_read_without_running_it(tmp_path: Path) -> None:
    text = f"""#!/bin/bash
    touch {tmp_path / "ran"}
    accelerate launch --use_deepspeed --zero_stage 3 --num_processes 8 --mixed_precision=fp16 \\
      run_clm.py --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --block_size 1024 \\
      --gradient_checkpointing --output_dir $OUT --learning_rate 5e-5 > log.txt
    """
    found = read_job(text, "run.sh")
    assert found.keys == {
        **{"stack": "deepspeed", "plan.zero_stage": 3, "plan.offload_optimizer": False, "plan.data_parallel": 8},
        **{"plan.recompute": "full", "plan.micro_batch": 4, "num_micro_batches": 2, "batch.sequence_length": 1024},
        **{"batch.dtype": "fp16", "training.learning_rate": 5e-5},
    }
    assert found.num_devices == 8 and [each.key for each in found.left] == ["script.output_dir"]
    assert not (tmp_path / "ran").exists()


def test_a_variable_of_the_shell_is_left_not_guessed() -> None:
    found = read_job("accelerate launch --multi_gpu --num_processes $((N * 8)) train.py", "run.sh")
    assert found.num_devices is None and any("variable of the shell" in each.why for each in found.left)


def test_a_deepspeed_file_named_in_it_is_told_to_be_imported() -> None:
    text = "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config: {deepspeed_config_file: zero3.json}\n"
    (left,) = read_job(text, "a.yaml").left
    assert "--from deepspeed" in left.why


def test_a_plan_that_is_as_usual_elsewhere_stays_as_it_is_here() -> None:
    plan = Plan(data_parallel=8, zero_stage=3, reshard_after_forward=False)
    assert exported(plan)["fsdp_config"]["fsdp_reshard_after_forward"] is False
    assert exported(replace(plan, reshard_after_forward=True))["fsdp_config"]["fsdp_reshard_after_forward"] is True


def test_sequences_over_ranks_of_deepspeed_may_stand_beside_its_shards() -> None:
    sizes = (
        "parallelism_config: {parallelism_config_sp_size: 2, parallelism_config_dp_shard_size: 2, parallelism_config_sp_backend: deepspeed}"
    )
    found = read_job(f"distributed_type: DEEPSPEED\nnum_processes: 4\ndeepspeed_config: {{zero_stage: 3}}\n{sizes}\n", "a.yaml").keys
    assert (found["plan.context_parallel"], found["plan.context_kind"], found["plan.data_parallel"]) == (2, "ulysses", 2)
