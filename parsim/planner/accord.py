"""What the planner tries of its own accord: the values of the axes that a space leaves out or open, and what can win nothing.

Each rule is counted.  An optimizer on the host and the recomputation of single modules save memory and cost time: relief.py tries them
where a plan does not fit without.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.model.spec import ModelSpec
from parsim.parallel.dimensions import all_dimensions
from parsim.parallel.dimensions.context import kinds
from parsim.parallel.fault import divisors
from parsim.parallel.legality import legal_degrees
from parsim.parallel.plan import EXPERT_KEYS, KEYS, Plan, Stack
from parsim.parallel.precision import RECIPES
from parsim.parallel.recomputation import CHECKPOINTED, DISCARDING, ops_of
from parsim.parallel.stages import SPLITS
from parsim.planner.splits import ROUND_ENDS, SPLITS_BY_SPEED, no_less, split_reads

if TYPE_CHECKING:
    from parsim.scenario import Scenario

AUTO: Final = "auto"
# The axes in the order in which candidates vary, on which ties hang, the slowest first; others follow in the order of Plan.
_OPEN: Final = ("tensor_parallel", "pipeline_parallel", "virtual_pipeline", "micro_batch", "sequence_parallel", "recompute")
_NEXT: Final = ("gradient_sync", "zero_stage", "zero_group", "reshard_after_forward", "recompute_every", "offload_optimizer", "optimizer")
# What an axis is where a space does not name it.
DEFAULTS: Final[Mapping[str, tuple[object, ...]]] = {
    name: (AUTO,) if KEYS[name].follows else (KEYS[name].default,) for name in dict.fromkeys((*_OPEN, *_NEXT, *KEYS))
}
_ALSO: Final = ("zero_stage", "zero_group", "dimensions", "rank_order", "layers_per_stage", "schedule", "gradient_sync")
_STAGES: Final = ("pipeline_parallel", "virtual_pipeline")
_NOTHING_TO_ORDER: Final = "without a pipeline a schedule has nothing to order"
_PORTS: Final = ("switched_node", "fully_connected", "nvl72")  # nodes in which all pairs of devices are alike


class Filter(Struct, frozen=True):
    """A rule with the fields that it reads, and what is wrong with a plan that it keeps out."""

    name: str
    reads: tuple[str, ...]
    wrong: Callable[[Plan], str]


def default_axes() -> dict[str, tuple[object, ...]]:
    """The axes of a space that leaves all to the planner."""
    return {**DEFAULTS, **dict.fromkeys((*_OPEN, *_ALSO, *EXPERT_KEYS), (AUTO,)), "reshard_after_forward": (None, True, False)}


def values_of(name: str, scenario: Scenario) -> Sequence[object]:
    """What `auto` means for an axis."""
    match name:
        case "zero_group" | "context_group":
            return (None, *divisors(scenario.cluster.node.devices_per_node)[1:])
        case "layers_per_stage":
            return SPLITS_BY_SPEED if scenario.cluster.groups else ROUND_ENDS
        case "dimensions":
            return _dimensions(scenario.cluster.num_devices)
        case "schedule":
            return schedules.names()
        case "context_kind":
            return kinds()
        case "precision":
            return _precisions(scenario)
        case "recompute_modules":
            return module_sets(scenario.model, scenario.stack)
        case "recompute_ops":
            return ((), *((op.name,) for op in ops_of(scenario.model, scenario.stack) if op.kind != "relabel"))
    key = KEYS[name]
    if key.type == "bool":
        return (False, True)
    return key.auto or key.legal or legal_degrees(name, scenario.model, scenario.batch, scenario.cluster.num_devices)


def not_tried(name: str, scenario: Scenario) -> tuple[str, str]:
    """What `auto` tries of an axis of which it tries less than is legal, and what it leaves out, in words; "" twice of any other.

    What changes losses, or only waits, the planner does not do of its own accord.
    """
    key, tried = KEYS[name], values_of(name, scenario)
    others = [each for each in key.legal if each not in tried] if key.auto else []
    if others:
        return ", ".join(map(str, tried)), ", ".join(map(str, others))
    only = not key.legal and key.type.removesuffix(" | None") == "int" and key.auto == (key.default,)
    return ("no bound" if key.default is None else str(key.default), "others") if only else ("", "")


def _precisions(scenario: Scenario) -> tuple[str, ...]:
    """The batch's own, bf16, and what the stack narrows of it, as far as the accelerator multiplies that."""
    peaks = scenario.cluster.peak_flops_per_s
    found = (name for name in ("bf16", *scenario.stack.precisions) if not RECIPES[name].without_peak(peaks))
    return (*dict.fromkeys((scenario.batch.dtype, *found)),)


def module_sets(model: ModelSpec, stack: Stack) -> tuple[tuple[str, ...], ...]:
    """All choices of the modules that a layer has, none of them first."""
    known = {name for op in ops_of(model, stack) for name in (op.tag, op.name)}
    there = [name for name in (*CHECKPOINTED, *DISCARDING) if name in known]
    return tuple(each for count in range(len(there) + 1) for each in itertools.combinations(there, count))


