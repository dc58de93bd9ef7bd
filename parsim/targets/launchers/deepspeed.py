"""DeepSpeed: the JSON that `deepspeed train.py --deepspeed_config` reads.

What of a plan lies in the model's code (a PipelineModule, where checkpoint() is called) is said in notes.  Unknown keys DeepSpeed ignores.
Source: deepspeedai/DeepSpeed 0.19.8, deepspeed/runtime/config.py, zero/config.py, tensor_parallel/config.py,
module_inject/auto_ep_config.py and auto_ep_folding.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any, Final

from parsim.errors import ParsimError, PlanError
from parsim.model.tuning import Tuning
from parsim.targets.documents import AUTO, flatten, is_count, mapping_of, nest, take_known
from parsim.targets.entries import Entry, Keys, same
from parsim.targets.starting import processes_of
from parsim.targets.target import MICRO_BATCHES, TARGETS, KeyValue, Launch, NotExpressible, Setup, Target
from parsim.targets.training import left_to
from parsim.targets.training import notes as told_elsewhere

NAME: Final = "deepspeed"
FILE: Final = "ds_config.json"
_TRAIN, _MICRO, _STEPS = "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
_STAGE, _REUSE, _LIVE = (
    "zero_optimization.stage",
    "zero_optimization.stage3_max_reuse_distance",
    "zero_optimization.stage3_max_live_parameters",
)
_INTERVAL, _CHECKPOINTS = "pipeline.activation_checkpoint_interval", "activation_checkpointing.number_checkpoints"
_EVERYTHING: Final = 10**15  # parameters: more than any model has
# Source: _reject_removed_config_keys of the same file.
_REMOVED: Final = {
    **dict.fromkeys(("nebula", "compression_training", "quantize_training", "eigenvalue", "graph_harvesting"), ""),
    **dict.fromkeys(("sparse_gradients", "sparse_attention", "progressive_layer_drop"), ""),
    "amp": "use bf16, fp16 or torch_autocast",
    "elasticity": f"set {_TRAIN}, {_MICRO} and {_STEPS}",
    "curriculum_learning": "use data_efficiency.data_sampling.curriculum_learning",
}
_REMOVED_OF_ZERO: Final = ("mics_shard_size", "mics_hierarchical_params_gather", "zeropp_loco_param")
# By what a file is known: keys that only DeepSpeed has at the top.
_OWN: Final = (_MICRO, "zero_optimization", _TRAIN, "zero_allow_untested_optimizer", "wall_clock_breakdown")
_OPTIMIZERS: Final = {"adamw": "AdamW", "sgd_momentum": "SGD"}
_READ_OPTIMIZERS: Final = {"adam": "adamw", "adamw": "adamw", "sgd": "sgd_momentum"}
_ADAM: Final = {"lr": "learning_rate", "eps": "eps", "weight_decay": "weight_decay"}

_DECAY_OF_TORCH: Final = 0.01  # torch.optim.AdamW's; DeepSpeed's own kernels have none
_FIGURES: Final = tuple(f"training.{name}" for name in (*_ADAM.values(), "beta1", "beta2", "momentum"))
_OF_PROGRAM: Final = ("epochs", "total_tokens")


def _write_batch(setup: Setup) -> dict[str, KeyValue]:
    return {_TRAIN: setup.batch.global_batch, _MICRO: setup.plan.micro_batch, _STEPS: setup.num_micro_batches}


def _read_batch(keys: Keys) -> dict[str, Any]:
    """As DeepSpeed derives each of the three from the others; replicas follow where all are said."""
    train, micro, steps = take_known(keys, _TRAIN), take_known(keys, _MICRO), take_known(keys, _STEPS)
    found = {"batch.global_batch": train, "plan.micro_batch": micro}
    if train is None:
        found[MICRO_BATCHES] = 1 if steps is None and micro is not None else steps
    elif is_count(train, micro, steps):
        if train % (micro * steps):
            what = f"{_TRAIN} = {train} is no multiple of {_MICRO} x {_STEPS} = {micro} x {steps}"
            raise ParsimError(what, NAME, f"DeepSpeed asks for {_TRAIN} = {_MICRO} x {_STEPS} x replicas.")
        found["plan.data_parallel"] = train // (micro * steps)
    elif micro is None and (steps is None or is_count(steps)):
        found["micro_batches_of_all"] = steps or 1
    return {key: value for key, value in found.items() if value is not None}


def _write_recompute(setup: Setup) -> dict[str, KeyValue]:
    if setup.plan.recompute != "full":
        return {}
    return {_INTERVAL: 1} if setup.plan.pipeline_parallel > 1 else {_CHECKPOINTS: setup.model.num_layers}


def _read_recompute(keys: Keys) -> dict[str, Any]:
    interval = keys.take(_INTERVAL, 0)
    if type(interval) is int and interval > 1:
        keys.leave(_INTERVAL, "parsim keeps the input of each layer that runs again, not of each so many")
    counted = keys.take(_CHECKPOINTS)
    return {"plan.recompute": "full"} if interval == 1 or is_count(counted) else {}


def _write_dtype(setup: Setup) -> dict[str, KeyValue]:
    return {f"{setup.dtype}.enabled": True} if setup.dtype in ("bf16", "fp16") else {}


def _read_dtype(keys: Keys) -> dict[str, Any]:
    found = {name: take_known(keys, f"{name}.enabled", AUTO if f"{name}.enabled" in keys else False) for name in ("bf16", "fp16")}
    if found["bf16"] is True and found["fp16"] is True:
        raise ParsimError("bf16 and fp16 are both enabled", NAME, "DeepSpeed takes one of them.")
    if AUTO in found.values() and True not in found.values():
        return {}
    if keys.take("torch_autocast.enabled") is True:
        dtype = str(keys.take("torch_autocast.dtype", "bfloat16")).removeprefix("torch.")
        return {"batch.dtype": {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, dtype)}
    return {"batch.dtype": next((name for name, is_on in found.items() if is_on is True), "fp32")}


def _write_optimizer(setup: Setup) -> dict[str, KeyValue]:
    training, name = setup.scenario.training, setup.plan.optimizer
    if name not in _OPTIMIZERS:
        return {}  # which reads back as another, and is told
    params = {key: getattr(training, own) for key, own in _ADAM.items() if name == "adamw" or key == "lr"}
    own = {"betas": [training.beta1, training.beta2]} if name == "adamw" else {"momentum": training.momentum}
    untested = {"zero_allow_untested_optimizer": True} if name != "adamw" and setup.plan.zero_stage else {}
    on_host = {"zero_force_ds_cpu_optimizer": False} if name != "adamw" and setup.plan.offload_optimizer else {}
    written = {f"optimizer.params.{key}": value for key, value in {**params, **own}.items()}
    return {"optimizer.type": _OPTIMIZERS[name], **written, **untested, **on_host}


def _read_optimizer(keys: Keys) -> dict[str, Any]:
    of_torch = keys.is_value("optimizer.params.torch_adam", True) and not keys.is_value("optimizer.params.adam_w_mode", False)
    for key in (
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "optimizer.params.adam_w_mode",
        "optimizer.params.torch_adam",
    ):
        keys.take(key)
    name, found = take_known(keys, "optimizer.type"), {}
    if name is None:
        return {}
    ours = _READ_OPTIMIZERS.get(str(name).lower())
    if ours is None:
        keys.leave("optimizer.type", f"parsim has no optimizer of that name; it has {', '.join(_OPTIMIZERS)}")
        return {}
    if of_torch and ours == "adamw":
        found[f"training.{_ADAM['weight_decay']}"] = _DECAY_OF_TORCH
    for key, own in {**_ADAM, "momentum": "momentum"}.items():
        if (value := take_known(keys, f"optimizer.params.{key}")) is not None:
            found[f"training.{own}"] = value
    betas = take_known(keys, "optimizer.params.betas")
    if isinstance(betas, list) and len(betas) == 2:
        found |= {"training.beta1": betas[0], "training.beta2": betas[1]}
    return {"plan.optimizer": ours, **found}


def _read_norm(keys: Keys) -> dict[str, Any]:
    norm = take_known(keys, "gradient_clipping")
    return {"training.max_norm": norm} if norm else {}  # 0 is DeepSpeed's word for no clipping


def _write_norm(setup: Setup) -> dict[str, KeyValue]:
    return {"gradient_clipping": 0.0 if setup.training.max_norm == inf else setup.training.max_norm}


def _write_reshard(setup: Setup) -> dict[str, KeyValue]:
    distances: dict[bool | None, dict[str, KeyValue]] = {None: {}, True: {_REUSE: 0}, False: {_REUSE: _EVERYTHING, _LIVE: _EVERYTHING}}
    return distances[setup.plan.reshard_after_forward] if setup.plan.zero_stage == 3 else {}


def _read_reshard(keys: Keys) -> dict[str, Any]:
    if _REUSE not in keys:
        return {}
    reuse, live = take_known(keys, _REUSE), keys.take(_LIVE)
    if reuse == 0:
        return {"plan.reshard_after_forward": True}
    if isinstance(reuse, int | float) and isinstance(live, int | float) and min(reuse, live) >= _EVERYTHING / 1000:
        return {"plan.reshard_after_forward": False}
    if reuse is not None:
        keys.leave(_REUSE, "parsim lets all parameters of ZeRO 3 go after forward, or none")
        keys.leave(_LIVE, "so with this") if _LIVE in keys else None
    return {}


def _read_stage(keys: Keys) -> dict[str, Any]:
    of_old = keys.take("zero_optimization")  # whether or not
    if isinstance(of_old, bool):
        return {"plan.zero_stage": int(of_old)}
    if of_old is not None:
        keys.leave("zero_optimization", "a section of keys, or true or false")
    stage = take_known(keys, _STAGE, 0)
    return {} if stage == 0 else {"plan.zero_stage": stage}


def _write_offload(setup: Setup) -> dict[str, KeyValue]:
    device = "zero_optimization.offload_optimizer"
    return {f"{device}.device": "cpu", f"{device}.pin_memory": True} if setup.plan.offload_optimizer else {}


def _read_offload(keys: Keys) -> dict[str, Any]:
    device = take_known(keys, "zero_optimization.offload_optimizer.device", "none")
    keys.take("zero_optimization.offload_optimizer.pin_memory")
    param = "zero_optimization.offload_param.device"
    if keys.take(param, "none") == "none":
        keys.take("zero_optimization.offload_param.pin_memory")
    else:
        keys.leave(param, "parameters on the host are not built: parsim keeps them on the device")
    if device == "nvme":
        keys.leave("zero_optimization.offload_optimizer.device", "optimizer states on disks are not built")
    ratio = keys.take("zero_optimization.offload_optimizer.ratio", 1.0)
    if device == "cpu" and ratio not in (1, 1.0):
        keys.leave("zero_optimization.offload_optimizer.ratio", "parsim holds all of the optimizer's states on the host, or none")
        return {}
    return {"plan.offload_optimizer": True} if device == "cpu" or keys.take("zero_optimization.cpu_offload") is True else {}


def _write_context(setup: Setup) -> dict[str, KeyValue]:
    return {"sequence_parallel_size": setup.plan.context_parallel} if setup.plan.context_parallel > 1 else {}


def _read_context(keys: Keys) -> dict[str, Any]:
    size = take_known(keys, "sequence_parallel_size", 1)
    return {} if size == 1 else {"plan.context_parallel": size, "plan.context_kind": "ulysses"}


def _write_pipeline(setup: Setup) -> dict[str, KeyValue]:
    stages = setup.plan.pipeline_parallel
    return {"pipeline.stages": stages, "pipeline.partition": "uniform"} if stages > 1 else {}


def _read_pipeline(keys: Keys) -> dict[str, Any]:
    stages = take_known(keys, "pipeline.stages", 1)
    if keys.take("pipeline.partition", "uniform") != "uniform":
        keys.leave("pipeline.partition", "layers_per_stage of a plan lists layers; uniform is as the stack splits them")
    return {} if stages == 1 else {"plan.pipeline_parallel": stages}


def _write_experts(setup: Setup) -> dict[str, KeyValue]:
    size = setup.plan.expert_parallel
    return {"expert_parallel.enabled": True, "expert_parallel.autoep_size": size} if size > 1 else {}


def _read_experts(keys: Keys) -> dict[str, Any]:
    is_on, size = keys.take("expert_parallel.enabled", False), keys.take("expert_parallel.autoep_size", 1)
    return {"plan.expert_parallel": size} if is_on is True and size != 1 else {}


def _leave_what_is_told(keys: Keys) -> dict[str, Any]:
    hpz = "zero_optimization.zero_hpz_partition_size"
    if keys.take(hpz, 1) not in (0, 1):
        keys.leave(
            hpz, "a second copy of the parameters in each group is not built; zero_group of a plan shards all in groups (MiCS, HSDP)"
        )
    for key in [key for key in keys.rest() if key.startswith("activation_checkpointing.")]:
        keys.leave(key, "whether layers run again stands in the model's code; if so, set plans.NAME.recompute=full")
    for key, value in keys.rest().items():
        if value == AUTO:
            take_known(keys, key)
        elif key.startswith(("zero_optimization.", "bf16.", "fp16.", "optimizer.params.")):
            keys.leave(key, "no plan of parsim has it")
    return {}


def entries(version: str) -> tuple[Entry, ...]:
    """The table; what is left is told last."""
    return (
        Entry(("batch.global_batch", "plan.micro_batch", "plan.data_parallel"), _write_batch, _read_batch),
        Entry(("batch.sequence_length",), lambda setup: {}, assumed=True),  # of the program's data: a note says it
        Entry(("plan.zero_stage",), lambda setup: {_STAGE: setup.plan.zero_stage}, _read_stage),
        Entry(("plan.reshard_after_forward",), _write_reshard, _read_reshard),
        Entry(("plan.offload_optimizer",), _write_offload, _read_offload),
        same("plan.tensor_parallel", "tensor_parallel.autotp_size", default=1, always=False),
        Entry(("plan.context_parallel", "plan.context_kind"), _write_context, _read_context),
        Entry(("plan.pipeline_parallel",), _write_pipeline, _read_pipeline),
        Entry(("plan.expert_parallel",), _write_experts, _read_experts),
        same("plan.expert_tensor_parallel", "expert_parallel.expert_tensor_parallel_size", default=1, always=False),
        Entry(("plan.recompute",), _write_recompute, _read_recompute),
        Entry(("batch.dtype",), _write_dtype, _read_dtype),
        Entry(("plan.optimizer", *_FIGURES), _write_optimizer, _read_optimizer),
        Entry(("training.max_norm",), _write_norm, _read_norm),
        *left_to(*_OF_PROGRAM),
        Entry((), lambda setup: {}, _leave_what_is_told),
    )


def _refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What its parser takes, and its engine does not run, or runs otherwise."""
    plan = setup.plan

    def no(field: str, why: str, remedy: str = "") -> PlanError:
        return NotExpressible(field, NAME, version, why, remedy)

    if setup.dtype not in ("bf16", "fp16", "fp32"):
        yield no("precision", f"it trains in bf16, fp16 and fp32, not in {setup.dtype}")
    if plan.schedule != "1f1b":
        yield no("schedule", "its pipeline runs 1f1b alone")
    if plan.recompute == "selective":
        yield no("recompute", "what runs again is whole layers")
    if plan.pipeline_parallel > 1 and plan.zero_stage > 1:
        yield no("zero_stage", "its pipeline runs with ZeRO 0 and 1 alone", "Set zero_stage = 1.")
    if plan.offload_optimizer and not plan.zero_stage:
        yield no("offload_optimizer", "it is a part of ZeRO", "Set zero_stage to 1, 2 or 3.")
    if plan.context_parallel > 1 and plan.context_kind != "ulysses":
        yield no("context_kind", f"its sequence parallelism is ulysses, not {plan.context_kind}")
    if plan.context_parallel > 1 and plan.tensor_parallel > 1:
        yield no("context_parallel", "its groups are of tensor or of sequence parallelism")
    if plan.context_parallel > 1 and plan.pipeline_parallel > 1:
        yield no("context_parallel", "its pipeline has no sequence parallelism")
    if plan.tensor_parallel > 1 and plan.pipeline_parallel > 1:
        yield no("tensor_parallel", "the layers of a PipelineModule are split in its code, not by autotp_size")
    yield from _refuses_experts(setup, no)


