"""How a plan is said to Megatron Core, and read of what it is told: degrees, pipeline, ZeRO, recomputation, optimizer, batch."""

from __future__ import annotations

from math import prod
from typing import Any, Final

from parsim import schedules
from parsim.parallel.recomputation import CHECKPOINTED, DISCARDING
from parsim.parallel.stages import layers_of
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.megatron.layout import from_ends, layers_in, layout_text, with_ends_counted
from parsim.targets.target import MICRO_BATCHES, KeyValue, Setup

WORLD: Final = "WORLD_SIZE"
NO_SHARD: Final = "no_shard"
STRATEGIES: Final = {1: "optim", 2: "optim_grads", 3: "optim_grads_params"}  # of Megatron-FSDP, by ZeRO stage
MODULES: Final = (*CHECKPOINTED, *DISCARDING)
_KINDS: Final = {"ring": "p2p", "all_gather": "all_gather", "ulysses": "a2a", "ulysses_ring": "a2a+p2p"}
_KIND_OF: Final = {**{name: kind for kind, name in _KINDS.items()}, "allgather": "all_gather"}  # as its help spells it
_DEGREES: Final = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
_MICRO, _GLOBAL = "micro_batch_size", "global_batch_size"
_SGD: Final = "sgd_momentum"
_PAIRED: Final = {"combined_1f1b": False, "combined_1f1b_delayed": True}  # and whether weight gradients are delayed


def entries(version: str) -> tuple[Entry, ...]:
    """Those of plan and batch."""
    strategy = NO_SHARD if version.startswith("0.16") else STRATEGIES[3]  # the default of the command line moved in 0.19

    def read_sharding(keys: Keys) -> dict[str, Any]:
        return _read_sharding(keys, strategy)

    return (
        Entry(("plan.data_parallel",), _write_world, _read_world),
        same("plan.tensor_parallel", "tensor_model_parallel_size", default=1),
        Entry(("plan.sequence_parallel",), lambda setup: {"sequence_parallel": setup.plan.sequence_parallel}, _read_sequence),
        Entry(
            ("plan.pipeline_parallel", "plan.virtual_pipeline", "plan.schedule", "plan.layers_per_stage"), _write_pipeline, _read_pipeline
        ),
        Entry(("plan.context_parallel", "plan.context_kind", "plan.context_group"), _write_context, _read_context),
        Entry(("plan.expert_parallel", "plan.expert_tensor_parallel"), _write_experts, _read_experts),
        Entry(("plan.rank_order",), _write_order, _read_order),
        Entry(("plan.zero_stage", "plan.zero_group", "plan.reshard_after_forward"), _write_sharding, read_sharding),
        same("plan.micro_batch", _MICRO),
        Entry(("batch.global_batch",), lambda setup: {_GLOBAL: setup.batch.global_batch}, _read_global_batch),
        same("batch.sequence_length", "seq_length"),
        Entry(("plan.recompute", "plan.recompute_modules"), _write_recompute, _read_recompute),
        Entry(("plan.optimizer", "plan.offload_optimizer"), _write_optimizer, _read_optimizer),
    )


def _read_global_batch(keys: Keys) -> dict[str, Any]:
    """Where no key says it, a step has one micro-batch (megatron/training/arguments.py, validate_args)."""
    if _GLOBAL not in keys:
        return {MICRO_BATCHES: 1} if _MICRO in keys else {}
    value = keys.take(_GLOBAL)
    return {} if keys.is_unresolved(_GLOBAL) else {"batch.global_batch": value}


def _write_world(setup: Setup) -> dict[str, KeyValue]:
    return {WORLD: setup.plan.num_devices}


