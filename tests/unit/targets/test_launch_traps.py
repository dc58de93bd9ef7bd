"""What a parser of torchtitan or MaxText lets through, and would run as something else or not at all, is refused in a sentence."""

from __future__ import annotations

import ast
from typing import Any

import pytest

import parsim
from launch_plans import unknown_model
from parsim.errors import PlanError
from parsim.targets import Launch, NotExpressible, export_plan, read_job

TITAN: dict[str, Any] = {"stack": "torchtitan", "cluster": {"node": "hgx-h100-80gb", "num_nodes": 2, "fabric": "ib-ndr-8rail"}}
MAXTEXT: dict[str, Any] = {**TITAN, "stack": "jax-xla"}
BATCH = {"global_batch": 64, "sequence_length": 4096}
PIPE: dict[str, Any] = {"pipeline_parallel": 2, "zero_stage": 3}
SPLIT = {"tensor_parallel": 2, "sequence_parallel": True}
PLAIN: dict[str, Any] = {"zero_stage": 3, "recompute": "full"}


def launch(to: str, plan: dict[str, Any], model: str = "llama3-8b", **changes: Any) -> Launch:
    rest = MAXTEXT if to.startswith("maxtext") else TITAN
    return export_plan(parsim.from_mapping({"model": model, "batch": BATCH, **rest, **changes, "plans": {"p": plan}}), "p", to)


@pytest.mark.parametrize(
    ("to", "plan", "field"),
    [
        ("torchtitan@0.2.2", {"tensor_parallel": 2, "zero_stage": 3}, "sequence_parallel"),  # which is always on there
        ("torchtitan@0.3.0", {**PLAIN, "recompute_every": 2}, "recompute_every"),
        ("torchtitan@0.3.0", {"zero_stage": 1}, "zero_stage"),
        ("torchtitan@0.3.0", {"context_parallel": 2}, "zero_stage"),  # FSDP shards over these ranks
        ("torchtitan@0.3.0", {"context_parallel": 2, "context_kind": "ring", "zero_stage": 3}, "context_kind"),
        ("torchtitan@0.2.2", {"context_parallel": 2, "context_kind": "ulysses", "zero_stage": 3}, "context_kind"),
        ("torchtitan@0.3.0", {**PIPE, "schedule": "zero_bubble_h1"}, "schedule"),  # its parser takes any name, as Bogus
        ("torchtitan@0.3.0", {"zero_stage": 3, "offload_optimizer": True}, "offload_optimizer"),
        ("torchtitan@0.2.2", {"zero_stage": 3, "optimizer": "adamw_8bit"}, "optimizer"),
        ("torchtitan@0.3.0", {"zero_stage": 3, "precision": "fp8_current"}, "precision"),  # tensorwise scales are gone
        ("maxtext", {"zero_stage": 3}, "recompute"),  # remat_policy none keeps nothing
        ("maxtext", {**PLAIN, "zero_stage": 2}, "zero_stage"),
        ("maxtext", {**PLAIN, **PIPE}, "schedule"),  # it has no 1F1B
        ("maxtext", {**PLAIN, "tensor_parallel": 2}, "sequence_parallel"),
        ("maxtext", {**PLAIN, "reshard_after_forward": False}, "reshard_after_forward"),
        ("maxtext", {"recompute": "full", "context_parallel": 2}, "zero_stage"),  # axis context shards parameters
        ("maxtext", {**PLAIN, "optimizer": "adamw_8bit"}, "optimizer"),
    ],
)
def test_what_has_no_key_is_named(to: str, plan: dict[str, Any], field: str) -> None:
    with pytest.raises(NotExpressible) as caught:
        launch(to, plan)
    assert caught.value.field == field and caught.value.target == to.split("@")[0]


