"""What the planner leaves out of its own accord wins nothing: against pricing all of it, on drawn and on real pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from parsim import estimates
from parsim.cluster import Link
from parsim.parallel.legality import faults
from parsim.parallel.plan import Batch, Plan
from parsim.planner import accord, splits
from parsim.planner.space import candidates
from parsim.scenario import PlanSpace, Scenario
from parsim.scenario.source import Source
from support import CLUSTER, FABRIC, GPT, STACK, scenario, tiered

AUTO = ("auto",)
LLAMA = {"model": "llama3-8b", "node": "dgx-a100-80gb", "num_devices": 16, "global_batch": 64, "sequence_length": 8192}
GPT3 = {"model": "gpt3-13b", "node": "dgx-h100", "num_devices": 32, "global_batch": 64, "sequence_length": 2048}
SEEDS = [tiered(seed, str(seed), slow=seed > 1) for seed in range(6)]


def plans_of(chosen: Scenario, **axes: tuple[object, ...]) -> list[Plan]:
    open_axes = {"tensor_parallel": AUTO, "pipeline_parallel": AUTO, **axes}
    return [*candidates(chosen, PlanSpace("all", open_axes)).plans]


def drawn_scenario(seed: int) -> Scenario:
    """Links and stacks of all kinds."""
    rng = np.random.default_rng(seed)
    switches = {name: bool(rng.integers(2)) for name in ("gradient_overlap", "tensor_overlap", "multi_tensor_update")}
    nic = replace(FABRIC.nic, bandwidth_bytes_per_s=float(10 ** rng.uniform(4.5, 8)), latency_s=float(10 ** rng.uniform(-7, -4)))
    cluster = replace(CLUSTER, num_nodes=int(rng.integers(1, 3)), fabric=replace(FABRIC, nic=nic))
    model = replace(GPT, num_layers=int(rng.choice([4, 6, 8])))
    return scenario(model=model, batch=Batch(int(rng.choice([8, 16])), 8), cluster=cluster, stack=replace(STACK, **switches))


def losses(told: dict[str, object], stack: str) -> Iterator[float]:
    """How much faster the best of all splits of each pipeline is than the best of those that are tried."""
    chosen = Source(None, {**told, "stack": stack}, ()).load()
    for plan in plans_of(chosen, micro_batch=(1, 2)):
        own = {splits.split_of(replace(plan, layers_per_stage=each), chosen) for each in splits.ROUND_ENDS}  # type: ignore[arg-type]
        each = [replace(plan, layers_per_stage=split) for split in own]
        legal = [one for one in each if not faults(one, chosen.model, chosen.batch, chosen.cluster.num_devices, stack=chosen.stack)]
        tried = np.array([not splits.no_less(one, chosen) for one in legal])
        if plan.pipeline_parallel > 1:
            steps = estimates(chosen, legal).step_s
            yield float(steps[tried].min() / steps.min() - 1)


@pytest.mark.parametrize("told", [LLAMA, GPT3], ids=["llama", "gpt"])
@pytest.mark.parametrize("stack", ["megatron-core", "torchtitan"])
def test_the_best_split_is_at_most_a_thousandth_faster_than_those_that_are_tried(told: dict[str, object], stack: str) -> None:
    found = [*losses(told, stack)]
    assert len(found) > 10 and max(found) < 0.001


def test_mutant_a_head_that_takes_as_long_as_its_weights_say_misses_better_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_HEADS", (1.0,))
    assert max(losses(GPT3, "megatron-core")) > 0.04


@cache
def chunks_of_31_layers(rule: str) -> tuple[tuple[Plan, ...], np.ndarray]:
    """All plans of so many layers, which no pipeline has even chunks of, and their steps."""
    chosen = Source(None, {**GPT3, "model": {"base": "gpt3-13b", "name": "odd", "num_layers": 31}, "stack": "torchtitan"}, ()).load()
    chosen = replace(chosen, stack=replace(chosen.stack, layer_split=rule))
    axes = {"virtual_pipeline": tuple(range(2, 16)), "micro_batch": (1, 2, 4), "schedule": ("interleaved_1f1b", "breadth_first")}
    plans = plans_of(chosen, **axes)
    return tuple(plans), estimates(chosen, plans).step_s


def best_of_chunks(is_tried: Callable[[Plan], bool], rule: str = "even") -> Iterator[float]:
    """The same of all numbers of chunks."""
    plans, steps = chunks_of_31_layers(rule)
    tried = np.array([*map(is_tried, plans)])
    pipelines = [replace(plan, virtual_pipeline=1) for plan in plans]
    for each in {*pipelines}:
        own = np.array([each == other for other in pipelines])
        yield float(steps[own & tried].min() / steps[own].min() - 1)


# Where embedding and head count as layers, chunks of three in a hundred cost a little more than the best.
@pytest.mark.parametrize(("rule", "loss"), [("even", 0.0), pytest.param("embedding_and_head", 0.006, marks=pytest.mark.slow)])
def test_of_chunks_that_cannot_be_even_none_is_faster_than_those_that_are_tried(rule: str, loss: float) -> None:
    found = [*best_of_chunks(lambda plan: not accord._no_chunks(plan, 31, rule), rule)]
    assert len(found) > 30 and max(found) <= loss


def test_mutant_two_chunks_alone_miss_faster_plans() -> None:
    assert max(best_of_chunks(lambda plan: plan.virtual_pipeline == 2)) > 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("op_by_op", [False, True])
def test_one_replica_that_updates_for_all_is_never_faster_and_holds_no_less(seed: int, op_by_op: bool) -> None:
    chosen = drawn_scenario(seed)
    chosen = replace(chosen, stack=replace(chosen.stack, multi_tensor_update=op_by_op))
    plans = [each for each in plans_of(chosen, micro_batch=AUTO, recompute=AUTO) if each.data_parallel > 1]
    for_all, alone = estimates(chosen, [replace(each, gradient_sync="master") for each in plans]), estimates(chosen, plans)
    assert (for_all.step_s >= alone.step_s).all() and (for_all.peak_bytes >= alone.peak_bytes).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_saves_memory_takes_no_less_time(seed: int) -> None:
    chosen = drawn_scenario(seed)
    plans = plans_of(chosen, micro_batch=AUTO)
    alone = estimates(chosen, plans).step_s
    for changes in ({"offload_optimizer": True}, *({"recompute_modules": each} for each in accord.module_sets(chosen.model, chosen.stack))):
        assert (estimates(chosen, [replace(each, **changes) for each in plans]).step_s >= alone).all(), changes


def test_all_forwards_first_is_faster_where_messages_are_far_and_so_it_is_tried() -> None:
    # 1F1B sends a micro_batch on when one has come back, so that every few of them wait there and back; GPipe waits once a way.
    far = replace(CLUSTER, num_sites=16, site_link=Link("sea", 1e9, 0.5))
    chosen = scenario(cluster=far, batch=Batch(32, 8))
    plans = [Plan(pipeline_parallel=4, tensor_parallel=2, schedule=each) for each in ("1f1b", "gpipe")]
    usual, forwards_first = estimates(chosen, plans).step_s
    assert forwards_first < 0.5 * usual
    assert not any(each.wrong(plans[1]) for each in accord.no_gain(chosen) if each.name == "schedule")
