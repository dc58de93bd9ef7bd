"""torchtitan's keys by subject, in its three dialects; those of a pipeline stand in pipeline.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from parsim.parallel.plan import ANY, UNSPLIT
from parsim.scenario.asked import lack_of
from parsim.targets import hub
from parsim.targets.entries import Entry, Keys, by_name, same
from parsim.targets.figures import FiguresRow, long_enough
from parsim.targets.target import KeyValue, Setup
from parsim.targets.torchtitan import pipeline, rates
from parsim.targets.torchtitan.dialect import DIALECTS, Dialect
from parsim.targets.torchtitan.flavours import CONVERTED, FUNCTIONS, flavour_of, function_of, has_experts, row_of

RESHARD: Final = {None: "default", True: "always", False: "never"}
ROTATE: Final = {"all_gather": "allgather", "ring": "alltoall"}
_FLOAT8, _MX = "quantize.linear.float8", "quantize.linear.mx"
_CONVERTERS: Final = {"float8": _FLOAT8, "mx": _MX}  # as they are called for short
NARROW: Final = {  # precision: its converter in a file of keys, and its recipe
    "fp8_current": (_FLOAT8, "tensorwise"),
    "fp8_rowwise": (_FLOAT8, "rowwise"),
    "fp8_rowwise_gw_hp": (_FLOAT8, "rowwise_with_gw_hp"),
    "mxfp8": (_MX, "mxfp8_cublas"),
}
WIDE: Final = {  # precision: what weights are kept in, and what modules compute in
    "bf16": ("float32", "bfloat16"),
    "fp32": ("float32", "float32"),
    "bf16_pure": ("bfloat16", "bfloat16"),
}
_DTYPE, _COMPUTED, _CONVERTED_BY = "training.dtype", "training.mixed_precision_param", "model.converters"
_REPLICATE, _SHARD = "parallelism.data_parallel_replicate_degree", "parallelism.data_parallel_shard_degree"
_EXPERTS, _EXPERT_TENSOR = "parallelism.expert_parallel_degree", "parallelism.expert_tensor_parallel_degree"
_TENSOR, _CONTEXT = "parallelism.tensor_parallel_degree", "parallelism.context_parallel_degree"
_MODE, _OPTION = "activation_checkpoint.mode", "activation_checkpoint.selective_ac_option"
POLICY: Final = "activation_checkpoint"  # of a command line: a word of its own
COMPILED: Final = "torchtitan-compiled"


def entries(version: str) -> tuple[Entry, ...]:
    """The table of a version."""
    dialect = DIALECTS[version]
    own = _of_files(dialect) if dialect.toml else _of_lines(dialect)
    return (
        Entry((), partial(_write_model, dialect), partial(_read_model, dialect)),
        Entry(("stack",), _write_compile, _read_compile),
        same("plan.tensor_parallel", _TENSOR, default=1),
        *pipeline.entries(dialect),
        Entry(("plan.data_parallel", "plan.zero_stage", "plan.zero_group"), _write_replicas, _read_replicas),
        by_name("plan.reshard_after_forward", "parallelism.fsdp_reshard_after_forward", RESHARD, default="default"),
        same("plan.context_parallel", _CONTEXT, default=1),
        Entry(("plan.expert_parallel", "plan.expert_tensor_parallel"), partial(_write_experts, dialect), partial(_read_experts, dialect)),
        *rates.entries(dialect),
        *own,
    )


def _of_files(dialect: Dialect) -> tuple[Entry, ...]:
    return (
        Entry(("plan.sequence_parallel",), lambda setup: {}, lambda keys: {"plan.sequence_parallel": keys.like(_TENSOR, 1) > 1}),
        Entry(("plan.context_kind",), _write_rotation, _read_rotation),
        Entry(("plan.recompute", "plan.recompute_every"), _write_mode, _read_mode),
        Entry(("batch.dtype", "plan.precision"), _write_converters, _read_converters),
        by_name("plan.optimizer", "optimizer.name", {"adamw": "AdamW"}, default="AdamW"),
        same("plan.optimizer_in_backward", "optimizer.early_step_in_backward", default=False, always=False),
        Entry((), lambda setup: {}, _read_offload),
    )


def _of_lines(dialect: Dialect) -> tuple[Entry, ...]:
    return (
        Entry(("plan.sequence_parallel",), _write_sequence, _read_sequence),
        Entry(("plan.context_kind",), lambda setup: {}, lambda keys: {"plan.context_kind": "all_gather"}),
        Entry(("plan.recompute",), lambda setup: {POLICY: setup.plan.recompute}, _read_policy),
        Entry(("batch.dtype", "plan.precision"), _write_wide, _read_function),
        by_name(
            "plan.optimizer",
            "optimizer.implementation",
            {"adamw": "fused", "precision_aware_adamw": "fused_opt_states_bf16"},
            default="fused",
        ),
        Entry((), _write_graphs, _read_graphs),
        Entry((), lambda setup: {}, _read_offload),
    )


def flavour_or_name(dialect: Dialect, setup: Setup) -> tuple[str, str]:
    """Module and flavour of the model; of one without such figures its own name, under which it has to be registered."""
    return flavour_of(setup.model, toml=dialect.toml) or ("qwen3" if setup.model.extents.get("E") else "llama3", setup.model.name)


def _write_model(dialect: Dialect, setup: Setup) -> dict[str, KeyValue]:
    module, flavour = flavour_or_name(dialect, setup)
    if dialect.toml:
        return {"model.name": module, "model.flavor": flavour}
    return {"module": module, "config": function_of(module, flavour, setup.dtype if setup.dtype in CONVERTED else "")}


def known_row(dialect: Dialect, keys: Keys) -> FiguresRow | None:
    """The figures of the model that keys name; None: not known here."""
    if dialect.toml:
        flavour = keys.like("model.flavor", "debugmodel")
        named = next((hub.ROWS[each] for each in (flavour, keys.of_type(str, "hf_transformers.model")) if each in hub.ROWS), None)
        return {"base": named} if named else row_of(keys.like("model.name", "llama3"), flavour)
    module, known = keys.take("module"), FUNCTIONS.get(keys.like("config", ""))
    return row_of(known.module, known.flavour) if module and known else None


def _read_model(dialect: Dialect, keys: Keys) -> dict[str, Any]:
    row = known_row(dialect, keys)
    if row is None:
        key, module = ("model.flavor", "model.name") if dialect.toml else ("config", "module")
        said = lack_of("model", str(keys.take(module)))
        keys.leave(key, f"{keys.take(module)} {said}" if said else "no model of parsim's catalog is known by it; state the model")
        return {}
    return long_enough(row, keys.like("training.max_context_length" if dialect.tokens else "training.seq_len", 2048))


def _write_replicas(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    shard = (plan.zero_group or plan.data_parallel) if plan.zero_stage == 3 else 1
    return {_REPLICATE: plan.data_parallel // shard, _SHARD: shard}


def _read_replicas(keys: Keys) -> dict[str, Any]:
    replicate, shard, every = keys.like(_REPLICATE, 1), keys.like(_SHARD, -1), pipeline.replicas(keys)
    if every is None and replicate > 1:
        keys.leave(_REPLICATE, "how many replicas shard, the number of devices says: state data_parallel and zero_group")
    shard = every // replicate if every and shard < 0 else shard
    shards = shard != 1 or keys.like(_CONTEXT, 1) > 1
    found = {"plan.data_parallel": every, "plan.zero_stage": 3 if shards else 0}
    found["plan.zero_group"] = shard if shards and replicate > 1 and shard > 0 else None
    return {field: value for field, value in found.items() if value is not None}


def _write_experts(dialect: Dialect, setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    return {_EXPERTS: plan.expert_parallel, **({_EXPERT_TENSOR: plan.expert_tensor_parallel} if dialect.toml else {})}


def _read_experts(dialect: Dialect, keys: Keys) -> dict[str, Any]:
    """Where nothing splits experts, tensor parallelism does."""
    ranks, each = keys.like(_EXPERTS, 1), keys.like(_EXPERT_TENSOR, 1)
    row = known_row(dialect, keys)
    if row is not None and not has_experts(row):
        return {}
    each = keys.like(_TENSOR, 1) if ranks == 1 and row is not None else each
    return {"plan.expert_parallel": ranks, "plan.expert_tensor_parallel": each}


def _write_sequence(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    return {"parallelism.enable_sequence_parallel": plan.sequence_parallel} if plan.tensor_parallel > 1 else {}


def _read_sequence(keys: Keys) -> dict[str, Any]:
    stated, ranks = keys.like("parallelism.enable_sequence_parallel", True), keys.like(_TENSOR, 1)
    return {"plan.sequence_parallel": bool(stated) and ranks > 1}


def _write_rotation(setup: Setup) -> dict[str, KeyValue]:
    named = ROTATE.get(setup.plan.context_kind)
    return {"parallelism.context_parallel_rotate_method": named} if setup.plan.context_parallel > 1 and named else {}


def _read_rotation(keys: Keys) -> dict[str, Any]:
    name = keys.like("parallelism.context_parallel_rotate_method", "allgather")
    return {"plan.context_kind": next((ours for ours, theirs in ROTATE.items() if theirs == name), "all_gather")}


def _write_mode(setup: Setup) -> dict[str, KeyValue]:
    plan = setup.plan
    if plan.recompute == "full" and plan.recompute_every > 1:
        return {_MODE: "selective", _OPTION: str(plan.recompute_every)}
    return {_MODE: plan.recompute, **({_OPTION: "op"} if plan.recompute == "selective" else {})}


def _read_mode(keys: Keys) -> dict[str, Any]:
    mode, option = keys.like(_MODE, "selective"), str(keys.like(_OPTION, "2"))
    if mode == "memory_budget":
        keys.leave(_MODE, "the compiler chooses what runs again; parsim does not know its choice, and takes none")
        return {}
    if mode != "selective" or option == "op":
        return {"plan.recompute": mode}
    if option == "0":  # every layer
        return {"plan.recompute": "full"}
    return {"plan.recompute": "full", "plan.recompute_every": int(option)} if option.isdigit() else {}


def _read_policy(keys: Keys) -> dict[str, Any]:
    policy = keys.like(POLICY, "selective")
    if policy in ("none", "selective", "full"):
        return {"plan.recompute": policy}
    keys.leave(POLICY, "the compiler chooses what runs again; parsim does not know its choice, and takes none")
    return {}


def _write_converters(setup: Setup) -> dict[str, KeyValue]:
    if setup.dtype not in NARROW:
        return _write_wide(setup)
    converter, recipe = NARROW[setup.dtype]
    return {_DTYPE: "float32", _COMPUTED: "bfloat16", _CONVERTED_BY: [converter], f"{converter}.recipe_name": recipe}


def _write_wide(setup: Setup) -> dict[str, KeyValue]:
    kept, computed = WIDE.get(setup.dtype, WIDE["bf16"])
    return {_DTYPE: kept, _COMPUTED: computed}


def _read_converters(keys: Keys) -> dict[str, Any]:
    names = [_CONVERTERS.get(name, name) for name in map(str, keys.like(_CONVERTED_BY, []))]
    if keys.take(f"{_FLOAT8}.enable_float8_linear") is True and _FLOAT8 not in names:  # as it was asked for before there were converters
        names.append(_FLOAT8)
    recipes = {name: keys.like(f"{name}.recipe_name", "") for name in (_FLOAT8, _MX)}
    for name in set(recipes) - set(names):  # of converters that do not run
        for key in [key for key in keys.rest() if key.startswith(f"{name}.")]:
            keys.take(key)
    usual = {_FLOAT8: "tensorwise", _MX: "mxfp8_cublas"}
    asked = [(name, recipes[name] or usual[name]) for name in names if name in usual]
    narrow = next((ours for ours, theirs in NARROW.items() if theirs in asked), None)
    if (others := [name for name in names if name not in usual]) or (asked and not narrow):
        keys.leave(_CONVERTED_BY, f"parsim has no recipe that is {', '.join(others or map(str, asked))}")
    wide = _read_wide(keys)
    return {"batch.dtype": narrow} if narrow else wide


def _read_wide(keys: Keys) -> dict[str, Any]:
    stated = keys.like(_DTYPE, "float32"), keys.like(_COMPUTED, "bfloat16")
    pure = "bf16_pure" if stated[0] == "bfloat16" else "bf16"
    return {"batch.dtype": next((ours for ours, theirs in WIDE.items() if theirs == stated), pure)}


def _read_function(keys: Keys) -> dict[str, Any]:
    """The recipe that a function asks for, or that of the keys; our own functions of models that are not known say it by their name."""
    name, wide = str(keys.like("config", "")), _read_wide(keys)
    known = FUNCTIONS.get(name)
    precision = known.precision if known else next((each for each in CONVERTED if name.endswith(f"_{each}")), "")
    return {"batch.dtype": precision} if precision else wide


def _write_compile(setup: Setup) -> dict[str, KeyValue]:
    return {"compile.enable": setup.stack.name.startswith(COMPILED)}


def _read_compile(keys: Keys) -> dict[str, Any]:
    """Also as `training.compile`, which was its name up to 0.1."""
    whole = keys.like("compile.enable", False) and "model" in keys.like("compile.components", ["model", "loss"])
    return {"stack": COMPILED if whole or keys.like("training.compile", False) else "torchtitan"}


def graphs_of(setup: Setup) -> bool:
    """Whether the whole step replays as a graph of CUDA, which no pipeline does, nor what waits for loads of experts."""
    return bool(setup.stack.graphs) and setup.plan.pipeline_parallel == 1 and setup.plan.expert_parallel == 1


def _write_graphs(setup: Setup) -> dict[str, KeyValue]:
    return {"training.disable_cuda_graphs": not graphs_of(setup)}


def _read_graphs(keys: Keys) -> Mapping[str, Any]:
    return {} if keys.like("training.disable_cuda_graphs", False) else {"stack.graphs": {ANY: UNSPLIT}}


def _read_offload(keys: Keys) -> dict[str, Any]:
    if keys.like("training.enable_cpu_offload", False):
        keys.leave("training.enable_cpu_offload", "parsim keeps parameters on the device; offload_optimizer is nearest")
    return {}
