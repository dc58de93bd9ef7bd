"""What torchtitan cannot be told, would not run, or would run as something else than the plan says, whatever its parser lets through."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from msgspec.structs import asdict

from parsim.errors import PlanError
from parsim.model.transformer import TransformerSpec
from parsim.model.tuning import Tuning
from parsim.parallel.plan import Stack
from parsim.scenario.rows import read
from parsim.targets.figures import spec_of
from parsim.targets.target import NotExpressible, Setup
from parsim.targets.torchtitan import pipeline
from parsim.targets.torchtitan.dialect import DIALECTS, Dialect
from parsim.targets.torchtitan.entries import COMPILED, NARROW, WIDE, flavour_or_name
from parsim.targets.torchtitan.flavours import CONVERTED, flavour_of

NAME: Final = "torchtitan"
# What a flavour of a module may choose; all else is its code.
_CHOSEN: Final = (
    *("name", "source", "tuning", "max_positions", "vocab_size", "tied_embedding", "num_layers", "hidden_size", "ffn_hidden_size"),
    *("num_heads", "num_kv_heads", "head_dim", "num_experts", "experts_per_token", "expert_ffn_hidden_size", "shared_ffn_hidden_size"),
    *("gates", "gate_scale", "expert_groups", "groups_per_token", "gates_on_input", "steer_rate", "balance_coefficient"),
    *("load_skew", "load_seed", "load_shares"),
)
_FORMS: Final = {"llama3": ("llama3-8b", _CHOSEN), "qwen3": ("qwen3-30b-a3b", (*_CHOSEN, "qk_norm"))}  # what the code of a module is like


def refusals(setup: Setup, version: str) -> Iterator[PlanError]:
    """The faults, first those of keys that are not there, then of jobs that would not start or run otherwise."""
    dialect = DIALECTS[version]
    cannot = partial(_cannot, version)
    for subject in (_model, _replicas, _experts, _pipeline, _recomputation, _precision):
        for field, why, remedy in subject(setup, dialect):
            yield cannot(field, why, remedy)
    for field, why, remedy in _would_not_run(setup, dialect):
        yield PlanError(f"{NAME} {version} {why}", f"plans.{setup.name}.{field}", remedy)


Said = Iterator[tuple[str, str, str]]  # field, what is wrong, and the way out


def _cannot(version: str, field: str, why: str, remedy: str) -> NotExpressible:
    return NotExpressible(field, NAME, version, why, remedy)


def _model(setup: Setup, dialect: Dialect) -> Said:
    """What no flavour that is registered has: a form other than that of the module's code."""
    model = setup.model
    if model.tuning != Tuning():
        yield "model.tuning", "it trains all weights", ""
    if flavour_of(model, toml=dialect.toml):
        return
    if type(model) is not TransformerSpec:
        yield "model.family", f"its models are decoders, and {model.name} is of family {model.family}", ""
        return
    module, _ = flavour_or_name(dialect, setup)
    base, chosen = _FORMS[module]
    own, form = asdict(model), asdict(spec_of({"base": base}))
    for name in (name for name in own if name not in chosen and own[name] != form[name]):
        yield f"model.{name}", f"its module {module} has no {name} = {own[name]!r}", f"Choose a model of {name} = {form[name]!r}."


def _replicas(setup: Setup, dialect: Dialect) -> Said:
    plan = setup.plan
    if plan.zero_stage in (1, 2):
        near = "zero_stage = 3 with reshard_after_forward = false keeps parameters between forward and backward"
        yield "zero_stage", "it shards with FSDP, which is zero_stage 3, or not at all", f"{near}, and is nearest."
    if plan.zero_stage == 0 and plan.context_parallel > 1:
        yield "zero_stage", "FSDP shards over the ranks of context_parallel, whatever it is asked", "Set zero_stage = 3."
    whole = plan.zero_group == plan.data_parallel and plan.context_parallel == 1
    if plan.zero_stage == 3 and plan.zero_group == 1 and plan.data_parallel > 1 and plan.context_parallel == 1 and not whole:
        yield "zero_group", "a shard degree of 1 is no FSDP", "Set zero_stage = 0, which is the same."
    if plan.offload_optimizer:
        yield "offload_optimizer", "training.enable_cpu_offload moves parameters and gradients, too", "Leave offload_optimizer out."
    keeps = setup.stack.pipeline_keeps_parameters
    if plan.zero_stage == 3 and plan.pipeline_parallel > 1 and plan.reshard_after_forward is None and not keeps:
        said = f"its default keeps parameters under a pipeline, which stack {setup.stack.name} does not"
        yield "reshard_after_forward", said, "State reshard_after_forward."


