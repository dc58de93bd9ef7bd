"""PyTorch without a launcher: a program for torchrun that a reader can follow, with its plan as a literal at its head.

Source: PyTorch 2.13, torch/distributed (device_mesh.py, tensor/parallel, fsdp/_fully_shard, pipelining/schedules.py, optim).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import asdict

from parsim.errors import PlanError
from parsim.model.families.dense import DenseSpec
from parsim.model.families.mlp import MlpSpec
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.model.tuning import Tuning
from parsim.parallel.dimensions import axis_of
from parsim.parallel.recomputation import regions, single_ops
from parsim.parallel.sharding_faults import keeps_parameters
from parsim.parallel.stages import layers_of
from parsim.targets.entries import Entry, Keys, by_name, same
from parsim.targets.payload import data_fit, npz, payload_of, weights_fit, weights_of
from parsim.targets.programs import model_entry, settings_in, text_of, with_settings
from parsim.targets.starting import torchrun
from parsim.targets.target import TARGETS, KeyValue, Launch, NotExpressible, Setup, Target

if TYPE_CHECKING:
    from parsim.targets.payload import Arrays

NAME: Final = "pytorch"
PROGRAM: Final = ("train.py", "parallel.py", "model.py")
# Parsim's orders that a class of torch.distributed.pipelining runs action by action.
SCHEDULES: Final = {
    "1f1b": "1F1B",
    "gpipe": "GPipe",
    "interleaved_1f1b": "Interleaved1F1B",
    "zero_bubble_h1": "InterleavedZeroBubble",  # of one stage a rank
    "zero_bubble_v": "ZBVZeroBubble",
}
OPTIMIZERS: Final = ("adamw", "sgd_momentum")
DTYPES: Final = {"fp32": ("float32", "highest"), "tf32": ("float32", "high"), "bf16": ("bfloat16", "highest")}
PARTS: Final = ("core_attn", "mlp")  # that run again by themselves
_PLAN: Final = (
    *("data_parallel", "tensor_parallel", "sequence_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch", "recompute"),
    *("recompute_every", "gradient_sync", "zero_stage", "zero_group", "reshard_after_forward", "rank_order", "optimizer", "precision"),
    "context_kind",
)
_LISTS: Final = ("recompute_modules", "layers_per_stage")
_TRAINING: Final = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "momentum", "max_norm")
_BATCH: Final = ("global_batch", "sequence_length", "dtype")
_MLP: Final = ("num_layers", "hidden_size", "ffn_hidden_size", "num_features", "num_labels", "activation", "bias")
_CHAIN: Final = ("num_features", "units", "num_labels", "activation", "activations", "bias")
_TRANSFORMER: Final = (
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "max_positions"),
    *("activation", "norm", "norm_bias", "positions", "bias", "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "tied_embedding"),
)
_DENSE: Final = ("input", "q", "k", "v", "out", "gate", "up", "down", "dense")
_MODULES: Final = {
    **dict.fromkeys(("q", "k", "v", "out", "q_norm", "k_norm"), "attention."),
    **dict.fromkeys(("gate", "up", "down"), "mlp."),
}
_KINDS: Final = {"gamma": "weight", "beta": "bias"}
_UNUSED: Final = ("name", "source", "tuning", "num_labels")
_Fault = tuple[str, str, str]  # field, why, remedy
ACTIVATIONS: Final = ("gelu", "relu", "squared_relu", "swiglu", "geglu", "tanh", "sigmoid", "silu", "linear")
MODELS: Final[Mapping[str, tuple[type[ModelSpec], tuple[str, ...]]]] = {
    "transformer": (TransformerSpec, _TRANSFORMER),
    "mlp": (MlpSpec, _MLP),
    "dense": (DenseSpec, _CHAIN),
}


def _list_entry(field: str) -> Entry:
    """A tuple, or None, that the settings say as a list."""
    key = f"plan.{field}"

    def write(setup: Setup) -> dict[str, KeyValue]:
        value = getattr(setup.plan, field)
        return {key: value and list(value)}

    def read(keys: Keys) -> dict[str, Any]:
        value = keys.take(key)
        return {key: tuple(value) if isinstance(value, list) else value}

    return Entry((key,), write, read)


def _training(name: str) -> Entry:
    key = f"training.{name}"
    return Entry((), lambda setup: {key: getattr(setup.scenario.training, name)}, lambda keys: {key: keys.take(key)} if key in keys else {})


def _layout_entry() -> Entry:
    """What follows from plan, model and stack, said for the program's sake."""

    def write(setup: Setup) -> dict[str, KeyValue]:
        plan, stack = setup.plan, setup.stack
        dtype, matmul = DTYPES[setup.dtype]
        return {
            "parsim.scenario": setup.scenario.name,
            "parsim.plan": setup.name,
            "parsim.seed": setup.scenario.seed,
            "layout.layers_of_stage": list(layers_of(plan, setup.model.num_layers, stack.layer_split)),
            "layout.recomputed": ["full"] if plan.recompute == "full" else list(regions(plan, stack)),
            "layout.reshard": not keeps_parameters(plan, stack),
            "layout.dtype": dtype,
            "layout.float32_matmul": matmul,
        }

    def read(keys: Keys) -> dict[str, Any]:
        for key in ("scenario", "plan", "seed"):
            keys.take(f"parsim.{key}")
        for key in ("layers_of_stage", "recomputed", "reshard", "dtype", "float32_matmul"):
            keys.take(f"layout.{key}")
        return {}

    return Entry((), write, read)


