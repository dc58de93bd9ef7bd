"""accelerate: the YAML that `accelerate launch --config_file` reads, and the line that starts it, which holds what the script is told.

The script is one of transformers' Trainer, whose flags say batch, recomputation and optimizer.  The line stands in the YAML as a comment.
Source: huggingface/accelerate 1.15.0, commands/config/config_args.py, commands/launch.py, parallelism_config.py, utils/constants.py;
huggingface/transformers 5.24.0, training_args.py.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any, Final

from parsim.errors import ParsimError, PlanError
from parsim.targets import scripts, training
from parsim.targets.commented import yaml_text
from parsim.targets.documents import flatten, is_count, mapping_of, nest, take_known
from parsim.targets.entries import Entry, Keys
from parsim.targets.flags import flags_in, number_in
from parsim.targets.launchers.deepspeed import about_the_program
from parsim.targets.starting import processes_of
from parsim.targets.target import MICRO_BATCHES, TARGETS, KeyValue, Launch, Neighbours, NotExpressible, Setup, Target

NAME: Final = "accelerate"
FILE: Final = "accelerate.yaml"
LAUNCH: Final = "accelerate launch"
_FSDP, _DEEPSPEED, _DDP, _ALONE = "FSDP", "DEEPSPEED", "MULTI_GPU", "NO"
_PC, _F, _DS, _MLM = "parallelism_config.parallelism_config_", "fsdp_config.fsdp_", "deepspeed_config.", "megatron_lm_config.megatron_lm_"
_SIZES: Final = {
    **{"replicas": "dp_replicate_size", "shards": "dp_shard_size"},
    **{name: f"{name}_size" for name in ("tp", "cp", "sp")},
}
_RESHARD, _VERSION, _STRATEGY = f"{_F}reshard_after_forward", f"{_F}version", f"{_F}sharding_strategy"
_S: Final = scripts.PREFIX
_MICRO, _STEPS, _OPTIM = f"{_S}per_device_train_batch_size", f"{_S}gradient_accumulation_steps", f"{_S}optim"
_LENGTHS: Final = tuple(f"{_S}{name}" for name in ("max_length", "max_seq_length", "block_size", "seq_length", "seq_len"))
_NORM, _USUAL_NORM = f"{_S}max_grad_norm", 1.0
_RATE, _USUAL_RATE = f"{_S}learning_rate", 5e-5  # where a flag tells that the script is Trainer's
_ADAM: Final = {  # whose defaults are those of parsim
    **{name: f"{_S}adam_{name}" for name in ("beta1", "beta2")},
    **{"eps": f"{_S}adam_epsilon", "weight_decay": f"{_S}weight_decay"},
}
_ROTATIONS: Final = {"all_gather": "allgather", "ring": "alltoall"}  # of a context's keys and values
_OPTIMIZERS: Final = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
_READ_OPTIMIZERS: Final = {
    **{theirs: ours for ours, theirs in _OPTIMIZERS.items()},
    **dict.fromkeys(("adamw_torch_fused", "adamw_hf"), "adamw"),
    "adamw_8bit": "adamw_8bit",
}
# FSDP 1's strategies by number and name: whether parameters go after forward, and whether only the devices of a node shard.
_STRATEGIES: Final = {
    **dict.fromkeys(("1", "FULL_SHARD"), (True, False)),
    **dict.fromkeys(("2", "SHARD_GRAD_OP"), (False, False)),
    **dict.fromkeys(("4", "HYBRID_SHARD"), (True, True)),
    **dict.fromkeys(("5", "HYBRID_SHARD_ZERO2"), (False, True)),
}
_SECTIONS: Final = ("parallelism_config_", "fsdp_", "megatron_lm_", "dynamo_", "fp8_")  # flags that stand in a section of that name
_OF_DEEPSPEED: Final = (
    *("zero_stage", "offload_optimizer_device", "offload_param_device"),
    *("gradient_accumulation_steps", "gradient_clipping"),
)
_KINDS: Final = {"multi_gpu": _DDP, "use_fsdp": _FSDP, "use_deepspeed": _DEEPSPEED, "use_megatron_lm": "MEGATRON_LM"}  # by flag
_OF_NO_PLAN: Final = (
    *("compute_environment", "debug", "machine_rank", "main_process_ip", "main_process_port", "main_training_function", "rdzv_backend"),
    *("same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo", "enable_cpu_affinity", "gpu_ids", "downcast_bf16"),
)


def _kind(setup: Setup) -> str:
    """What accelerate runs a plan by."""
    plan = setup.plan
    ulysses = plan.context_parallel > 1 and plan.context_kind == "ulysses"
    if plan.zero_stage == 3 and not plan.offload_optimizer and not ulysses:
        return _FSDP
    if plan.zero_stage or plan.offload_optimizer or ulysses:
        return _DEEPSPEED
    return _DDP if plan.num_devices > 1 else _ALONE


def _write_degrees(setup: Setup) -> dict[str, KeyValue]:
    plan, kind = setup.plan, _kind(setup)
    processes = {"num_machines": processes_of(setup).num_nodes, "num_processes": plan.num_devices}
    keys: dict[str, KeyValue] = {"compute_environment": "LOCAL_MACHINE", "distributed_type": kind, **processes}
    if kind == _FSDP:
        shards = plan.zero_group or plan.data_parallel
        keys |= {_VERSION: 2, _RESHARD: plan.reshard_after_forward is not False, f"{_F}auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}
        keys |= {f"{_PC}dp_replicate_size": plan.data_parallel // shards, f"{_PC}dp_shard_size": shards}
        keys |= {f"{_PC}tp_size": plan.tensor_parallel, f"{_PC}cp_size": plan.context_parallel}
        keys |= {f"{_PC}cp_comm_strategy": _ROTATIONS[plan.context_kind]} if plan.context_parallel > 1 else {}
    if kind == _DEEPSPEED:
        keys |= {f"{_DS}zero_stage": plan.zero_stage, f"{_DS}offload_optimizer_device": "cpu" if plan.offload_optimizer else "none"}
        keys |= {f"{_DS}gradient_accumulation_steps": setup.num_micro_batches, f"{_DS}gradient_clipping": _norm_of(setup)}
        if plan.context_parallel > 1:
            length = {f"{_PC}sp_seq_length": setup.batch.sequence_length, f"{_PC}sp_seq_length_is_variable": False}
            keys |= {f"{_PC}sp_size": plan.context_parallel, f"{_PC}sp_backend": "deepspeed", **length}
    return keys


def _read_degrees(keys: Keys) -> dict[str, Any]:
    for key in (*_OF_NO_PLAN, *(key for key, value in keys.rest().items() if value == {})):
        keys.take(key)
    if keys.take("use_cpu") is True:
        keys.leave("use_cpu", "the node of the scenario says what it runs on")
    kind = str(keys.take("distributed_type", _ALONE)).upper()
    readers: dict[str, Callable[[Keys], dict[str, Any]]] = {_FSDP: _read_fsdp, _DEEPSPEED: _read_deepspeed, "MEGATRON_LM": _read_megatron}
    read = readers.get(kind)
    found = read(keys) if read else {}
    found |= _read_mesh(keys, found)
    devices, nodes = take_known(keys, "num_processes"), take_known(keys, "num_machines")
    inner = [found.get(f"plan.{name}", 1) for name in ("tensor_parallel", "pipeline_parallel", "context_parallel")]
    if "plan.data_parallel" not in found and is_count(devices, *inner):
        product = inner[0] * inner[1] * inner[2]
        if devices % product == 0:
            found["plan.data_parallel"] = devices // product
    if found.pop("of_a_node", False) and is_count(devices, nodes or 1):
        found["plan.zero_group"] = devices // (nodes or 1)
    return found | ({"num_devices": devices} if is_count(devices) else {}) | ({"cluster.num_nodes": nodes} if nodes and devices else {})


def _read_mesh(keys: Keys, found: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: take_known(keys, f"{_PC}{key}", 1) for name, key in _SIZES.items()}
    rotation, _ = keys.take(f"{_PC}cp_comm_strategy", "allgather"), [keys.take(f"{_PC}{name}_backend") for name in ("sp", "cp")]
    for key in ("sp_seq_length_is_variable", "sp_attn_implementation"):
        keys.take(f"{_PC}{key}")
    if not is_count(*sizes.values()) or set(sizes.values()) == {1}:
        return {}
    if sizes["cp"] > 1 and sizes["sp"] > 1:
        raise ParsimError("parallelism_config has cp_size and sp_size", NAME, "accelerate takes one of them.")
    if sizes["replicas"] > 1 and sizes["shards"] == 1 and max(sizes["tp"], sizes["cp"]) > 1:
        what = "parallelism_config has dp_replicate_size above 1 with dp_shard_size = 1 beside tp or cp, which accelerate refuses"
        raise ParsimError(what, NAME, "Give the replicas as dp_shard_size.")
    read: dict[str, Any] = {"plan.tensor_parallel": sizes["tp"]} if sizes["tp"] > 1 else {}
    if sizes["cp"] > 1:
        kinds = {theirs: ours for ours, theirs in _ROTATIONS.items()}
        read |= {"plan.context_parallel": sizes["cp"], "plan.context_kind": kinds.get(str(rotation), str(rotation))}
    if sizes["sp"] > 1:
        length = take_known(keys, f"{_PC}sp_seq_length")
        read |= {"plan.context_parallel": sizes["sp"], "plan.context_kind": "ulysses"}
        return read | ({"batch.sequence_length": length} if length else {})
    read["plan.data_parallel"] = sizes["replicas"] * sizes["shards"]
    if sizes["replicas"] > 1 and sizes["shards"] > 1 and found.get("plan.zero_stage"):
        read["plan.zero_group"] = sizes["shards"]
    return read


def _read_fsdp(keys: Keys) -> dict[str, Any]:
    version, reshard = keys.take(_VERSION, 1), take_known(keys, _RESHARD, True)
    again = {"plan.recompute": "full"} if keys.take(f"{_F}activation_checkpointing") is True else {}
    if take_known(keys, f"{_F}offload_params") is True:
        keys.leave(f"{_F}offload_params", "parameters on the host are not built: parsim keeps them on the device")
    if version == 2 and _STRATEGY not in keys:
        return {"plan.zero_stage": 3, "plan.reshard_after_forward": reshard, **again}
    strategy = str(take_known(keys, _STRATEGY, reshard if isinstance(reshard, str) else "FULL_SHARD")).upper()
    if strategy in ("3", "NO_SHARD"):
        return again
    if strategy not in _STRATEGIES:
        raise ParsimError(f"fsdp_sharding_strategy is {strategy[:40]}", NAME, f"Known: {', '.join((*_STRATEGIES, 'NO_SHARD'))}.")
    goes, in_node = _STRATEGIES[strategy]
    return {"plan.zero_stage": 3, "plan.reshard_after_forward": goes, "of_a_node": in_node, **again}


def _read_deepspeed(keys: Keys) -> dict[str, Any]:
    file = f"{_DS}deepspeed_config_file"
    keys.take(f"{_DS}zero3_init_flag"), keys.take(f"{_DS}deepspeed_multinode_launcher")
    if file in keys:
        keys.leave(file, "import that file, which says the rest: parsim import FILE --from deepspeed")
        return {"stack": "deepspeed"}
    stage, device = take_known(keys, f"{_DS}zero_stage", 2), take_known(keys, f"{_DS}offload_optimizer_device", "none")
    if take_known(keys, f"{_DS}offload_param_device", "none") != "none":
        keys.leave(f"{_DS}offload_param_device", "parameters on the host are not built: parsim keeps them on the device")
    if device not in ("cpu", "none"):
        keys.leave(f"{_DS}offload_optimizer_device", "the optimizer's states are held by the device or the host")
    norm = take_known(keys, f"{_DS}gradient_clipping")
    found: dict[str, Any] = {"stack": "deepspeed", "plan.zero_stage": stage, "plan.offload_optimizer": device == "cpu"}
    return found | ({"training.max_norm": norm} if norm else {})


def _read_megatron(keys: Keys) -> dict[str, Any]:
    names = {"tp_degree": "tensor_parallel", "pp_degree": "pipeline_parallel", "sequence_parallelism": "sequence_parallel"}
    found = {f"plan.{own}": take_known(keys, f"{_MLM}{name}") for name, own in names.items() if f"{_MLM}{name}" in keys}
    again = {"plan.recompute": "selective"} if keys.take(f"{_MLM}recompute_activations") is True else {}
    sharded = {"plan.zero_stage": 1} if keys.take(f"{_MLM}use_distributed_optimizer") is True else {}
    steps, norm = take_known(keys, f"{_MLM}num_micro_batches"), take_known(keys, f"{_MLM}gradient_clipping")
    told = {MICRO_BATCHES: steps, "training.max_norm": norm}
    return {"stack": "megatron-core", **found, **again, **sharded, **{key: value for key, value in told.items() if value is not None}}


def _write_batch(setup: Setup) -> dict[str, KeyValue]:
    length = {_LENGTHS[0]: setup.batch.sequence_length}
    return {_MICRO: setup.plan.micro_batch, _STEPS: setup.num_micro_batches, **length}


def _read_batch(keys: Keys) -> dict[str, Any]:
    in_deepspeed, in_script = take_known(keys, f"{_DS}gradient_accumulation_steps"), take_known(keys, _STEPS)
    told = {"plan.micro_batch": take_known(keys, _MICRO), MICRO_BATCHES: in_script or in_deepspeed}
    lengths = [length for length in (take_known(keys, key) for key in _LENGTHS) if length is not None]
    told |= {"batch.sequence_length": lengths[0]} if lengths else {}
    return {key: value for key, value in told.items() if value is not None}


def _write_dtype(setup: Setup) -> dict[str, KeyValue]:
    return {"mixed_precision": {"fp32": "no"}.get(setup.dtype, setup.dtype)}


def _read_dtype(keys: Keys) -> dict[str, Any]:
    flags = [name for name in ("bf16", "fp16") if keys.take(f"{_S}{name}") is True]
    value = take_known(keys, "mixed_precision")
    if flags:
        return {"batch.dtype": flags[0]}
    if value is None:
        return {}
    return {"batch.dtype": "fp32" if value in (False, "no", "none") else value}


def _write_recompute(setup: Setup) -> dict[str, KeyValue]:
    if setup.plan.recompute != "full":
        return {}
    return {f"{_F}activation_checkpointing": True} if _kind(setup) == _FSDP else {f"{_S}gradient_checkpointing": True}


def _read_recompute(keys: Keys) -> dict[str, Any]:
    return {"plan.recompute": "full"} if take_known(keys, f"{_S}gradient_checkpointing") in (True, "True", "true") else {}


def _norm_of(setup: Setup) -> float:
    return 0.0 if setup.training.max_norm == inf else setup.training.max_norm


def _write_optimizer(setup: Setup) -> dict[str, KeyValue]:
    optimizer = _OPTIMIZERS.get(setup.plan.optimizer)
    norm = _norm_of(setup)
    clips = {} if norm == _USUAL_NORM or _kind(setup) == _DEEPSPEED else {_NORM: norm}
    return ({_OPTIM: optimizer} if optimizer else {}) | clips


def _read_optimizer(keys: Keys) -> dict[str, Any]:
    norm = take_known(keys, _NORM)
    found: dict[str, Any] = {"training.max_norm": norm} if norm else {}  # 0 clips nothing
    if (name := take_known(keys, _OPTIM)) is not None:
        if str(name) in _READ_OPTIMIZERS:
            found["plan.optimizer"] = _READ_OPTIMIZERS[str(name)]
        else:
            keys.leave(_OPTIM, f"parsim has no optimizer of that name; it has {', '.join(_OPTIMIZERS)}")
    return found


def _read_rate(keys: Keys) -> dict[str, Any]:
    rate = take_known(keys, _RATE)
    rate = _USUAL_RATE if _RATE not in keys and _MICRO in keys else rate
    return {} if rate is None else {"training.learning_rate": rate}


def entries(version: str) -> tuple[Entry, ...]:
    """The table; what is left is told last."""
    plan = ("data_parallel", "tensor_parallel", "context_parallel", "context_kind", "zero_stage", "zero_group", "offload_optimizer")
    degrees = tuple(f"plan.{name}" for name in (*plan, "reshard_after_forward"))
    return (
        Entry(degrees, _write_degrees, _read_degrees),
        Entry(("plan.recompute",), _write_recompute, _read_recompute),
        Entry(("plan.micro_batch", "batch.sequence_length"), _write_batch, _read_batch),
        Entry(("batch.global_batch",), lambda setup: {}, assumed=True),  # that of a process, times steps, times replicas
        Entry(("batch.dtype",), _write_dtype, _read_dtype),
        Entry(("plan.optimizer", "training.max_norm"), _write_optimizer, _read_optimizer),
        Entry(("training.learning_rate",), lambda setup: {_RATE: setup.training.learning_rate}, _read_rate),
        *training.figures(_ADAM, always=False),
        training.steps(f"{_S}max_steps"),
        *training.left_to("epochs"),
        Entry((), lambda setup: {}, scripts.read_model),
        Entry((), lambda setup: {}, scripts.read_adapters),
        Entry((), lambda setup: {}, scripts.leave_others),
    )


def _refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What its launcher takes, and its Accelerator refuses or runs otherwise."""
    plan, kind = setup.plan, _kind(setup)

    def no(field: str, why: str, remedy: str = "") -> PlanError:
        return NotExpressible(field, NAME, version, why, remedy)

    if setup.dtype not in ("bf16", "fp16", "fp32"):
        yield no("precision", f"its mixed_precision says bf16, fp16 or no, and of fp8 not which recipe, so not {setup.dtype}")
    if plan.recompute == "selective":
        yield no("recompute", "what runs again is whole layers")
    if plan.tensor_parallel > 1 and kind != _FSDP:
        yield no("tensor_parallel", "parallelism_config has tp_size beside FSDP 2 alone", "Set zero_stage = 3.")
    if plan.context_parallel > 1 and kind == _DDP:
        yield no("context_parallel", "parallelism_config has cp_size beside FSDP 2 alone", "Set zero_stage = 3.")
    if plan.context_parallel > 1 and plan.context_kind not in (*_ROTATIONS, "ulysses"):
        yield no("context_kind", f"it has {', '.join((*_ROTATIONS, 'ulysses'))}, not {plan.context_kind}")
    if kind == _DEEPSPEED and plan.context_parallel > 1 and plan.context_kind != "ulysses":
        yield no("context_kind", f"DeepSpeed, which holds the optimizer so, has ulysses, not {plan.context_kind}")
    if kind == _DEEPSPEED and plan.zero_group not in (None, plan.data_parallel):
        yield no("zero_group", "DeepSpeed, which shards so, has groups no more (MiCS was removed)", "Set zero_stage = 3.")
    if kind == _DEEPSPEED and plan.offload_optimizer and not plan.zero_stage:
        yield no("offload_optimizer", "it is a part of ZeRO", "Set zero_stage to 1, 2 or 3.")
    if kind == _FSDP:
        shards = plan.zero_group or plan.data_parallel
        if shards == 1 and plan.data_parallel > 1:
            yield no("zero_group", "dp_replicate_size above 1 with dp_shard_size = 1 is refused", "Leave zero_group out.")
        elif shards == 1 and plan.context_parallel == 1:
            yield no("zero_stage", "FSDP has no dimension to shard over where dp_shard_size and cp_size are 1", "Set zero_stage = 0.")