def _dimensions(num_devices: int) -> Sequence[tuple[tuple[str, int], ...]]:
    """Degrees of each dimension that has no field of its own, 1 for off."""
    free = [each.name for each in all_dimensions() if each.degree is None and not each.fills and each.name not in KEYS]
    every = itertools.product(*(divisors(num_devices) for _ in free))
    return [
        tuple((name, n) for name, n in zip(free, degrees, strict=True) if n > 1) for degrees in every if math.prod(degrees) <= num_devices
    ]


def some_chunks(num_layers: int, rule: str, scheduled: Sequence[Any]) -> Iterator[Filter]:
    """Which numbers of chunks a rank are tried: even ones; of a schedule that has none on so many ranks, for each size of the largest, the
    first and the last chunk the fewest.  More of them send more, and fill a pipeline no sooner.

    `rule`: how the stack splits layers, one of `parsim.parallel.stages.SPLITS`.
    `scheduled`: the schedules that are tried; none: the one that follows from the chunks.
    """
    # What no schedule has goes before there are schedules.
    yield Filter(
        "chunks", _STAGES, lambda plan: min((_no_chunks(replace(plan, schedule=each), num_layers, rule) for each in scheduled), default="")
    )
    yield Filter("chunks", (*_STAGES, "schedule"), lambda plan: _no_chunks(plan, num_layers, rule))


def _no_chunks(plan: Plan, num_layers: int, rule: str) -> str:
    chunks, ranks = plan.virtual_pipeline, plan.pipeline_parallel
    if 1 in (chunks, ranks) or num_layers % plan.num_stages == 0:
        return ""
    runs = _chunks_of(plan.schedule, ranks, num_layers // ranks)
    if any(num_layers % (ranks * each) == 0 for each in runs):
        return "of its own accord the planner interleaves even chunks, where a schedule has some"
    fewer = any(each < chunks and _sizes(ranks * each, num_layers, rule) == _sizes(plan.num_stages, num_layers, rule) for each in runs)
    return "of its own accord the planner tries no more chunks where the largest is no smaller" if fewer else ""


@functools.lru_cache(maxsize=2**12)
def _chunks_of(schedule: str | tuple[str, ...], num_ranks: int, most: int) -> tuple[int, ...]:
    """Numbers of chunks a rank, of 2 and more, that a schedule can run."""
    return tuple(each for each in range(2, most + 1) if schedules.fault(schedule, num_ranks, each) is None)


@functools.lru_cache(maxsize=2**12)
def _sizes(num_stages: int, num_layers: int, rule: str) -> tuple[int, int, int]:
    """Layers of the largest, the first and the last chunk."""
    layers = SPLITS[rule](num_layers, num_stages)
    return max(layers), layers[0], layers[-1]


def no_pipeline(values: Sequence[object]) -> Iterator[Filter]:
    """Without a pipeline only one of the schedules is tried: the usual one, if it is among them."""
    usual = schedules.default(1)
    if usual in values:
        reads = ("pipeline_parallel", "schedule")
        bare = lambda plan: _NOTHING_TO_ORDER if plan.pipeline_parallel == 1 and not _orders(plan) else ""  # noqa: E731
        yield Filter("schedule", reads, bare)


def _orders(plan: Plan) -> bool:
    """Whether a schedule is to be tried without a pipeline: the usual one, or one that pairs micro_batches of experts."""
    return isinstance(plan.schedule, str) and (plan.schedule == schedules.default(1) or schedules.find(plan.schedule, 1).needs_experts)


def no_gain(scenario: Scenario) -> Iterator[Filter]:
    """Rules for values that can win nothing over another that is tried, where all is left to the planner."""
    cluster = scenario.cluster
    if cluster.num_nodes == 1 and cluster.node.topology in _PORTS:
        said = "in one node whose devices are all alike, no order of the ranks changes what a group crosses"
        yield Filter("rank order", ("rank_order",), lambda plan: said if plan.rank_order != KEYS["rank_order"].default else "")
    yield Filter("rank order", ("rank_order", "tensor_parallel"), _apart)
    if not cluster.groups:
        yield Filter("uneven layers", split_reads(scenario), lambda plan: no_less(plan, scenario))
    yield from no_pipeline((schedules.default(1),))
    split = "of its own accord the planner splits each expert over as many ranks as the rest of a layer, or not at all"
    experts = ("expert_tensor_parallel", "tensor_parallel")
    yield Filter("experts", experts, lambda plan: "" if plan.expert_tensor_parallel in (1, plan.tensor_parallel) else split)
    master = "one replica that updates for all is no faster than a sum for all, and holds no less"
    yield Filter("gradient_sync", ("gradient_sync",), lambda plan: master if plan.gradient_sync != KEYS["gradient_sync"].default else "")


def _apart(plan: Plan) -> str:
    first, *_ = plan.rank_order.split("-")
    said = "of its own accord the planner keeps tensor-parallel ranks, which wait for each other most, side by side"
    return said if plan.tensor_parallel > 1 and first != "tp" else ""