def entries(version: str) -> tuple[Entry, ...]:
    """The settings under parsim's own names; a schedule bears that of its class."""
    return (
        *(same(f"plan.{name}", f"plan.{name}") for name in _PLAN),
        *map(_list_entry, _LISTS),
        by_name("plan.schedule", "plan.schedule", SCHEDULES),
        *(same(f"batch.{name}", f"batch.{name}") for name in _BATCH),
        model_entry({family: names for family, (_, names) in MODELS.items()}, "transformer"),
        *map(_training, _TRAINING),
        _layout_entry(),
    )


def write(keys: Mapping[str, KeyValue], setup: Setup, version: str) -> Launch:
    """The program, and beside it the weights and the data that `parsim execute` takes, where these are few enough."""
    texts = {name: text_of(NAME, name) for name in PROGRAM}
    texts["train.py"] = with_settings(texts["train.py"], {"parsim.target": NAME, "parsim.version": version, **keys})
    scenario, notes, data = setup.scenario, [], {}
    if weights_fit(scenario):
        data["weights.npz"] = lambda: npz(_torch_weights(weights_of(scenario), scenario.model.family))
    else:
        notes.append("the weights are too many for a file: the program draws its own, and its losses are not those of parsim execute")
    if data_fit(scenario):
        data["data.npz"] = lambda: _data(setup)
    else:
        notes.append("the data are too many for a file: the program draws random ones")
    if setup.plan.zero_stage == 1 and setup.plan.data_parallel > 1:
        notes.append(
            "ZeroRedundancyOptimizer sums gradients by all_reduce and then sends weights: half as much again as the prediction says"
        )
    return Launch(NAME, version, texts, torchrun(setup, ["train.py"]), tuple(notes), data)


def _data(setup: Setup) -> bytes:
    given = payload_of(setup.scenario)
    return npz({**given.train, "rows": given.rows})


def _torch_weights(weights: Arrays, family: str) -> dict[str, Any]:
    """Under the names of the program's modules, and as nn.Linear has them: what it makes first."""
    found = {}
    for name, array in weights.items():
        block, _, own = name.partition("/")
        module, _, kind = own.partition(".")
        if module in _DENSE and kind == "weight":
            width = array.shape[-1] if module == "out" else array[0].size
            array = np.ascontiguousarray(array.reshape(-1, width).T)
        if kind == "bias":
            array = array.reshape(-1)
        if family == "transformer":
            module = _MODULES.get(module, "") + module
        found[f"{block}.{module}.{_KINDS.get(kind, kind)}"] = array
    return found


def read(text: str, name: str) -> tuple[Mapping[str, KeyValue], str] | None:
    """The settings of such a program, which is not run."""
    return settings_in(text, NAME)


def refuses(setup: Setup, version: str) -> Iterator[PlanError]:
    """What the program does not compute, or would not compute as the plan says."""

    def fault(field: str, why: str, remedy: str = "") -> NotExpressible:
        return NotExpressible(field, NAME, version, why, remedy)

    for field, why, remedy in (*_model_faults(setup.model), *_plan_faults(setup), *_shard_faults(setup)):
        yield fault(field, why, remedy)


def _model_faults(model: ModelSpec) -> Iterator[_Fault]:
    if model.family not in MODELS:
        yield "model.family", f"it has no model of family {model.family}", ""
        return
    _, own = MODELS[model.family]
    figures = asdict(model)
    for name, told in type(model).told.items():
        value, rule = figures[name], told.about.rule
        if name == "dropout":
            if value:
                yield "model.dropout", "its masks would be others than those of parsim execute", "Set model.dropout to 0."
        elif name not in own and name not in _UNUSED and value != told.default and not (rule and value == rule(figures)):
            yield f"model.{name}", f"its model has no {name} = {value!r}", ""
    if model.tuning != Tuning():
        yield "model.tuning", "it trains all weights", ""
    if model.architecture.activation not in ACTIVATIONS:  # DenseSpec's are all among them
        yield "model.activation", f"its model has no {model.architecture.activation}", f"It has {', '.join(ACTIVATIONS)}."
    if getattr(model, "positions", "learned") not in ("learned", "rotary"):
        yield "model.positions", "its model has learned and rotary positions", ""