def _refuses_experts(setup: Setup, no: Any) -> Iterator[PlanError]:
    plan = setup.plan
    if plan.expert_tensor_parallel > 1:
        yield no("expert_tensor_parallel", "the key is there, and any value but 1 is refused")
    if plan.expert_parallel > 1 and plan.pipeline_parallel > 1:
        yield no("expert_parallel", "AutoEP runs under no pipeline that parsim knows of")
    if plan.expert_parallel > 1 and plan.zero_stage == 3 and plan.context_parallel > 1:
        yield no("expert_parallel", "AutoEP with ZeRO 3 takes no sequence parallelism")
    if plan.expert_parallel > 1 and plan.tensor_parallel > 1 and plan.offload_optimizer:
        yield no("offload_optimizer", "AutoEP beside AutoTP takes no offload")


def about_the_program(setup: Setup) -> str:
    """What the file says nothing of: model and data."""
    tuned = "" if setup.model.tuning == Tuning() else ", with what the scenario's tuning trains of it"
    return f"the program must build {setup.model.name}{tuned}, and feed it sequences of {setup.batch.sequence_length} tokens"


def _write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    plan, started, notes = setup.plan, processes_of(setup), [about_the_program(setup)]
    notes += told_elsewhere(setup, _OF_PROGRAM, "the program's loop says how far it goes")
    if plan.pipeline_parallel > 1:
        notes.append(f"the model must be a deepspeed.pipe.PipelineModule with num_stages={plan.pipeline_parallel}")
    if plan.recompute == "full" and plan.pipeline_parallel == 1:
        notes.append("the model must run each layer through deepspeed.checkpointing.checkpoint, e.g. by gradient_checkpointing_enable()")
    if plan.context_parallel > 1:
        notes.append("attention must be wrapped: deepspeed.sequence.layer.DistributedAttention, or UlyssesSPAttentionHF of transformers")
    hosts = "--hostfile hostfile " if started.num_nodes > 1 else ""
    sizes = f"--num_nodes {started.num_nodes} --num_gpus {started.per_node}"
    command = f"deepspeed {hosts}{sizes} train.py --deepspeed --deepspeed_config {FILE}"
    return Launch(NAME, version, {FILE: json.dumps(nest(keys), indent=2) + "\n"}, command, tuple(notes))


def _read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    found = mapping_of(text, name)
    if found is None or not any(key in found for key in _OWN) or "compute_environment" in found:
        return None
    check_removed(found, name)
    return dict(flatten(found)), ""


def check_removed(document: Mapping[str, Any], name: str) -> None:
    """Refuse keys that DeepSpeed itself refuses by name.

    Raises:
        ParsimError: one is there.
    """
    zero = document.get("zero_optimization")
    stated = [key for key in _REMOVED if key in document]
    stated += [f"zero_optimization.{key}" for key in _REMOVED_OF_ZERO if isinstance(zero, dict) and key in zero]
    if stated:
        remedy = next((f"{_REMOVED[key]}; or leave it out".capitalize() for key in stated if _REMOVED.get(key)), "Leave it out")
        raise ParsimError(f"DeepSpeed 0.19.8 refuses {', '.join(stated)}, which it has no more", name, f"{remedy}.")


TARGETS.register(NAME, Target(NAME, ("0.19.8",), "DeepSpeed's JSON", entries, _write, _read, _refuses, "deepspeedai/DeepSpeed 0.19.8"))