def _read_world(keys: Keys) -> dict[str, Any]:
    world = keys.like(WORLD, 0)
    inner = prod(keys.like(name, 1) for name in _DEGREES)
    if not world or inner < 1 or any(keys.is_unresolved(name) for name in _DEGREES):
        return {"num_devices": world} if world else {}
    if world % inner:
        keys.leave(WORLD, f"tensor x pipeline x context parallelism = {inner} does not divide it")
        return {"num_devices": world}
    return {"num_devices": world, "plan.data_parallel": world // inner}


def _read_sequence(keys: Keys) -> dict[str, Any]:
    """Its parser turns it off where nothing splits layers."""
    return {"plan.sequence_parallel": keys.like("sequence_parallel", False) and keys.like("tensor_model_parallel_size", 1) > 1}


def _write_pipeline(setup: Setup) -> dict[str, KeyValue]:
    plan, model = setup.plan, setup.model
    layers = layers_of(plan, model.num_layers, setup.stack.layer_split)
    keys: dict[str, KeyValue] = {"pipeline_model_parallel_size": plan.pipeline_parallel}
    if plan.num_stages > 1 and (plan.layers_per_stage or len(set(layers)) > 1):
        keys["pipeline_model_parallel_layout"] = layout_text(layers, getattr(model, "mtp_layers", 0))
    elif plan.virtual_pipeline > 1:
        keys["num_virtual_stages_per_pipeline_rank"] = plan.virtual_pipeline
    if plan.schedule in _PAIRED:
        keys["overlap_moe_expert_parallel_comm"] = True
        keys["delay_wgrad_compute"] = _PAIRED[str(plan.schedule)]
    return keys


def _read_pipeline(keys: Keys) -> dict[str, Any]:
    ranks, num_layers = keys.like("pipeline_model_parallel_size", 1), keys.like("num_layers", 0)
    found: dict[str, Any] = {} if keys.is_unresolved("pipeline_model_parallel_size") else {"plan.pipeline_parallel": ranks}
    layers, chunks = _stages(keys, max(1, ranks), num_layers)
    if layers and len(layers) % max(1, ranks) == 0:
        found["plan.layers_per_stage"], chunks = layers, len(layers) // max(1, ranks)
    found["plan.virtual_pipeline"] = chunks
    found["plan.schedule"] = schedules.default(chunks)
    if keys.like("overlap_moe_expert_parallel_comm", False):
        found["plan.schedule"] = next(name for name, delays in _PAIRED.items() if delays == keys.like("delay_wgrad_compute", False))
    return found


def _stages(keys: Keys, ranks: int, num_layers: int) -> tuple[tuple[int, ...] | None, int]:
    """The layers of each stage, None where all have as many, and the chunks of a rank."""
    chunks = keys.like("num_virtual_stages_per_pipeline_rank", 1)
    if layout := keys.take("pipeline_model_parallel_layout"):
        if (layers := layers_in(layout)) is None or len(layers) % ranks:
            keys.leave("pipeline_model_parallel_layout", "it lays embedding, layers and loss otherwise than parsim does")
        return layers, chunks
    a_stage = keys.like("num_layers_per_virtual_pipeline_stage", 0)
    embedding, loss = (keys.like(f"account_for_{end}_in_pipeline_split", False) for end in ("embedding", "loss"))
    if a_stage:
        chunks = max(1, (num_layers + embedding + loss) // ranks // a_stage)
    first, last = (keys.of_type(int, f"decoder_{end}_pipeline_num_layers") for end in ("first", "last"))
    if first is None and last is None and not (embedding or loss):
        return None, chunks
    ends = first is not None or last is not None
    split = (
        from_ends(num_layers, ranks, chunks, first, last)
        if ends
        else with_ends_counted(num_layers, ranks * chunks, embedding=embedding, loss=loss)
    )
    for name in ("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers") if split is None else ():
        if name in keys:
            keys.leave(name, f"the {num_layers} layers do not go into {ranks} x {chunks} stages so")
    return split, chunks


def _write_context(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    if plan.context_parallel == 1 or plan.context_kind not in _KINDS:
        return {"context_parallel_size": plan.context_parallel}
    keys: dict[str, KeyValue] = {"context_parallel_size": plan.context_parallel, "cp_comm_type": [_KINDS[plan.context_kind]]}
    if plan.context_group:
        keys["hierarchical_context_parallel_sizes"] = [plan.context_group, plan.context_parallel // plan.context_group]
    return keys


def _read_context(keys: Keys) -> dict[str, Any]:
    degree, said = keys.like("context_parallel_size", 1), keys.take("cp_comm_type") or ["p2p"]
    sizes = keys.take("hierarchical_context_parallel_sizes")
    if degree == 1:
        return {} if keys.is_unresolved("context_parallel_size") else {"plan.context_parallel": 1}
    names = {str(each) for each in (said if isinstance(said, list | tuple) else [said])}
    found: dict[str, Any] = {"plan.context_parallel": degree}
    if len(names) > 1 or not names <= _KIND_OF.keys():
        keys.leave("cp_comm_type", "one kind of all layers is built")
    else:
        found["plan.context_kind"] = _KIND_OF[names.pop()]
    if isinstance(sizes, list | tuple) and len(sizes) == 2:
        found["plan.context_group"] = sizes[0]
    elif sizes:
        keys.leave("hierarchical_context_parallel_sizes", "two levels are built")
    return found


def _write_experts(setup: Setup) -> dict[str, KeyValue]:
    if not getattr(setup.model, "num_experts", 0):
        return {}
    plan = setup.plan
    return {"expert_model_parallel_size": plan.expert_parallel, "expert_tensor_parallel_size": plan.expert_tensor_parallel}


def _read_experts(keys: Keys) -> dict[str, Any]:
    """Where nothing is said of it, the ranks that split a layer split each expert, too."""
    tensor = keys.like("tensor_model_parallel_size", 1) if keys.take("num_experts") else 1
    found = {
        "expert_parallel": ("expert_model_parallel_size", 1),
        "expert_tensor_parallel": ("expert_tensor_parallel_size", tensor),
    }
    return {f"plan.{field}": keys.like(key, usual) for field, (key, usual) in found.items() if not keys.is_unresolved(key)}


def _write_order(setup: Setup) -> dict[str, KeyValue]:
    return {"use_tp_pp_dp_mapping": True} if setup.plan.rank_order == "tp-pp-dp" else {}


def _read_order(keys: Keys) -> dict[str, Any]:
    return {"plan.rank_order": "tp-pp-dp" if keys.like("use_tp_pp_dp_mapping", False) else "tp-dp-pp"}


def _write_sharding(setup: Setup) -> dict[str, KeyValue]:
    """The strategy stands there whatever the plan: its default is another by version, and in the dataclass."""
    plan, overlaps = setup.plan, setup.stack.gradient_overlap
    keys: dict[str, KeyValue] = {"data_parallel_sharding_strategy": NO_SHARD}
    if plan.zero_stage:
        keys["use_distributed_optimizer"] = True
    if plan.zero_stage > 1:
        keys |= {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": STRATEGIES[plan.zero_stage]}
        keys |= {"ckpt_format": "fsdp_dtensor", "gradient_accumulation_fusion": False}
    if plan.zero_stage and plan.zero_group and plan.zero_group < plan.data_parallel:
        keys["num_distributed_optimizer_instances"] = plan.data_parallel // plan.zero_group
    if overlaps or plan.zero_stage > 1:
        keys["overlap_grad_reduce"] = True
    return keys | ({"overlap_param_gather": True} if plan.zero_stage and "overlap_grad_reduce" in keys else {})


def _read_sharding(keys: Keys, default: str) -> dict[str, Any]:
    for name in ("overlap_grad_reduce", "overlap_param_gather", "ckpt_format", "gradient_accumulation_fusion"):
        keys.take(name)  # what goes with it
    # Megatron-LM, megatron/core/optimizer/layer_wise_optimizer.py: dist_muon spreads the states of whole weights over the replicas.
    stage, reshard = int(keys.like("use_distributed_optimizer", False) or keys.is_value("optimizer", "dist_muon")), None
    strategy = keys.of_type(str, "data_parallel_sharding_strategy", default)
    if keys.like("use_megatron_fsdp", False):
        stage = next((stage for stage, name in STRATEGIES.items() if name == strategy), 0)
        reshard = True if stage == 3 else None
    elif keys.like("use_torch_fsdp2", False):
        stage, reshard = 3, keys.like("torch_fsdp2_reshard_after_forward", True)
    found: dict[str, Any] = {"plan.zero_stage": stage, "plan.reshard_after_forward": reshard}
    count, world = keys.like("num_distributed_optimizer_instances", 1), _read_world(keys)
    if count > 1 and stage and (replicas := world.get("plan.data_parallel", 0)) % count == 0 and replicas:
        found["plan.zero_group"] = replicas // count
    elif count > 1:
        keys.leave("num_distributed_optimizer_instances", "it does not divide the replicas, or nobody says how many there are")
    return found


def _write_recompute(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    if plan.recompute == "full":
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    meant = plan.recompute_modules or (setup.stack.selective_recompute if plan.recompute == "selective" else ())
    if not meant or not set(meant) <= set(MODULES):
        return {}
    return {"recompute_granularity": "selective", "recompute_modules": [*meant]}


def _read_recompute(keys: Keys) -> dict[str, Any]:
    asked = keys.of_type(str, "recompute_granularity")
    asked = "selective" if asked is None and keys.like("recompute_activations", False) else asked
    method, count, modules = (keys.take(f"recompute_{name}") for name in ("method", "num_layers", "modules"))
    if asked is None:
        return {"plan.recompute": "none"}
    if asked == "full":
        if method == "block" or count not in (None, 1):
            keys.leave("recompute_num_layers", "parsim recomputes each layer by itself, in all layers or in each n-th (recompute_every)")
        return {"plan.recompute": "full"}
    named = tuple(modules) if isinstance(modules, list | tuple) else (modules,) if modules else ()
    if asked != "selective" or (unknown := [each for each in named if each not in MODULES]):
        keys.leave("recompute_modules" if asked == "selective" else "recompute_granularity", f"not built: {asked} {' '.join(unknown)}")
    known = tuple(each for each in named if each in MODULES)
    if known in ((), ("core_attn",)):
        return {"plan.recompute": "selective" if known or not named else "none"}
    return {"plan.recompute": "none", "plan.recompute_modules": known}


def _write_optimizer(setup: Setup) -> dict[str, KeyValue]:
    plan, keys = setup.plan, dict[str, KeyValue]()
    if plan.optimizer == _SGD:
        keys = {"optimizer": "sgd"}
    elif plan.optimizer == "adamw":
        keys = {"optimizer": "adam"}
    elif plan.optimizer == "precision_aware_adamw":
        keys = {"optimizer": "adam", "use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"}
    return keys | ({"optimizer_cpu_offload": True, "use_precision_aware_optimizer": True} if plan.offload_optimizer else {})


def _read_optimizer(keys: Keys) -> dict[str, Any]:
    asked, offloads = keys.of_type(str, "optimizer", "adam"), keys.like("optimizer_cpu_offload", False)
    states = [keys.take(name) or "fp32" for name in ("exp_avg_dtype", "exp_avg_sq_dtype")]
    found: dict[str, Any] = {"plan.offload_optimizer": offloads}
    if asked not in ("adam", "sgd"):
        keys.leave("optimizer", "parsim has no such optimizer")
    elif asked == "sgd":
        found["plan.optimizer"] = _SGD
    elif keys.like("use_precision_aware_optimizer", False) and set(states) == {"bf16"}:
        found["plan.optimizer"] = "precision_aware_adamw"
    else:
        found["plan.optimizer"] = "adamw"
        if keys.like("use_precision_aware_optimizer", False) and set(states) != {"fp32"}:
            keys.leave("exp_avg_dtype", "states in fp32, or both in bf16, are built")
    return found
