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


LINE = "accelerate launch --config_file conf/zero2.yaml --num_processes 16 sft.py --model_name_or_path Qwen/Qwen2.5-7B --bf16"
ZERO_2 = "distributed_type: DEEPSPEED\nnum_processes: 8\nmixed_precision: fp16\ndeepspeed_config: {zero_stage: 2}\n"


def test_the_yaml_that_a_line_names_is_read_where_it_lies_beside(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "zero2.yaml").write_text(ZERO_2)
    (tmp_path / "run.sh").write_text(LINE)
    job = parsim.import_job(tmp_path / "run.sh", node="dgx-a100-80gb", global_batch=32, sequence_length=1024)
    assert job.scenario.plan("imported") == Plan(data_parallel=16, zero_stage=2)  # flags of the line come first
    assert (job.scenario.model.name, job.scenario.batch.dtype, job.left) == ("qwen2.5-7b", "bf16", ())
    (tmp_path / "conf" / "zero2.yaml").unlink()
    (left,) = read_job(LINE, "run.sh").left
    assert left.key == "config_file" and "import that file" in left.why


def test_a_model_that_no_row_has_is_left_with_what_to_say() -> None:
    (left,) = read_job("accelerate launch train.py --model_name_or_path me/mine", "run.sh").left
    assert left.key == "script.model_name_or_path" and "--model" in left.why


TRL = """
model_name_or_path: meta-llama/Llama-3.1-8B-Instruct
use_peft: true
lora_r: 8
lora_target_modules: [q_proj, k_proj]
load_in_4bit: true
per_device_train_batch_size: 8
gradient_accumulation_steps: 2
gradient_checkpointing: true
max_length: 2048
optim: paged_adamw_8bit
seed: 1
"""
AXOLOTL = """
base_model: NousResearch/Meta-Llama-3.1-8B
adapter: lora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
sequence_len: 4096
micro_batch_size: 2
bf16: auto
fsdp_version: 2
fsdp_config: {reshard_after_forward: false}
deepspeed: zero.json
"""


def test_arguments_of_trl_in_a_yaml_are_those_of_its_script() -> None:
    job = read_job(TRL, "sft.yaml")
    plan = {"plan.micro_batch": 8, "plan.recompute": "full", "plan.optimizer": "paged_adamw_8bit"}
    tuned = {"lora_rank": 8, "lora_alpha": 32.0, "lora_dropout": 0.05, "lora_targets": ["q_proj", "k_proj"], "quantization": "nf4"}
    others = {"model": "llama3-8b", "batch.sequence_length": 2048, "num_micro_batches": 2, "tuning.double_quantization": False}
    assert {**plan, **others, **{f"tuning.{name}": value for name, value in tuned.items()}}.items() <= job.keys.items()
    assert [each.key for each in job.left] == ["script.seed"]


def test_axolotl_has_names_of_its_own_for_the_same() -> None:
    job = read_job(AXOLOTL, "lora.yml")
    plan = {"plan.micro_batch": 2, "plan.zero_stage": 3, "plan.reshard_after_forward": False}
    tuned = {"tuning.lora_rank": 32, "tuning.lora_alpha": 16.0, "tuning.lora_targets": ["all-linear"]}
    assert {**plan, **tuned, "model": "llama3-8b", "batch.dtype": "bf16", "batch.sequence_length": 4096}.items() <= job.keys.items()
    assert "tuning.quantization" not in job.keys and [each.key for each in job.left] == ["script.deepspeed"]