@pytest.mark.parametrize(
    ("to", "plan", "said"),
    [
        ("torchtitan@0.2.2", {**SPLIT, "zero_stage": 0}, "DDP has not supported > 1D"),
        ("torchtitan@0.2.2", {**SPLIT, "tensor_parallel": 4, "pipeline_parallel": 4}, "turns mixed precision off"),
        ("maxtext", {**PLAIN, "context_parallel": 2, "context_kind": "ulysses"}, "on TPUs only"),
        ("maxtext", {**PLAIN, **PIPE, "schedule": "gpipe", "micro_batch": 8}, "divide by pipeline_parallel"),
    ],
)
def test_what_would_not_run_is_told(to: str, plan: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said) as caught:
        launch(to, plan)
    assert not isinstance(caught.value, NotExpressible) and "\n" in str(caught.value)  # with a way out


def test_experts_that_nothing_splits_lie_as_tensor_parallelism_does() -> None:
    for to in ("torchtitan@0.3.0", "torchtitan@0.2.2", "maxtext"):
        with pytest.raises(NotExpressible, match="expert_tensor_parallel"):
            launch(to, {**PLAIN, **SPLIT}, "qwen3-30b-a3b")
    with pytest.raises(NotExpressible, match="expert_tensor_parallel"):  # gone since 0.3
        launch("torchtitan@0.3.0", {**PLAIN, **SPLIT, "expert_parallel": 2, "expert_tensor_parallel": 2}, "qwen3-30b-a3b")
    launch("torchtitan@0.2.2", {**PLAIN, **SPLIT, "expert_parallel": 2, "expert_tensor_parallel": 2}, "qwen3-30b-a3b")


def test_a_pipeline_of_torchtitan_runs_without_graphs() -> None:
    assert "--training.disable_cuda_graphs" in launch("torchtitan@0.3.0", {**PIPE, "layers_per_stage": [16, 16]}).command


@pytest.mark.parametrize(("version", "longest"), [("0.3.0", "max_seq_len=8192"), ("main-2026-08", "max_context_length=8192")])
def test_a_model_that_torchtitan_has_not_is_registered_beside_its_function(version: str, longest: str) -> None:
    found = unknown_model(version)
    text = found.files["parsim_job.py"]
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert names == {"flavour", "llama3_my_llama"} and "--module parsim_job --config llama3_my_llama" in found.command
    assert longest in text and "llama3_configs['my-llama'] = flavour" in text and "model_registry('my-llama')" in text


def test_a_model_whose_heads_do_not_make_up_its_width_is_left_to_who_registers_it() -> None:
    found = unknown_model("0.3.0", head_dim=64)
    assert "flavour(" not in found.files["parsim_job.py"] and any("register one of that name" in note for note in found.notes)


def test_a_name_of_no_schedule_is_left() -> None:
    line = "torchrun --nproc-per-node 8 --nnodes 1 -m torchtitan.train --module llama3 --config llama3_8b"
    job = read_job(f"{line} --parallelism.pipeline_parallel_degree 2 --parallelism.pipeline_parallel_schedule Bogus", "train.sh")
    assert job.num_devices == 8 and [left.value for left in job.left if "schedule" in left.key] == ["Bogus"]


def test_written_actions_go_into_a_file_that_torch_reads() -> None:
    actions = ["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"]
    files = launch("torchtitan@0.2.2", {**PIPE, "schedule": actions, "micro_batch": 4, "layers_per_stage": [16, 16]}).files
    assert files["schedule.csv"] == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    assert 'pipeline_parallel_schedule = "PipelineScheduleSingle"' in files["torchtitan.toml"]


def test_layers_are_dealt_out_as_torchtitan_does_or_written_out() -> None:
    of_titan = {"base": "torchtitan", "layer_split": "embedding_and_head"}
    assert "less_layers = 1" in launch("torchtitan@0.2.2", PIPE, stack=of_titan).files["torchtitan.toml"]
    text = launch("torchtitan@0.2.2", {**PIPE, "layers_per_stage": [20, 12]}).files["torchtitan.toml"]
    assert '"layers.19"], ["layers.20"' in text


