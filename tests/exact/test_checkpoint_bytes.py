"""A checkpoint has the bytes that the executor holds from one step to the next: its own buffers, counted one by one on each rank."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

import parsim
from checkpoint_by_roles import written_bytes_of_ranks
from parsim.cost.cost_model import CostModel
from parsim.estimator.estimate import stages_of
from parsim.executor.clock import Clock
from parsim.executor.job import RunRequest
from parsim.executor.lockstep import Mail
from parsim.executor.names import NORM
from parsim.executor.rank import Rank
from parsim.goodput import size
from parsim.goodput.size import checkpoint_bytes, device_bytes, held_bytes
from parsim.model.parameters import num_parameters
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim_kernels import Machine
from parsim_kernels.memory import root_of
from support import GPT, MOE, scenario

PLANS = {
    "dp": Plan(data_parallel=2),
    "zero1": Plan(data_parallel=3, zero_stage=1, micro_batch=1),
    "zero3-tp": Plan(data_parallel=2, tensor_parallel=2, zero_stage=3),
    "tp-pp": Plan(tensor_parallel=2, pipeline_parallel=2, data_parallel=2),
    "offload": Plan(data_parallel=2, zero_stage=2, offload_optimizer=True),
    "momentum": Plan(data_parallel=2, optimizer="sgd_momentum"),
    "interleaved": Plan(pipeline_parallel=2, virtual_pipeline=2, schedule="interleaved_1f1b"),
}
EXPERTS = Plan(data_parallel=4, expert_parallel=2, zero_stage=1)


def toy(plan: Plan, **others: object) -> Scenario:
    return scenario(batch=replace(scenario().batch, global_batch=4 * plan.data_parallel), **others)


def of_ranks(own: Scenario, plan: Plan, writers: str) -> list[int]:
    """What each rank writes, in the order of devices."""
    stages = stages_of(own, plan)
    return device_bytes(stages.workload.sizes, held_bytes(stages), 0, writers)[0].tolist()


def held_by_executor(own: Scenario, plan: Plan) -> list[int]:
    """The same of the buffers of ranks before their first step: all but what a step sums or makes anew."""
    model = CostModel(own.cluster, own.stack, own.batch)
    job = RunRequest(own.model, model, plan, dict(own.itemsize_bytes), seed=0, num_steps=1, training=own.training).job()
    machine, found = Machine(job.num_buffers), []
    for number in range(job.num_ranks):
        rank, total, seen = Rank(number, job, machine, Clock(), Mail()), 0, set[int]()
        rank.store.prepare()
        totals = {f"{instance}/{each.name}" for instance, segment in rank.copies for each in segment.totals} | {NORM}
        for memory in dict.fromkeys((number, rank.store.host if job.step.structure.uses_host else number)):
            for name in machine.names(memory):
                root = root_of(machine.get(memory, name))
                made_anew = "/d_" in name or name in totals or any(name.endswith(f".{role}") for role in job.step.structure.host_gradients)
                if id(root) not in seen and not made_anew:
                    total += root.size * machine._memories[memory].itemsize(name)
                seen.add(id(root))
        found.append(total)
    return found


@pytest.mark.parametrize("name", PLANS)
def test_each_rank_writes_what_the_executor_holds_there(name):
    plan = PLANS[name]
    own = toy(plan)
    assert sorted(of_ranks(own, plan, "each")) == sorted(held_by_executor(own, plan))


@pytest.mark.parametrize("name", PLANS)
def test_each_rank_writes_as_much_as_the_files_of_execute_are_said_to_hold(name):
    """checkpoint_by_roles counts the same by the roles of buffers; replicas of a rank of the pipeline write alike there."""
    plan = PLANS[name]
    own = toy(plan)
    (by_rank,) = written_bytes_of_ranks(stages_of(own, plan)).T.tolist()
    assert sorted({*of_ranks(own, plan, "each")}) == sorted({*by_rank})
    assert sum(of_ranks(own, plan, "each")) == sum(by_rank) * plan.num_devices // plan.pipeline_parallel


@pytest.mark.parametrize("model", [MOE, replace(MOE, steer_rate=0.001)], ids=["gates", "steered"])
def test_experts_lie_over_ranks_of_their_own_and_biases_that_steer_them_are_kept(model):
    own = toy(EXPERTS, model=model)
    assert sorted(of_ranks(own, EXPERTS, "each")) == sorted(held_by_executor(own, EXPERTS))


@pytest.mark.parametrize("writers", ["all", "first"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_replicas_write_the_model_once_between_them(writers, replicas, zero_stage):
    plan = Plan(data_parallel=replicas, zero_stage=zero_stage * (replicas > 1))
    own = toy(plan)
    (total,) = checkpoint_bytes(stages_of(own, plan), writers).total.tolist()
    assert total == sum(of_ranks(own, plan, writers))
    # bf16 weights, float32 weights, two states of Adam: 2 + 4 + 4 + 4 bytes; sizes of this model divide by 4, so that nothing pads
    padded = replace(GPT, vocab_size=64)  # to a multiple of 8, as the stack has it
    assert total == 14 * num_parameters(padded)


def test_the_first_replica_alone_writes_what_all_write_together():
    plan = Plan(data_parallel=4)
    first, every = (of_ranks(toy(plan), plan, writers) for writers in ("first", "all"))
    assert first == [sum(every), 0, 0, 0]
    assert max(every) - min(every) <= 4 * len(every)


def test_weights_that_are_not_trained_are_read_and_not_written():
    changes = {"tuning.lora_rank": 2}
    base = {
        "model": "tiny-gpt",
        "cluster": {"node": "dgx-a100-80gb", "num_devices": 1},
        "batch": {"global_batch": 4, "sequence_length": 16},
    }
    plain, tuned = (parsim.from_mapping({**base, "plans": {"a": {}}}, changes=each) for each in ({}, changes))
    whole, adapters = (checkpoint_bytes(stages_of(each, each.plan("a")), "all") for each in (plain, tuned))
    trained = (num_parameters(tuned.model) - num_parameters(plain.model)) * 14
    assert adapters.total.tolist() == [trained]
    assert (adapters.read - adapters.total).tolist() == [whole.total[0] // 14 * 2]


def test_bloom_wrote_2_3_terabytes_of_which_329_gibibytes_are_weights():
    """bigscience.notion.site, BigScience 176B Model: the bf16 weights are 329GB, the full checkpoint is 2.3TB."""
    batch = {"global_batch": 2048, "sequence_length": 2048}
    plan = {"tensor_parallel": 4, "pipeline_parallel": 12, "zero_stage": 1}
    cluster = {"node": "dgx-a100-80gb", "num_nodes": 48, "fabric": "omni-path-100"}
    figures = {"num_layers": 70, "hidden_size": 14336, "ffn_hidden_size": 57344, "num_heads": 112, "num_kv_heads": 112, "head_dim": 128}
    others = {"vocab_size": 250880, "positions": "alibi", "embedding_norm": True}
    model = {"base": "gpt3-175b", "name": "bloom", **figures, **others}  # bigscience/bloom, config.json
    bloom = parsim.from_mapping({"model": model, "cluster": cluster, "batch": batch, "plans": {"a": plan}})
    (total,) = checkpoint_bytes(stages_of(bloom, bloom.plan("a")), "all").total.tolist()
    assert num_parameters(bloom.model) == 176_247_271_424  # as bigscience/bloom has
    assert 328 < 2 * num_parameters(bloom.model) / 2**30 < 329
    assert round(total / 2**30 / 1000, 1) == 2.3


@pytest.mark.parametrize("mutant", ["states are forgotten on the host", "a replica's part is rounded down"])
def test_a_wrong_count_is_noticed(mutant, monkeypatch):
    if mutant.startswith("states"):
        monkeypatch.setattr(size, "host_state_bytes", lambda structure, sizes: 0)
        plan = PLANS["offload"]
        assert sorted(of_ranks(toy(plan), plan, "each")) != sorted(held_by_executor(toy(plan), plan))
    else:
        right = size.written_bytes
        monkeypatch.setattr(
            size, "written_bytes", lambda own, shared, ranks, at, writers: right(own, shared // ranks * ranks, ranks, at, writers)
        )
        plan = Plan(data_parallel=3)
        assert sum(of_ranks(toy(plan), plan, "all")) != of_ranks(toy(Plan()), Plan(), "all")[0]
