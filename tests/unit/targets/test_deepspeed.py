"""DeepSpeed's JSON: what a plan is there, by its documentation; what its engine would not run; what other people's files say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

import parsim
from parsim.errors import ParsimError
from parsim.parallel.plan import Plan
from parsim.targets import ForeignJob, NotExpressible, read_job
from round_trips import plan_of, same_work

MODEL = {"model": "tiny-gpt", "node": "dgx-a100-80gb"}


def scenario(global_batch: int = 32, nodes: int = 1, dtype: str = "bf16", model: str = "tiny-gpt") -> parsim.Scenario:
    cluster = {"node": "dgx-a100-80gb", "num_nodes": nodes, "fabric": "ib-hdr-8rail"}
    batch = {"global_batch": global_batch, "sequence_length": 8, "dtype": dtype}
    return parsim.from_mapping({"model": model, "cluster": cluster, "batch": batch, "stack": "deepspeed"})


def exported(plan: Plan, **options: Any) -> dict[str, Any]:
    launch = parsim.export_plan(scenario(**options), plan, "deepspeed")
    return dict(json.loads(launch.files["ds_config.json"]))


def job(**keys: Any) -> ForeignJob:
    return read_job(json.dumps(keys), "ds.json")


def test_a_plan_of_zero_3_is_what_deepspeeds_documentation_says() -> None:
    found = exported(Plan(data_parallel=8, micro_batch=2, zero_stage=3, offload_optimizer=True, recompute="full"))
    training = {"lr": 0.001, "eps": 1e-8, "weight_decay": 0.0, "betas": [0.9, 0.999]}  # a scenario's own defaults
    assert found == {
        **{"train_batch_size": 32, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2},  # 32 = 2 x 2 x 8
        "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "pin_memory": True}},
        "activation_checkpointing": {"number_checkpoints": 2},  # layers of tiny-gpt
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": training},
        "gradient_clipping": 1.0,
    }


@pytest.mark.parametrize("plan", [Plan(data_parallel=4, tensor_parallel=2), Plan(data_parallel=4, pipeline_parallel=2)])
def test_replicas_are_the_batch_over_micro_batch_and_steps_whatever_else_splits(plan: Plan) -> None:
    found = exported(plan)
    micro, steps = found["train_micro_batch_size_per_gpu"], found["gradient_accumulation_steps"]
    assert found["train_batch_size"] == micro * steps * 4 == 32


def test_ulysses_is_sequence_parallel_size_and_no_other_kind_is() -> None:
    plan = Plan(data_parallel=4, context_parallel=2, context_kind="ulysses")
    assert exported(plan)["sequence_parallel_size"] == 2
    with pytest.raises(NotExpressible, match="sequence parallelism is ulysses, not ring"):
        exported(replace(plan, context_kind="ring"))


def _ulysses(rng: Random) -> tuple[parsim.Scenario, Plan]:
    """A plan whose sequences lie on several ranks, which deepspeed may run or not, on as many devices as it has."""
    context, replicas = rng.choice((2, 4)), rng.choice((1, 2, 4, 8))
    micro, count, zero = rng.choice((1, 2, 3)), rng.choice((1, 2, 5)), rng.choice((0, 1, 2, 3))
    plan = Plan(
        data_parallel=replicas,
        context_parallel=context,
        context_kind=rng.choice(("ulysses", "ulysses", "ulysses", "ring", "all_gather")),
        micro_batch=micro,
        zero_stage=zero if replicas * context > 1 else 0,
        offload_optimizer=zero > 0 and rng.random() < 0.3,
        recompute=rng.choice(("none", "full", "selective")),
        optimizer=rng.choice(("adamw", "adamw", "sgd_momentum")),
    )
    devices = replicas * context
    node = {"base": "dgx-a100-80gb", "devices_per_node": min(devices, 8)}
    cluster = {"node": node, "num_nodes": -(-devices // 8), "fabric": "ib-hdr-8rail"}
    batch = {"global_batch": replicas * micro * count, "sequence_length": 16, "dtype": rng.choice(("bf16", "fp16", "fp32"))}
    model = {"base": "tiny-gpt", "num_heads": 8, "num_kv_heads": 8}
    return parsim.from_mapping({"model": model, "cluster": cluster, "batch": batch, "stack": "deepspeed"}), plan


def ulysses_trips(count: int) -> Counter[str]:
    """Draws by what became of them, until so many came back or four times as many were drawn."""
    rng, found = Random(0), Counter[str]()
    while found["same"] < count and found.total() < 4 * count:
        here, plan = _ulysses(rng)
        if here.faults(plan):
            continue
        try:
            text = parsim.export_plan(here, plan, "deepspeed").files["ds_config.json"]
        except NotExpressible as error:
            found[error.field] += 1
            continue
        read = read_job(text, "ds_config.json")
        assert same_work(here, replace(plan, data_parallel=1), replace(plan_of(read), data_parallel=1)), (plan, read.keys)
        assert read.keys["batch.global_batch"] == here.batch.global_batch and read.keys["batch.dtype"] == here.batch.dtype
        found["same"] += 1
    return found


def test_drawn_plans_of_ulysses_come_back_as_they_were() -> None:
    assert ulysses_trips(20)["same"] == 20


@pytest.mark.slow
def test_five_hundred_plans_of_ulysses_come_back_and_others_are_refused_by_name() -> None:
    found = ulysses_trips(500)
    assert found["same"] == 500 and {"context_kind", "recompute"} <= {*found}, found


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan(data_parallel=4, pipeline_parallel=2, zero_stage=2), "zero_stage"),  # engine: incompatible with pipeline parallelism
        (Plan(data_parallel=4, pipeline_parallel=2, schedule="gpipe"), "schedule"),
        (Plan(data_parallel=2, pipeline_parallel=2, tensor_parallel=2), "tensor_parallel"),
        (Plan(data_parallel=4, tensor_parallel=2, sequence_parallel=True), "sequence_parallel"),
        (Plan(data_parallel=8, zero_stage=3, zero_group=4), "zero_group"),  # MiCS was removed; hpZ shards the optimizer over all
        (Plan(data_parallel=8, gradient_sync="master"), "gradient_sync"),
        (Plan(data_parallel=8, recompute="selective"), "recompute"),
        (Plan(data_parallel=8, optimizer="adamw_8bit"), "optimizer"),
        (Plan(data_parallel=8, offload_optimizer=True), "offload_optimizer"),
    ],
)
def test_what_its_engine_does_not_run_is_not_expressible(plan: Plan, field: str) -> None:
    with pytest.raises(NotExpressible) as caught:
        exported(plan)
    assert (caught.value.field, caught.value.target, caught.value.version) == (field, "deepspeed", "0.19.8")


def test_a_precision_of_eight_bits_is_not_expressible() -> None:
    found = parsim.load("scenarios/llama3-8b-fp8.yaml")
    with pytest.raises(NotExpressible, match="trains in bf16, fp16 and fp32") as caught:
        parsim.export_plan(found, next(iter(found.plans)), "deepspeed")
    assert caught.value.field == "precision"


@pytest.mark.parametrize("key", ["amp", "sparse_attention", "elasticity", "curriculum_learning", "zero_optimization.mics_shard_size"])
def test_keys_that_it_refuses_by_name_are_refused_by_name(key: str) -> None:
    above, _, inner = key.partition(".")
    with pytest.raises(ParsimError, match=f"DeepSpeed 0.19.8 refuses {key}"):
        job(**{"train_batch_size": 8, above: {inner: 8} if inner else {"enabled": True}})


def test_an_unknown_key_which_it_ignores_is_listed() -> None:
    found = job(train_batch_size=8, zero_optimisation={"stage": 3})
    assert [(each.key, each.value) for each in found.left] == [("zero_optimisation.stage", 3)]
    assert "plan.zero_stage" not in found.keys


def test_a_file_of_two_precisions_or_of_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ParsimError, match="both enabled"):
        job(train_batch_size=8, bf16={"enabled": True}, fp16={"enabled": True})
    with pytest.raises(ParsimError, match="train_batch_size = 10 is no multiple"):
        job(train_batch_size=10, train_micro_batch_size_per_gpu=2, gradient_accumulation_steps=2)


def test_what_the_trainer_fills_in_is_left_and_the_options_say_it(tmp_path: Path) -> None:
    auto = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}
    zero = {"stage": 2, "offload_optimizer": {"device": "none"}, "reduce_bucket_size": "auto"}
    (tmp_path / "z2.json").write_text(
        json.dumps({**auto, "fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}, "zero_optimization": zero})
    )
    found = parsim.import_job(tmp_path / "z2.json", **MODEL, global_batch=64, dtype="fp16")
    assert found.scenario.plan("imported") == Plan(data_parallel=8, zero_stage=2) and found.scenario.batch.dtype == "fp16"
    assert {*auto, "zero_optimization.reduce_bucket_size"} <= {each.key for each in found.left}


def test_parameters_on_the_host_disks_and_a_second_partition_are_said_not_to_be_built() -> None:
    offload = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "nvme"}, "zero_hpz_partition_size": 8}
    left = {
        each.key.rpartition("zero_optimization.")[2]: each.why
        for each in job(train_batch_size=8, zero_optimization={"stage": 3, **offload}).left
    }
    assert set(left) == {"offload_param.device", "offload_optimizer.device", "zero_hpz_partition_size"}
    assert all("not built" in why for why in left.values())


def test_no_clipping_and_the_form_of_zero_of_old_are_read() -> None:
    found = job(train_batch_size=8, gradient_clipping=0.0, zero_optimization=True).keys
    assert "training.max_norm" not in found and found["plan.zero_stage"] == 1
