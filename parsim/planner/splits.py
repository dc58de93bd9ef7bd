"""The uneven splits of layers that `auto` tries: fewer where the embedding and the head lie, or more where devices are faster."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from parsim.model.families import blocks_of
from parsim.model.parameters import of_block
from parsim.model.spec import ModelSpec
from parsim.parallel.node_kinds import kinds_of_stages
from parsim.parallel.plan import MESH, Plan
from parsim.parallel.stages import layers_of

if TYPE_CHECKING:
    from parsim.scenario import Scenario

_STAGES: Final = ("pipeline_parallel", "virtual_pipeline")


class FewerLayers(Struct, frozen=True):
    """So many layers fewer on the first and the last stage, which hold the embedding and the head: what `auto` tries."""

    first: int
    last: int


class BySpeed(Struct, frozen=True):
    """As many layers as the devices of a stage are fast, by their dense peak to this power and their memory's bandwidth to the rest, with
    a head that counts as its weights: what `auto` tries on nodes of several kinds."""

    power: float


_HEADS: Final = (0.5, 1.0, 2.0)  # how long a head may take, over what its weights say
ROUND_ENDS: Final = (None, *(FewerLayers(*each) for each in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 2))))
SPLITS_BY_SPEED: Final = (None, *map(BySpeed, (1.0, 0.875, 0.75, 0.625, 0.5, 0.25, 0.0)))


def split_reads(scenario: Scenario) -> tuple[str, ...]:
    """The fields on which the layers of stages depend."""
    return ("layers_per_stage", *_STAGES, *((*MESH, "rank_order") if scenario.cluster.groups else ()))


def split_of(plan: Plan, scenario: Scenario) -> tuple[int, ...] | None:
    """Layers of each stage: as stated, where the first and the last hold fewer than the others, or by speed; None for no such split."""
    fewer: object = plan.layers_per_stage
    if isinstance(fewer, BySpeed):
        return _split_by_speed(plan, scenario, fewer.power)
    return _ends(plan.num_stages, scenario.model.num_layers, fewer) if isinstance(fewer, FewerLayers) else plan.layers_per_stage


@functools.lru_cache(maxsize=2**12)
def _ends(num_stages: int, num_layers: int, fewer: FewerLayers) -> tuple[int, ...] | None:
    less = [0] * num_stages
    less[0], less[-1] = fewer.first, fewer.last
    each, rest = divmod(num_layers + sum(less), num_stages)
    more = {*sorted(range(num_stages), key=less.__getitem__)[:rest]}  # the stages in the middle hold what remains
    layers = [each + (stage in more) - lacking for stage, lacking in enumerate(less)]
    return tuple(layers) if num_stages > 1 and min(layers) >= 1 and len(set(layers)) > 1 else None


def _split_by_speed(plan: Plan, scenario: Scenario, power: float) -> tuple[int, ...] | None:
    """Layer by layer to the stage that then ends first, which leaves the busiest the least; None for chunks, and for even splits."""
    if plan.num_stages == 1 or plan.virtual_pipeline > 1 or scenario.model.num_layers < plan.num_stages:
        return None
    dtype, devices = scenario.batch.measured_against(scenario.model), [each.node.accelerator for each in scenario.cluster.kinds]
    speeds = [each.peak(dtype) ** power * each.hbm_bandwidth_bytes_per_s ** (1 - power) for each in devices]
    of_stages = [speeds[min(kinds)] for kinds in kinds_of_stages(replace(plan, layers_per_stage=None), scenario.cluster.runs)]
    layers, more = [1] * plan.num_stages, [0.0] * (plan.num_stages - 1) + [_head_layers(scenario.model)]
    for _ in range(scenario.model.num_layers - plan.num_stages):
        layers[min(range(plan.num_stages), key=lambda stage: (layers[stage] + 1 + more[stage]) / of_stages[stage])] += 1
    return tuple(layers) if len(set(layers)) > 1 else None


def _head_layers(model: ModelSpec) -> float:
    """How many layers have as many weights as the head."""
    blocks = blocks_of(model.architecture)
    *layers, last = (of_block(blocks[name], model, active=True) for name, _ in model.layout[1:])
    return last / max(1, *layers)


def no_less(plan: Plan, scenario: Scenario) -> str:
    """Of the splits that `auto` tries, those are worth it whose busiest stage does least, with a head that takes as long as its weights
    say, half or twice as long: a loss over all words is slower than its matmul, and a large matmul faster than a layer.

    Of two models on pipelines of 2 to 16 stages, the best of all splits is at most 0.1 % faster than the best of these.
    """
    if plan.layers_per_stage is None:
        return ""
    if plan.virtual_pipeline > 1:
        return "of its own accord the planner splits unevenly only what is not interleaved"
    least = _least_busy(plan.pipeline_parallel, scenario.model, scenario.stack.layer_split, _HEADS)
    return "" if plan.layers_per_stage in least else "another split leaves the busiest stage less to do"


@functools.lru_cache(maxsize=256)  # for each of the splits, on as many ranks
def _least_busy(num_ranks: int, model: ModelSpec, rule: str, heads: tuple[float, ...]) -> tuple[tuple[int, ...], ...]:
    """For each time that a head may take, the split whose busiest stage does least."""
    splits = [_ends(num_ranks, model.num_layers, each) for each in ROUND_ENDS if each]
    tried = [*filter(None, splits), layers_of(Plan(pipeline_parallel=num_ranks), model.num_layers, rule)]  # which is tried anyway
    head = _head_layers(model)
    return tuple(min(tried, key=lambda split: max(*split[:-1], split[-1] + factor * head)) for factor in heads)
