"""A plan too large to execute becomes a small one of the same structure, by a stated rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from parsim import schedules
from parsim.cluster.cluster import Cluster, NodeGroup
from parsim.model.dims import DIMS, FREE
from parsim.model.parameters import model_flops_per_token
from parsim.parallel import sharding_faults
from parsim.parallel.dimensions import DENSE, EXPERT, axes_of, degrees, split
from parsim.parallel.node_kinds import kinds_of_stages
from parsim.parallel.plan import ENDS, EXPERT_KEYS, KEYS, Plan
from parsim.parallel.stages import layers_of
from parsim.scenario.clusters import part_of

if TYPE_CHECKING:
    from parsim.scenario import Scenario

RULE = (
    "degrees, micro_batch and loss_chunks above 2 become 2 (2 groups of 2 ranks of a sequence, where it has groups); "
    "a stage gets the ranks that experts take; one layer a stage, two on the first where the plan's stages are uneven or a "
    "tower is frozen, and one more at an end where layers stay in bf16; stages on nodes of two kinds where they lie on several; "
    "a schedule written in tokens becomes 1F1B or its interleaved form; heads, widths, "
    "vocabulary and sequence the least that the degrees divide, documents as much shorter; "
    "twice as many micro_batches as pipeline ranks, or one"
)
_MOST_RANKS = 16
_SHARED = 32  # elements, or a part of so many, share a scale: the bytes of so many are whole
_MOST_MULTIPLICATIONS = 2**31  # of a whole step: about a second in numpy


class Small(Struct, frozen=True):
    """A scenario with one executable plan."""

    scenario: Scenario
    plan: Plan
    was_shrunk: bool


def shrunk(scenario: Scenario, plan: Plan) -> Small:
    """The plan itself where it can be executed in about a second, else its small likeness."""
    scenario = scenario.trained_by(plan)
    if plan.num_devices <= _MOST_RANKS and _multiplications(scenario) <= _MOST_MULTIPLICATIONS:
        return Small(scenario, plan, False)
    layers = layers_of(plan, scenario.model.num_layers, scenario.stack.layer_split)
    uneven = len(set(layers)) > 1 or "vision" in scenario.model.tuning.sides  # a frozen tower is no stage of its own
    small = replace(
        plan,
        **_replicas(plan, 2),
        **{name: min(getattr(plan, name), 2) for name in EXPERT_KEYS},
        tensor_parallel=min(plan.tensor_parallel, 2),
        pipeline_parallel=min(plan.pipeline_parallel, 2),
        context_parallel=min(plan.context_parallel, 4 if plan.context_group else 2),
        context_group=plan.context_group and 2,
        virtual_pipeline=min(plan.virtual_pipeline, 2),
        micro_batch=min(plan.micro_batch, 2),
        layers_per_stage=None,
        dimensions=tuple((name, min(degree, 2)) for name, degree in plan.dimensions),
        schedule=plan.schedule if isinstance(plan.schedule, str) else schedules.default(min(plan.virtual_pipeline, 2)),
    )
    small = replace(small, **_replicas(plan, 2 * _lack(plan, small)))
    small = replace(small, tensor_parallel=_few(plan.tensor_parallel, 2 * _lack(plan, small)))
    counts = [1 + (uneven and stage == 0) for stage in range(small.num_stages)]
    ends = {name: min(getattr(scenario.batch, name), 1) for name in ENDS}
    for place, name in zip((0, -1), ENDS, strict=True):
        counts[place] += ends[name]
    small = replace(small, layers_per_stage=tuple(counts) if len(set(counts)) > 1 else None)
    parts = max(split(small, dim) for dim in DIMS if dim not in ("B", *FREE))
    model, in_blocks = scenario.model.small(sum(counts), parts), _scales_blocks(scenario)
    if in_blocks:
        model = replace(model, **dict.fromkeys(model.widths, _SHARED))  # so that bytes of all tensors are whole
    rounds = 1 if small.optimizer_in_backward else 2 * small.pipeline_parallel
    sequences, tokens = rounds * split(small, "B") * small.micro_batch * small.num_copies, (8 if in_blocks else 4) * parts
    while next(sharding_faults.tokens(small, model, replace(scenario.batch, sequence_length=tokens)), None):
        tokens *= 2  # until runs of tokens that experts share are whole
    model = model.of_length(tokens)
    source = tokens // 2 if scenario.batch.source_length else 0
    lengths = tuple(max(1, each * tokens // scenario.batch.sequence_length) for each in scenario.batch.lengths)
    batch = replace(scenario.batch, global_batch=sequences, sequence_length=tokens, source_length=source, lengths=lengths, **ends)
    stack = replace(scenario.stack, vocab_multiple=8, loss_chunks=min(scenario.stack.loss_chunks, 2))
    if scenario.cluster.groups:
        small = replace(small, rank_order=KEYS["rank_order"].default)
    cluster = _cluster(scenario.cluster, small, kinds_of_stages(plan, scenario.cluster.runs))
    return Small(replace(scenario, model=model, batch=batch, stack=stack, cluster=cluster), small, True)


def _scales_blocks(scenario: Scenario) -> bool:
    """Whether blocks of a quantised tensor share scales."""
    narrows = scenario.batch.recipe.narrows
    return narrows is not None and narrows.along > 0


def _replicas(plan: Plan, most: int) -> dict[str, Any]:
    """At most so many replicas that shard among themselves, and at most two such groups."""
    group = plan.zero_group or plan.data_parallel
    own = _few(group, most)
    return {"data_parallel": own * min(plan.data_parallel // group, 2), "zero_group": plan.zero_group and own}


def _few(degree: int, most: int) -> int:
    """The largest power of two that is not above either."""
    return 1 << (min(degree, most).bit_length() - 1)


def _lack(plan: Plan, small: Plan) -> int:
    """How many times as many ranks a stage needs, so that each axis of the expert view that is on in `plan` stays on."""
    found, few = degrees(plan), degrees(small)
    wanted = math.prod(min(found[axis], 2) for axis in axes_of(EXPERT))
    return max(1, wanted // math.prod(few[axis] for axis in axes_of(DENSE)))


def _cluster(cluster: Cluster, small: Plan, kinds: Sequence[Collection[int]]) -> Cluster:
    """As many of the nodes as the small plan needs, in as many sites as before; it may leave devices idle.

    `kinds`: of node on which stages lie; where these are several, the first stage of the small plan lies on that of the first, and all
    others on the first other one.
    """
    if cluster.groups:
        first = min(kinds[0])
        others = [first, *(min(each) for each in kinds if first not in each)][:2][-1]
        return _of_stages(cluster, small, [first, *[others] * (small.pipeline_parallel - 1)])
    needed = -(-small.num_devices // cluster.node.devices_per_node)
    return replace(cluster, num_nodes=-(-needed // cluster.num_sites) * cluster.num_sites)


def _of_stages(cluster: Cluster, small: Plan, kinds: Sequence[int]) -> Cluster:
    """Nodes of several kinds for the stages of a small plan, whole ones or parts of one, in one site."""
    each = small.num_devices // small.pipeline_parallel
    used = math.gcd(each, cluster.node.devices_per_node)
    groups = [NodeGroup(part_of(own.node, used), each // used, own.fabric) for own in map(cluster.kinds.__getitem__, kinds)]
    return Cluster.of_groups(groups, cluster.fabric)


def _multiplications(scenario: Scenario) -> int:
    """Half of the FLOPs, since each goes with an addition."""
    batch = scenario.batch
    each = model_flops_per_token(scenario.model, batch.sequence_length, batch.source)[0] // 2
    return each * batch.global_batch * batch.sequence_length
