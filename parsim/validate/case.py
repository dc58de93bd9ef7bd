"""What one row of measurements describes, as a Scenario with one plan; what it leaves open comes from defaults.py.

To build a feature is to remove its line from FEATURES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any, Final

from msgspec.structs import replace

from parsim import catalog, schedules
from parsim.cluster.flash import KERNELS, OWN, flash_fault, multiplies_any_layout
from parsim.errors import ParsimError, PlanError
from parsim.model.op_kinds import KINDS
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel import legality
from parsim.parallel.plan import ANY, KEYS, Batch, Plan, Stack
from parsim.parallel.precision import FP8, RECIPES
from parsim.scenario import Scenario
from parsim.scenario.left_open import MICRO_BATCH, RECOMPUTE, heads
from parsim.scenario.rows import ATTENTION, read
from parsim.validate.clusters import assumed_fabric, cluster_of
from parsim.validate.custom import CUSTOM, custom_recomputation, least_recomputation, recomputation_of, usual_recomputation
from parsim.validate.defaults import (
    AUXILIARY_LOSS,
    Software,
    attention_of,
    balances_loads,
    capacity_of,
    devices_of,
    dispatch_of,
    fusions_of,
    latent_recipe_of,
    later_modules_of,
    modules_of,
    pads_experts,
    precision_of,
    release_of,
    software_of,
    tuning_of,
)
from parsim.validate.megatron_tests import (
    defers_head,
    expert_tensor_parallel_of,
    figures_of_test,
    is_test,
    layers_by_stage,
    offloads,
    stack_of_test,
    zero_group_of,
)
from parsim.validate.named import named_model, num_experts
from parsim.validate.open_cells import open_cells
from parsim.validate.pax import pax_recipe_of
from parsim.validate.recipes import GRADIENTS_OF_SOURCE, recipe_of
from parsim.validate.switches import delays_weights, hides_tensor_collectives, optimizer_of, pairs_micro_batches, zero_stage_of
from parsim.validate.table import TableRow

SHAPE: Final = ("num_layers", "hidden_size")
NEEDED: Final = (*SHAPE, "sequence_length", "accelerator", "global_batch")
PLAN: Final = "row"  # the name of the one plan
Predicate = Callable[[TableRow], bool]


def _other_than(column: str, *built: str) -> Predicate:
    return lambda row: row.says(column) not in ("", *built)


def _lacks_latent_widths(row: TableRow) -> bool:
    """Whether a row has latent attention, by its name, and is no model of the catalog: no column has its widths.

    Source: DeepSeek-AI 2024 (arXiv:2405.04434), and models of its layers.
    """
    latent = any(name in row.says("model_name").lower() for name in ("deepseek", "kimi", "moonlight"))
    return latent and not named_model(row) and num_experts(row) > 0 and _known_model(row) is None


# What is not built yet, by the name of a feature, with cells in braces: whether a row needs it.
FEATURES: Final[Mapping[str, Predicate]] = {
    "workload {workload}": _other_than("workload", "pretrain", "pretrain_oom", "sft", "lora", "ci"),
    "mlp {mlp}": _other_than("mlp", *KINDS),
    "the widths of latent attention (MLA)": _lacks_latent_widths,
    "offload": lambda row: row.says("offload") not in ("", "no") or offloads(row),
    "the head's weight gradients deferred": defers_head,
    "recompute {recompute}": _other_than("recompute", *KEYS["recompute"].legal, CUSTOM),
    "attention {attention}": _other_than("attention", *ATTENTION),
    "schedule {schedule}": lambda row: row.says("schedule") not in ("", *schedules.names()),
    "dtype {dtype}": lambda row: precision_of(row) not in ("", FP8, *RECIPES),
    "accelerator {accelerator}": lambda row: bool(said := row.says("accelerator")) and not catalog.find("accelerators", said),
}


def replicas(row: TableRow) -> int | None:
    """Data-parallel ranks of a row, stated or left over by the other axes; None where neither is known.

    >>> replicas(TableRow({}, {"num_devices": 64, "tensor_parallel": 8}, {}, ()))
    8
    """
    inner = prod(row.counts.get(axis, 1) for axis in ("tensor_parallel", "pipeline_parallel", "context_parallel"))
    stated, devices = row.counts.get("data_parallel"), devices_of(row)
    return stated if stated or not devices else max(1, devices // inner)


def missing_features(row: TableRow) -> list[str]:
    """Names of the features that a row needs and that are not built yet."""
    return [name.format_map(row.text) for name, needs in FEATURES.items() if needs(row)]


def missing_cells(row: TableRow) -> list[str]:
    """Columns without which nothing can be predicted, and that the row leaves empty."""
    known = SHAPE if named_model(row) else ()
    missing = [column for column in NEEDED if not row.says(column) and column not in known]
    return missing if replicas(row) else [*missing, "num_devices"]


def scenario_of(row: TableRow, path: str, software_stack: Stack | None = None) -> Scenario:
    """The scenario of a row that has all cells and needs no missing feature, on the stack of its repository or family, or a given one.

    Raises:
        ParsimError: the row does not hold together: the plan does not fit the model, the batch or the devices.
    """
    software = software_of(row)
    stack = software_stack or read("stacks", catalog.release("stacks", software.stack, release_of(row)))
    if stated := attention_of(row):
        stack = replace(stack, attention=OWN, named_flash=stated) if stated in KERNELS else replace(stack, attention=stated)
    precision = stack.precision(precision_of(row) or _usual_dtype(row, software))
    experts = recipe_of(row, precision, release_of(row))
    if experts:
        stack = replace(stack, dispatch=experts.dispatch, graphs={ANY: experts.graphs} if experts.graphs else {})
    stack = replace(stack, fusions=fusions_of(row, stack.fusions), dispatch=dispatch_of(row) or stack.dispatch)
    stack = replace(stack, gradient_dtype=_of_source(GRADIENTS_OF_SOURCE, row) or stack.gradient_dtype)
    overlaps = experts.overlaps if experts else pairs_micro_batches(row)
    stack = replace(stack, waits_for_loads=stack.waits_for_loads and not pads_experts(row))
    stack = replace(stack, tensor_overlap=stack.tensor_overlap or hides_tensor_collectives(row))
    model = replace(_model(row, software), tuning=tuning_of(row))
    latent = latent_recipe_of(row) if isinstance(model, TransformerSpec) and model.architecture.latent else None
    if latent and latent.attention and not row.says("recompute"):
        stack = replace(stack, attention=latent.attention)
    pax = pax_recipe_of(row)
    if pax and pax.attention and not row.says("attention"):
        stack = replace(stack, attention=pax.attention)
    stack = _with_ends(row, model, stack_of_test(row, stack) if is_test(row) else stack)
    wide = experts.num_layers_at_end_in_bf16 if experts else 0
    batch = Batch(row.counts["global_batch"], row.counts["sequence_length"], precision, num_layers_at_end_in_bf16=wide)
    plan = _plan(row, model, software, stack)
    if (recipe := experts or latent) and not row.says("recompute"):
        plan = replace(plan, recompute_modules=recipe.recompute_modules)
    elif pax and pax.policy and not row.says("recompute"):
        plan = replace(plan, **recomputation_of(pax.policy, model, stack))
    elif modules := modules_of(row):
        plan = replace(plan, recompute="none", recompute_modules=modules)
    num_devices = devices_of(row) or plan.num_devices
    paired = replace(plan, schedule="combined_1f1b_delayed" if experts or delays_weights(row) else "combined_1f1b")
    if overlaps and not legality.faults(paired, model, batch, num_devices, stack=stack):
        plan = paired
    if found := legality.faults(plan, model, batch, num_devices, stack=stack):
        raise PlanError(found[0].message)
    cluster = cluster_of(row, num_devices)
    batch = replace(batch, one_layout=multiplies_any_layout(cluster.node.accelerator))
    if stack.named_flash and (wrong := flash_fault(stack.named_flash, cluster.node.accelerator)):
        raise ParsimError(wrong)
    if missing := batch.recipe.without_peak(cluster.node.accelerator.peak_flops_per_s):
        raise ParsimError(f"needs a peak of {cluster.node.accelerator.name} for {missing}")
    itemsize = {name: read("dtypes", name) for name in catalog.names("dtypes")}
    assumed = (*open_cells(row, software, stack.name, model, precision), *assumed_fabric(row, cluster))
    scenario = Scenario(row.says("id"), model, cluster, batch, stack, {PLAN: plan}, {}, {}, 0, path, itemsize, assumed=assumed)
    if row.says("recompute") == CUSTOM and not custom_recomputation(row, model, stack):
        return least_recomputation(scenario, PLAN, KEYS["recompute"].legal)
    again = plan.recompute_modules or plan.recompute_ops or (pax and pax.policy)
    return scenario if row.says("recompute") or again or software.recompute else usual_recomputation(scenario, PLAN)


def _usual_dtype(row: TableRow, software: Software) -> str:
    """What the software trains in where a row says nothing, or another of 16 bits where its devices cannot: a V100 has no bf16."""
    peaks = catalog.row("accelerators", catalog.find("accelerators", row.says("accelerator")))["peak"]
    return next((each for each in (software.dtype, "fp16", "bf16") if each in peaks), software.dtype)


def _with_ends(row: TableRow, model: ModelSpec, stack: Stack) -> Stack:
    """The stack, counting embedding and head as a layer each where else a stage would have none, or only so all that must hold as many do.

    Source: Megatron-LM, megatron/core/transformer/transformer_config.py: account_for_embedding_in_pipeline_split, and ..._loss_in_....
    """
    pipeline, layers = row.counts.get("pipeline_parallel", 1), model.num_layers
    stages = pipeline * _chunks(row.says("virtual_pipeline"), layers, pipeline, stack)
    evens = "even_chunks" in stack.limits and layers % stages > 0 and (layers + 2) % stages == 0
    return replace(stack, layer_split="embedding_and_head") if stages > layers or evens else stack


def _model(row: TableRow, software: Software) -> ModelSpec:
    if name := named_model(row):
        named: ModelSpec = read("models", name)
        return named
    if known := _known_model(row):
        layers, tokens = row.counts["num_layers"], row.counts["sequence_length"]
        balance = AUXILIARY_LOSS if balances_loads(row) else known.balance_coefficient
        told = {**capacity_of(row), "balance_coefficient": balance, "mtp_layers": later_modules_of(row)}
        return replace(known, num_layers=layers, max_positions=tokens, **told)
    stated = ("num_layers", "hidden_size", "ffn_hidden_size", "num_kv_heads", "head_dim")
    experts: dict[str, Any] = {}
    if num_experts(row):
        experts = {"num_experts": row.counts["num_experts"], "experts_per_token": row.counts.get("top_k", 1), **capacity_of(row)}
    figures = {
        **{name: row.counts.get(name) for name in stated},
        **experts,
        "num_heads": row.counts.get("num_heads") or heads(row.counts["hidden_size"]),
        "name": row.says("model_name") or "unnamed",
        "vocab_size": row.counts.get("vocab_size", software.vocab_size),
        "max_positions": row.counts["sequence_length"],
        "activation": row.says("mlp") or "gelu",
        "source": row.says("source"),
        "mtp_layers": later_modules_of(row),
        **{**_layer(row.says("mlp"), software), **({"bias": False} if experts else {})},
    }
    return TransformerSpec.of(**{**figures, **(figures_of_test(row) if is_test(row) else {})})


def _known_model(row: TableRow) -> TransformerSpec | None:
    """The model of the catalog that has the row's experts and widths, since no column says what else it has; None where there is none.

    Of several, as DeepSeek-V2-Lite and Moonlight, the one that the row is named after.
    """
    if not num_experts(row):
        return None
    columns = ("hidden_size", "ffn_hidden_size", "num_heads", "num_kv_heads", "num_experts", "top_k")
    figures = ("hidden_size", "expert_ffn_hidden_size", "num_heads", "num_kv_heads", "num_experts", "experts_per_token")
    stated = [row.counts.get(name) for name in columns]
    models: Iterator[ModelSpec] = (read("models", name) for name in catalog.names("models"))
    alike = [each for each in models if isinstance(each, TransformerSpec) and [getattr(each, name, None) for name in figures] == stated]
    named = [model for model in alike if model.name.split("-")[0] in row.says("model_name").lower()]
    return next(iter((*named, *alike)), None)


def _layer(mlp: str, software: Software) -> dict[str, Any]:
    """What comes with an MLP: Llama's layer (Touvron et al. 2023, arXiv:2302.13971, section 2.2) or Nemotron-4's.

    Source of the latter: Parmar et al. 2024 (arXiv:2402.16819), section 2: squared ReLU, rotary positions, no bias, no dropout, untied.
    """
    if mlp not in ("swiglu", "squared_relu"):
        return {"dropout": software.dropout}
    norm = "rms_norm" if mlp == "swiglu" else "layer_norm"
    tied = software.ties_embedding and mlp == "swiglu"
    return {"norm": norm, "positions": "rotary", "bias": False, "dropout": 0.0, "tied_embedding": tied}


def _plan(row: TableRow, model: ModelSpec, software: Software, stack: Stack) -> Plan:
    tensor, pipeline = row.counts.get("tensor_parallel", 1), row.counts.get("pipeline_parallel", 1)
    pax = pax_recipe_of(row)
    zero_stage = row.counts.get("zero_stage", zero_stage_of(row) or software.zero_stage)
    group = row.counts.get("zero_group", pax.zero_group if pax else 0)
    tested: dict[str, Any] = {}
    if is_test(row):
        group = group or zero_group_of(row, replicas(row) or 1)
        tested = {"expert_tensor_parallel": expert_tensor_parallel_of(row)} if num_experts(row) else {}
        tested["layers_per_stage"] = layers_by_stage(row)
    chunks = _chunks(row.says("virtual_pipeline"), model.num_layers, pipeline, stack)
    stated = row.says("sequence_parallel")
    sequence_parallel = stated == "yes" if stated else software.sequence_parallel or _splits_tokens(row, software)
    again: dict[str, Any] = {
        "recompute": row.says("recompute").replace(CUSTOM, "none") or software.recompute or RECOMPUTE[0],
        **custom_recomputation(row, model, stack),
    }
    return Plan(
        data_parallel=replicas(row) or 1,
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        context_parallel=row.counts.get("context_parallel", 1),
        context_kind=stack.context,
        virtual_pipeline=chunks,
        sequence_parallel=sequence_parallel and tensor > 1,  # Megatron-LM turns it off for one rank
        expert_parallel=row.counts.get("expert_parallel", 1),
        micro_batch=row.counts.get("micro_batch", MICRO_BATCH),
        schedule=row.says("schedule") or schedules.default(chunks),
        zero_stage=zero_stage,
        zero_group=None if group in (0, replicas(row)) or not zero_stage else group,
        optimizer=optimizer_of(row) or KEYS["optimizer"].default,
        **tested,
        **again,
    )


def _splits_tokens(row: TableRow, software: Software) -> bool:
    """Whether experts make sequence parallelism follow from tensor parallelism.

    Source: NVIDIA/Megatron-LM@d98e8a64, megatron/core/transformer/moe/moe_layer.py (MoELayer.forward) raises in training without it.
    """
    return num_experts(row) > 0 and software.stack.startswith("megatron-core")


def _of_source(known: Mapping[str, str], row: TableRow) -> str:
    """What is known of the row's source, or ""."""
    return next((value for held, value in known.items() if held in row.says("source")), "")


def _chunks(text: str, num_layers: int, pipeline: int, stack: Stack) -> int:
    """Chunks a rank; `max` means one layer a chunk, where embedding and head may count as a layer each."""
    if not text or pipeline == 1:
        return 1
    if text.split()[0] == "max":
        counted = num_layers + (2 if stack.layer_split == "embedding_and_head" else 0)
        return max(1, counted // pipeline)
    if not text.isdecimal() or not 0 < int(text) <= num_layers:
        raise ParsimError(f"virtual_pipeline = '{text[:40]}' is no number of chunks from 1 to num_layers = {num_layers}, nor max")
    return int(text)