def _plan_faults(setup: Setup) -> Iterator[_Fault]:
    plan, model, stack = setup.plan, setup.model, setup.stack
    if setup.batch.packing:
        yield "batch.packing", "its rows hold one sequence each", ""
    if setup.dtype not in DTYPES:
        yield "precision" if plan.precision else "batch.dtype", f"it trains in {', '.join(DTYPES)}, not in {setup.dtype}", ""
    elif setup.dtype == "bf16" and not (plan.zero_stage == 3 and plan.data_parallel > 1):
        field = "precision" if plan.precision else "batch.dtype"
        yield field, "only FSDP keeps float32 weights beside those in bf16", "Set zero_stage = 3, or precision = fp32."
    if plan.optimizer not in OPTIMIZERS:
        yield "optimizer", f"it has {' and '.join(OPTIMIZERS)}", ""
    if plan.schedule not in SCHEDULES:
        yield "schedule", "no class of torch.distributed.pipelining runs these actions in this order", f"It runs {', '.join(SCHEDULES)}."
    elif plan.pipeline_parallel == 1 and plan.schedule != "1f1b":
        yield "schedule", "without a pipeline each micro_batch goes forward and backward at once", "Set schedule = 1f1b."
    again = {*regions(plan, stack), *single_ops(plan, stack)}
    parts = PARTS if isinstance(model, TransformerSpec) else ("core_attn",)  # which an MLP has not
    if plan.recompute != "full" and (wrong := again - {*parts}):
        field = "recompute_modules" if plan.recompute_modules else "recompute"
        yield field, f"it runs {' and '.join(PARTS)} of a transformer again, not {', '.join(sorted(wrong))}", ""
    if plan.recompute != "none" and plan.schedule in ("zero_bubble_h1", "zero_bubble_v"):
        yield "recompute", "a checkpoint runs its whole backward at once, which this schedule takes apart", "Set recompute = none."
    if model.family in ("mlp", "dense") and plan.sequence_parallel:
        yield "sequence_parallel", "its MLP keeps rows whole", ""
    if isinstance(model, DenseSpec) and not model.units and plan.pipeline_parallel > 1:
        yield "pipeline_parallel", "a stage of features alone has no weights to train", ""
    for name in ("num_kv_heads", "vocab_size") if model.family == "transformer" else ():
        if getattr(model, name) % plan.tensor_parallel:
            yield "tensor_parallel", f"it does not divide {name} = {getattr(model, name)}, and DTensor pads and copies nothing", ""


def _shard_faults(setup: Setup) -> Iterator[_Fault]:
    plan, tied = setup.plan, getattr(setup.model, "tied_embedding", False)
    if plan.zero_stage == 2:
        yield "zero_stage", "FSDP lets parameters go after each backward", "Set zero_stage = 3 and reshard_after_forward = false."
    if plan.zero_stage == 1 and plan.tensor_parallel > 1:
        yield "zero_stage", "ZeroRedundancyOptimizer takes no DTensor, which tensor_parallel makes", "Set zero_stage = 0 or 3."
    inner, outer = (plan.rank_order.split("-").index(axis_of(name)) for name in ("tensor_parallel", "data_parallel"))
    if plan.zero_stage == 3 and min(plan.tensor_parallel, plan.data_parallel) > 1 and outer < inner:
        yield "rank_order", "FSDP of tensors that tensor_parallel cuts wants dp outside tp", "Set rank_order = tp-dp-pp."
    if plan.zero_stage == 3 and plan.pipeline_parallel > 1 and not keeps_parameters(plan, setup.stack):
        why = "torch.distributed.pipelining keeps gathered parameters and whole gradients until the last micro_batch"
        yield "reshard_after_forward", why, "Set reshard_after_forward = false."
    if plan.zero_stage == 3 and plan.schedule == "zero_bubble_v" and tied:
        yield "zero_stage", "FSDP does not share a tied table between two stages of a rank", "Set model.tied_embedding = false."


TARGETS.register(
    NAME,
    Target(NAME, ("2.13",), "a program for torchrun, with the weights and data of the run", entries, write, read, refuses, __doc__ or ""),
)