def _write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    flags = {key.removeprefix(_S): value for key, value in keys.items() if key.startswith(_S)}
    words = [LAUNCH, "--config_file", FILE, "train.py"]
    for key, value in flags.items():
        words += [f"--{key}"] if value is True else [f"--{key}", shlex.quote(str(value))]
    command, notes = " ".join(words), [f"{about_the_program(setup)}, as --max_length says", *training.usual_notes(setup, scheduled=True)]
    if processes_of(setup).num_nodes > 1:
        notes.append("each machine needs its own --machine_rank, and all the --main_process_ip of the first")
    if setup.plan.context_parallel > 1:
        notes.append("the script must run its step in accelerator.maybe_context_parallel, or feed DeepSpeed's UlyssesSPDataLoaderAdapter")
    text = yaml_text(nest({key: value for key, value in keys.items() if not key.startswith(_S)}), [command])
    return Launch(NAME, version, {FILE: text}, command, tuple(notes))


def _read(text: str, name: str, beside: Neighbours = lambda path: None) -> tuple[Mapping[str, KeyValue], str] | None:
    """The keys of the YAML, or of the line, with those of the YAML that it names, where that lies beside; or the script's alone."""
    line = next(iter(re.findall(rf"{LAUNCH}\b.*", re.sub(r"\\\s*\n#?", " ", text))), "")
    found = mapping_of(text, name) if not name.endswith((".sh", ".slurm", ".sbatch")) else None
    if found is None and not line:
        return None
    if found is not None and not ("distributed_type" in found or ("compute_environment" in found and "num_processes" in found)):
        return (told, "") if (told := scripts.arguments_in(found)) else None
    said = _of_line(line)
    if found is None and (other := scripts.text_beside(said, "config_file", beside)) is not None:
        found = mapping_of(other, name := str(said.pop("config_file")))
    keys = {**dict(flatten(found or {})), **said}
    _check_fsdp(keys, name)
    return keys, ""


