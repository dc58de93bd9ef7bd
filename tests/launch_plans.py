"""Plans drawn for launchers: legal ones of models and nodes of the catalog, of which nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any

from msgspec.structs import replace

import parsim
from parsim import schedules
from parsim.parallel.legality import faults_of
from parsim.parallel.plan import Plan
from parsim.scenario import Scenario
from parsim.targets.target import Launch, Setup

_MOST_DEVICES = 512


@cache
def scenario_of(model: str, stack: str, node: str, sequence_length: int) -> Scenario:
    """One whose devices and batch a drawn plan chooses; a stack is a name, or JSON of a row."""
    cluster = {"node": node, "num_nodes": 64, "fabric": "ib-ndr-8rail"}
    batch = {"global_batch": _MOST_DEVICES, "sequence_length": sequence_length}
    kept = json.loads(stack) if stack.startswith("{") else stack
    return parsim.from_mapping({"model": model, "stack": kept, "cluster": cluster, "batch": batch, "plans": {"drawn": {}}}, name="drawn")


def drawn_setup(
    seed: int,
    *,
    models: Sequence[str],
    stacks: Sequence[str],
    node: str = "hgx-h100-80gb",
    all_fields: bool = False,
    mostly: Mapping[str, Sequence[Any]] | None = None,
) -> Setup:
    """The first legal setup that a seed draws, on whole nodes or a part of one; with `all_fields` also of what few launchers can say.

    `mostly`: values that four of five plans have in a field, where they are legal."""
    rng = Random(seed)
    while True:
        base = scenario_of(rng.choice(models), rng.choice(stacks), node, rng.choice((2048, 4096)))
        plan, count = _plan(rng, base, all_fields, mostly or {})
        devices, per_node = plan.num_devices, base.cluster.node.devices_per_node
        if devices > _MOST_DEVICES or (devices > per_node and devices % per_node):
            continue
        if plan.schedule not in schedules.names():
            continue
        batch = replace(base.batch, global_batch=plan.data_parallel * plan.micro_batch * count * plan.num_copies)
        setup = Setup("drawn", replace(base, batch=batch), plan)
        if not faults_of(plan, replace(setup.scenario.facts, num_devices=None)):
            return setup


def _plan(rng: Random, base: Scenario, all_fields: bool, mostly: Mapping[str, Sequence[Any]]) -> tuple[Plan, int]:
    model = base.model
    pp, experts = rng.choice((1, 1, 2, 4)), bool(model.extents.get("E"))
    chunks = rng.choice((1, 1, 2, 2, 4)) if pp > 1 else 1
    tp, cp, dp = rng.choice((1, 1, 2, 4, 8)), rng.choice((1, 1, 1, 2, 4)), rng.choice((1, 2, 4, 8, 8))
    zero = rng.choice((3, 3, 3, 0)) if not all_fields else rng.choice((0, 1, 2, 3))
    of_two = ("zero_bubble_v", "dual_pipe_v") if chunks == 2 else ()
    usual = ("1f1b", "gpipe") if chunks == 1 else ("interleaved_1f1b", "breadth_first", *of_two)
    named = schedules.names_for(pp, chunks) if all_fields else usual
    plan: dict[str, Any] = {
        "data_parallel": dp,
        "tensor_parallel": tp,
        "sequence_parallel": tp > 1 and rng.random() < 0.8,
        "pipeline_parallel": pp,
        "virtual_pipeline": chunks,
        "schedule": rng.choice(named) if pp > 1 and named else "1f1b",
        "context_parallel": cp,
        "context_kind": rng.choice(("all_gather", "all_gather", "ring", *(("ulysses",) if all_fields else ()))),
        "micro_batch": rng.choice((1, 1, 2, 4)),
        "recompute": rng.choice(("none", "selective", "full")),
        "zero_stage": zero,
        "zero_group": rng.choice([n for n in (1, 2, 4, 8) if dp % n == 0]) if zero and rng.random() < 0.3 else None,
        "reshard_after_forward": rng.choice((None, True, False)) if zero == 3 else None,
        "optimizer": rng.choice(("adamw", "adamw", "adamw", "precision_aware_adamw", "adamw_8bit")),
        "layers_per_stage": _layers(rng, model.num_layers, pp * chunks) if pp > 1 and rng.random() < 0.4 else None,
        "precision": rng.choice((None, None, "bf16", "fp32", "fp8_rowwise", "fp8_current", "mxfp8")),
    }
    if plan["recompute"] == "full":
        plan["recompute_every"] = rng.choice((1, 1, 1, 2, 4))
    if experts:
        plan |= {"expert_parallel": rng.choice((1, 2, 4, 8)), "expert_tensor_parallel": rng.choice((1, tp))}
    if all_fields:
        plan |= {"offload_optimizer": rng.random() < 0.2, "gradient_sync": rng.choice(("all_reduce", "all_reduce", "master"))}
        plan |= {"rank_order": rng.choice(("tp-dp-pp", "tp-dp-pp", "tp-pp-dp")), "optimizer_in_backward": rng.random() < 0.2}
    for field, values in mostly.items():
        legal = [each for each in values if field != "schedule" or (pp > 1 and each in schedules.names_for(pp, chunks))]
        if legal and rng.random() < 0.8:
            plan[field] = rng.choice(legal)
    plan["sequence_parallel"] = plan["sequence_parallel"] and tp > 1
    if plan["zero_stage"] != 3:
        plan |= {"reshard_after_forward": None, "zero_group": plan["zero_group"] if plan["zero_stage"] else None}
    if experts and plan.get("expert_tensor_parallel") == "tp":
        plan["expert_tensor_parallel"] = tp
    if not experts:
        plan |= {"expert_parallel": 1, "expert_tensor_parallel": 1}
    return Plan(**plan), pp * rng.choice((1, 2, 4)) if pp > 1 else rng.choice((1, 1, 2, 4))


def _layers(rng: Random, layers: int, stages: int) -> tuple[int, ...]:
    """Near even ones."""
    each, rest = divmod(layers, stages)
    more = set(rng.sample(range(stages), rest))
    return tuple(each + (stage in more) for stage in range(stages))


def unknown_model(version: str, **figures: Any) -> Launch:
    """An export to torchtitan of a model in the form of Llama 3 that it has not."""
    sizes = {"num_layers": 12, "hidden_size": 2048, "ffn_hidden_size": 6144, "num_heads": 16, "num_kv_heads": 4, "head_dim": 128}
    model = {"base": "llama3-8b", "name": "my-llama", **sizes, "vocab_size": 32000, "tied_embedding": True, **figures}
    batch, plan = {"global_batch": 16, "sequence_length": 4096}, {"zero_stage": 3, "micro_batch": 2}
    given = {"model": model, "cluster": {"node": "dgx-h100"}, "batch": batch, "stack": "torchtitan", "plans": {"a": plan}}
    return parsim.export_plan(parsim.from_mapping(given), "a", f"torchtitan@{version}")