@pytest.mark.parametrize("split", ["even", "embedding_and_head"])
@pytest.mark.parametrize("to", ["torchtitan@0.3.0", "torchtitan@0.2.2"])
def test_layers_less_at_the_ends_come_back_and_none_is_a_count_too(to: str, split: str) -> None:
    name, text = next(iter(launch(to, PIPE, stack={"base": "torchtitan", "layer_split": split}).files.items()))
    read = read_job(text, name, "torchtitan")
    assert read.keys["stack.layer_split"] == split
    assert not [each.key for each in read.left if "less_layers" in each.key]


@pytest.mark.parametrize("to", ["torchtitan@0.3.0", "torchtitan@0.2.2"])
@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("gpt3-175b", "model.dropout"),
        ("t5-11b", "model.family"),
        ("bert-large", "model.dropout"),
        ("nemotron-4-15b", "model.activation"),
        ("qwen2.5-7b", "model.qkv_bias"),
    ],
)
def test_a_model_that_no_flavour_of_torchtitan_can_be_is_not_named_as_one(model: str, field: str, to: str) -> None:
    with pytest.raises(NotExpressible) as caught:
        launch(to, {"zero_stage": 3}, model, batch={"global_batch": 64, "sequence_length": 512})
    assert caught.value.field == field


def test_torchtitan_tunes_all_weights() -> None:
    with pytest.raises(NotExpressible, match="all weights"):
        launch("torchtitan", {"zero_stage": 3}, tuning={"lora_rank": 8})


def test_replicas_of_shards_are_two_axes() -> None:
    text = launch("torchtitan@0.2.2", {**PLAIN, "zero_group": 8}).files["torchtitan.toml"]
    assert "data_parallel_replicate_degree = 2\ndata_parallel_shard_degree = 8" in text
    text = launch("maxtext", {**PLAIN, "zero_group": 8}).files["maxtext.yml"]
    assert "ici_fsdp_parallelism: 8\ndcn_fsdp_parallelism: 1\nici_data_parallelism: 1\ndcn_data_parallelism: 2\n" in text


def test_a_batch_a_device_may_be_a_fraction() -> None:
    text = launch("maxtext", {**PLAIN, **SPLIT, "tensor_parallel": 8}).files["maxtext.yml"]
    assert "per_device_batch_size: 0.125\ngradient_accumulation_steps: 32\n" in text  # one of 2 replicas has 32 sequences on 8 devices
    assert "ici_tensor_sequence_parallelism: 8" in text


def test_graphs_of_torchtitan_are_on_unless_turned_off() -> None:
    line = "torchrun -m torchtitan.train --module llama3 --config llama3_8b --training.seq_len 4096"
    assert read_job(line, "x.sh").keys["stack.graphs"] == {"any": "unsplit"}
    assert "stack.graphs" not in read_job(f"{line} --training.disable_cuda_graphs", "x.sh").keys


@pytest.mark.parametrize("value", ["many", "-3", "[1, 2]", "1e400", "true", "null", "9" * 400, '"\\u0000"'])
def test_values_of_another_kind_are_left(value: str) -> None:
    toml = f'[model]\nname = "llama3"\nflavor = "8B"\n[training]\nseq_len = 4096\n[parallelism]\ntensor_parallel_degree = {value}\n'
    texts = {"job.yml": f"model_name: llama3-8b\nici_tensor_parallelism: {value}\nper_device_batch_size: {value}\n", "job.toml": toml}
    for name, text in texts.items():
        try:
            read_job(text, name, "maxtext" if name.endswith("yml") else "torchtitan")
        except parsim.ParsimError as error:
            assert str(error)


def test_tables_nested_without_end_are_refused() -> None:
    with pytest.raises(parsim.ParsimError, match="nested too deep"):
        read_job(f"[training]\nseq_len = 1\n[a{'.b' * 2_000}]\nc = 1\n", "job.toml")