def _experts(setup: Setup, dialect: Dialect) -> Said:
    plan, here = setup.plan, "expert_tensor_parallel"
    if not setup.model.extents.get("E"):
        return
    shard = (plan.zero_group or plan.data_parallel) if plan.zero_stage == 3 else 1
    ranks, found = shard * plan.context_parallel * plan.tensor_parallel, plan.expert_parallel * plan.expert_tensor_parallel
    if plan.expert_parallel == 1 and plan.expert_tensor_parallel != plan.tensor_parallel:
        said = "experts that no expert_parallel splits are split as all else, by tensor_parallel"
        yield here, said, f"Set {here} = {plan.tensor_parallel}, or expert_parallel."
    elif plan.expert_parallel > 1 and plan.expert_tensor_parallel not in ((1, plan.tensor_parallel) if dialect.toml else (1,)):
        legal = f"1 or tensor_parallel = {plan.tensor_parallel}" if dialect.toml else "1 beside expert_parallel"
        yield here, f"it is {legal}", f"Set {here} = 1."
    elif plan.expert_parallel > 1 and ranks % found:
        said = f"{found} ranks of experts do not divide the {ranks} that shard, read a sequence and split layers together"
        yield "expert_parallel", said, "Experts lie on ranks of FSDP, context and tensor parallelism; replicas of HSDP each have all."


def _pipeline(setup: Setup, dialect: Dialect) -> Said:
    plan = setup.plan
    if plan.pipeline_parallel == 1:
        return
    name = pipeline.schedule_name(plan)
    if name is None:
        known = ", ".join(pipeline.SCHEDULES)
        if isinstance(plan.schedule, str):
            yield "schedule", f"it has no {plan.schedule}", f"It has {known}; actions that are written out run, too."
        else:
            yield "schedule", "its stages lie in turn on the ranks, or as a V of two a rank", f"Place stages so, or name one of {known}."
        return
    if plan.layers_per_stage is not None:
        return
    stated = "State layers_per_stage."
    try:
        same = pipeline.splits_as(setup)
    except PlanError:
        same = False
    if not same:
        yield "layers_per_stage", f"its own rule deals out layers otherwise than stack {setup.stack.name} does", stated
    elif not pipeline.chunks_follow(setup):
        yield "virtual_pipeline", f"no number of layers a stage makes {plan.num_stages} stages", stated
    elif plan.virtual_pipeline != pipeline.usual_chunks(name) and not flavour_of(setup.model, toml=dialect.toml):
        yield "virtual_pipeline", "how many stages a number of layers a stage makes, a model says that it does not have", stated


def _recomputation(setup: Setup, dialect: Dialect) -> Said:
    plan, own = setup.plan, _own_stack(setup)
    if plan.recompute == "selective" and not (plan.recompute_ops or plan.recompute_modules):
        if setup.stack.selective_recompute != own.selective_recompute:
            said = f"its selective keeps attention and each second GEMM, which stack {setup.stack.name} does not mean by it"
            yield "recompute", said, "Take stack torchtitan, or recompute = full."
        elif plan.recompute_every > 1:
            yield "recompute_every", "its selective is for all layers", "Set recompute = full with recompute_every, or leave it out."


def _own_stack(setup: Setup) -> Stack:
    stack: Stack = read("stacks", COMPILED if setup.stack.name.startswith(COMPILED) else NAME)
    return stack


def _precision(setup: Setup, dialect: Dialect) -> Said:
    known = (*WIDE, *(NARROW if dialect.toml else CONVERTED))
    if setup.dtype not in known:
        yield "precision", f"it trains in no {setup.dtype}", f"It knows {', '.join(known)}."


def _would_not_run(setup: Setup, dialect: Dialect) -> Said:
    plan, length = setup.plan, setup.batch.sequence_length
    parts = plan.tensor_parallel * (2 * plan.context_parallel if plan.context_parallel > 1 else 1)
    if length % parts:
        said = f"asserts that sequence_length = {length} divides by tensor_parallel x 2 context_parallel = {parts}"
        yield "context_parallel" if plan.context_parallel > 1 else "tensor_parallel", said, "Choose a sequence_length that does."
    others = plan.num_devices // plan.data_parallel
    if dialect.toml and plan.zero_stage == 0 and plan.data_parallel > 1 and others > 1:
        yield "zero_stage", "raises 'DDP has not supported > 1D parallelism'", "Set zero_stage = 3, or split by data_parallel alone."
    unsharded = plan.zero_stage == 0 or plan.data_parallel * plan.context_parallel == 1 or plan.zero_group == 1 == plan.context_parallel
    if dialect.toml and unsharded and plan.data_parallel == 1 and others > 1 and setup.dtype not in ("fp32", "bf16_pure"):
        said = f"turns mixed precision off where FSDP shards nothing, and would compute in float32, not in {setup.dtype}"
        yield "data_parallel", said, "Shard over data_parallel, or set precision = fp32."
    if plan.optimizer_in_backward and plan.expert_parallel > 1:
        yield "optimizer_in_backward", "raises 'Optimizers in backward is not supported with Expert Parallel'", "Leave it out."
    known = flavour_of(setup.model, toml=dialect.toml)
    if not dialect.toml and plan.context_parallel > 1 and known and known[0] == "gpt_oss":
        yield "context_parallel", "has no context parallelism for the attention of gpt_oss (VarlenAttention)", "Leave context_parallel out."