def _check_fsdp(keys: Mapping[str, KeyValue], name: str) -> None:
    """Refuse a mesh that accelerate has only beside FSDP 2; beside DeepSpeed it has sp_size, and shards that say nothing more.

    Raises:
        ParsimError: so it is.
    """
    kind = str(keys.get("distributed_type", _FSDP)).upper()
    names = ("tp", "cp") if kind == _DEEPSPEED else ("tp", "cp", "shards", "replicas")
    sizes = [_SIZES[each] for each in names if keys.get(f"{_PC}{_SIZES[each]}", 1) not in (1, None)]
    if sizes and not (kind == _FSDP and keys.get(_VERSION, 1) == 2):
        what = f"parallelism_config ({', '.join(sizes)}) is for FSDP of fsdp_version 2 alone"
        raise ParsimError(what, name, "Set distributed_type: FSDP and fsdp_config.fsdp_version: 2.")


def _of_line(line: str) -> dict[str, KeyValue]:
    """The flags of a line `accelerate launch FLAGS SCRIPT FLAGS`: those before the script as keys of the YAML."""
    try:
        words = shlex.split(re.split(r"[|;&>]", line)[0])[2:]
    except ValueError:  # a quote that is not closed
        words = line.split()[2:]
    at = next((n for n, word in enumerate(words) if word.endswith(".py") or word == "-m"), len(words))
    found = dict(_as_keys(_flags(words[:at])))
    return {**found, **{f"{_S}{key.replace('-', '_')}": value for key, value in _flags(words[at + 1 :])}}


def _as_keys(flags: Iterator[tuple[str, KeyValue]]) -> Iterator[tuple[str, KeyValue]]:
    for flag, value in flags:
        if flag in _KINDS:
            yield "distributed_type", _KINDS[flag]
        elif flag in _OF_DEEPSPEED or flag.startswith("zero3_"):
            yield f"{_DS}{flag}", value
        else:
            section = next((each for each in _SECTIONS if flag.startswith(each)), "")
            yield f"{section.rstrip('_').removesuffix('_config')}_config.{flag}" if section else flag, value


def _flags(words: list[str]) -> Iterator[tuple[str, KeyValue]]:
    """Each flag with its first value; one without is true."""
    for flag, values in flags_in(words):
        value = values[0] if values else "true"
        number = number_in(value)
        yield flag, {"true": True, "false": False}.get(value.lower(), value) if number is None else number


TARGETS.register(
    NAME,
    Target(
        NAME,
        ("1.15.0",),
        "accelerate: launch's YAML, and arguments of transformers' Trainer, also Axolotl's and TRL's",
        entries,
        _write,
        _read,
        _refuses,
        "huggingface/accelerate 1.15.0",
        _read,
    ),
)
