"""Plans that are legal, and that a software stack cannot run all the same: they are predicted, and marked with the reason.

A row of the catalog's stacks names its limits.  What no software could run is a fault of the plan: legality.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from parsim import schedules
from parsim.model.spec import ModelSpec
from parsim.parallel.plan import KEYS, Plan, Stack
from parsim.parallel.precision import RECIPES
from parsim.parallel.stages import layers_of
from parsim.schedules.phase import SPLIT


class Limit(Struct, frozen=True):
    """What a stack cannot do: in words, a stack of the catalog that can (none: ""), and whether a plan for a model asks for it."""

    what: str
    can: str
    asked_by: Callable[[Plan, ModelSpec, str], bool]  # also of the rule by which the stack splits layers


def reasons(plan: Plan, model: ModelSpec, stack: Stack) -> tuple[str, ...]:
    """Why the stack cannot run the plan, a sentence a limit, each with a stack that can; none for a plan that it runs.

    >>> from parsim.model.families.mlp import MlpSpec
    >>> mlp = MlpSpec(name="toy", num_layers=4, hidden_size=8, ffn_hidden_size=8, num_features=8, num_labels=2)
    >>> reasons(Plan(pipeline_parallel=2, zero_stage=2), mlp, Stack("mine", limits=("zero_1_with_pipeline",)))
    ('mine cannot shard gradients or parameters under a pipeline (zero_stage above 1); torchtitan can',)
    """
    return tuple(each_reason(plan, model, stack))


def each_reason(plan: Plan, model: ModelSpec, stack: Stack) -> Iterator[str]:
    """The same one by one, for who asks of many plans, and waits for the first."""
    for each in map(LIMITS.__getitem__, stack.limits):
        if each.asked_by(plan, model, stack.layer_split):
            yield f"{stack.name} cannot {each.what}" + (f"; {each.can} can" if each.can else "")
    asked = stack.precision(plan.precision) if plan.precision else ""
    if stack.precisions and asked not in stack.precisions and asked in RECIPES and RECIPES[asked].narrows:
        yield f"{stack.name} does not train in {asked}, but in {', '.join(stack.precisions)}"


def _uneven(plan: Plan, model: ModelSpec, rule: str) -> bool:
    layers = list(layers_of(plan, model.num_layers, rule))
    if rule == "embedding_and_head" and plan.layers_per_stage is None and len(layers) > 1:  # which count as layers
        layers[0], layers[-1] = layers[0] + 1, layers[-1] + 1
    return len(set(layers)) > 1


def _interleaves(plan: Plan) -> bool:
    return plan.virtual_pipeline > 1


def _splits(plan: Plan) -> bool:
    """Whether the schedule, a named one, runs the halves of a backward by themselves; without a pipeline it runs nothing."""
    return plan.pipeline_parallel > 1 and isinstance(plan.schedule, str) and schedules.find(plan.schedule, 1).phases == SPLIT


def _hides(plan: Plan) -> bool:
    """Whether the schedule, a named one, is there to hide exchanges of experts."""
    return isinstance(plan.schedule, str) and schedules.find(plan.schedule, 1).needs_experts


def _is_refused_attention(plan: Plan, model: ModelSpec, _: str) -> bool:
    """Whether Transformer Engine refuses the context_kind for the attention of the model."""
    if plan.context_parallel == 1:
        return False
    if getattr(model, "positions", "") == "alibi":
        return True
    if plan.context_kind == "ulysses":
        return False
    window = getattr(model, "sliding_window", 0) > 0 and plan.context_kind != "all_gather"
    return window or getattr(model, "attention_sinks", False)


_ONE_F_ONE_B: Final = ("1f1b", "interleaved_1f1b")
LIMITS: Final[Mapping[str, Limit]] = {
    "even_stages": Limit("put unequal numbers of layers on its stages", "torchtitan", _uneven),
    "even_chunks": Limit(
        "interleave chunks of unequal numbers of layers", "torchtitan", lambda plan, *rest: _interleaves(plan) and _uneven(plan, *rest)
    ),
    "deep_interleaving": Limit(
        "interleave a pipeline of 2 ranks", "megatron-core", lambda plan, *_: _interleaves(plan) and plan.pipeline_parallel == 2
    ),
    "no_interleaving": Limit("interleave chunks (virtual_pipeline above 1)", "megatron-core", lambda plan, *_: _interleaves(plan)),
    "no_zero_bubble": Limit("split a backward in two, as its schedule does", "zero-bubble-2023", lambda plan, *_: _splits(plan)),
    "no_controlled_memory": Limit(
        "run zero_bubble_h2, v_half or v_min", "zero-bubble-2023", lambda plan, *_: plan.schedule in ("zero_bubble_h2", "v_half", "v_min")
    ),
    "no_dual_pipe": Limit("run dual_pipe_v", "torchtitan", lambda plan, *_: plan.schedule == "dual_pipe_v"),
    "no_two_copies": Limit("hold two copies of the model on a pipeline (dual_pipe)", "", lambda plan, *_: plan.schedule == "dual_pipe"),
    "one_f_one_b": Limit(
        "run schedules of another kind than 1f1b",
        "torchtitan",
        lambda plan, *_: plan.pipeline_parallel > 1 and not _splits(plan) and plan.schedule not in _ONE_F_ONE_B and not _hides(plan),
    ),
    "no_pairs": Limit("run combined_1f1b", "megatron-core", lambda plan, *_: _hides(plan)),
    "all_forwards_first": Limit(
        "start a backward before the last forward (any schedule but gpipe and breadth_first)",
        "torchtitan",
        lambda plan, *_: plan.pipeline_parallel > 1 and plan.schedule not in ("gpipe", "breadth_first"),
    ),
    "no_zero": Limit("shard over replicas (zero_stage above 0)", "torchtitan", lambda plan, *_: plan.zero_stage > 0),
    "zero_1": Limit("shard gradients or parameters (zero_stage above 1)", "torchtitan", lambda plan, *_: plan.zero_stage > 1),
    "zero_1_with_pipeline": Limit(
        "shard gradients or parameters under a pipeline (zero_stage above 1)",
        "torchtitan",
        lambda plan, *_: plan.zero_stage > 1 and plan.pipeline_parallel > 1,
    ),
    "no_zero_group": Limit(
        "shard within groups of replicas (zero_group)", "megatron-core", lambda plan, *_: plan.zero_group not in (None, plan.data_parallel)
    ),
    "no_offload": Limit("keep the optimizer on the host (offload_optimizer)", "megatron-core", lambda plan, *_: plan.offload_optimizer),
    "no_modules": Limit(
        "choose the modules that run again (recompute_modules)", "megatron-core", lambda plan, *_: bool(plan.recompute_modules)
    ),
    "no_sequence_parallel": Limit("run sequence parallelism", "megatron-core", lambda plan, *_: plan.sequence_parallel),
    "few_context_kinds": Limit(
        "split a sequence but by context_kind = ulysses beside attention sinks, by ulysses or all_gather beside windows, "
        "and by none beside ALiBi",
        "",
        _is_refused_attention,
    ),
    "no_tensor_parallel": Limit("split a layer (tensor_parallel above 1)", "torchtitan", lambda plan, *_: plan.tensor_parallel > 1),
    "no_pipeline": Limit("run a pipeline (pipeline_parallel above 1)", "torchtitan", lambda plan, *_: plan.pipeline_parallel > 1),
}
# The fields on which limits may depend.
FIELDS: Final = tuple(name for name in KEYS if name not in ("micro_batch", "rank_order"))
