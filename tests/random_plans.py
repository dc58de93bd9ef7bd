"""Legal plans, models, software stacks and clusters drawn from a seed, small enough to execute in a fraction of a second."""

from __future__ import annotations

import itertools
from math import gcd, prod
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from parsim import collectives, schedules
from parsim.cluster.cluster import Cluster
from parsim.model import gates
from parsim.model.families.mlp import MlpSpec
from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.batch_faults import empty_slots_fault, loss_chunks_fault
from parsim.parallel.dimensions.context import has_groups, kinds
from parsim.parallel.legality import faults
from parsim.parallel.optimizer import OPTIMIZERS
from parsim.parallel.plan import DISPATCHES, Batch, Plan, Stack
from parsim.parallel.precision import RECIPES
from parsim.parallel.recomputation import ops_of
from parsim.scenario import Scenario
from schedule_orders import as_text
from support import FABRIC, GPT, NODE, scenario

MOST_RANKS, MOST_TRIES = 16, 60
MESHES = [mesh for mesh in itertools.product((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4, 6, 8)) if prod(mesh) <= MOST_RANKS]
SMALL_MESHES = [mesh for mesh in MESHES if prod(mesh) <= 8]
FUSIONS = ("bias", "gelu", "swiglu", "rms_norm", "dropout_add", "gradient_accumulation", "loss_in_place", "narrow_loss")
ORDERS = tuple("-".join(order) for order in itertools.permutations(("dp", "pp", "tp")))
DTYPES = ("bf16", "bf16", "fp16", "fp32", "bf16", "fp8_current", "fp8_delayed", "fp8_current")
NARROW = tuple(name for name, recipe in RECIPES.items() if recipe.narrows)
HIDING = ("combined_1f1b", "combined_1f1b", "combined_1f1b_delayed", "dual_pipe", "dual_pipe_v", "dual_pipe_v")  # exchanges of experts
_WITH_ZERO = ("reshard_after_forward", "zero_group", "optimizer_in_backward")
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "reduce", "broadcast")


class Drawn(Struct, frozen=True):
    """One case; its repr is enough to run it again."""

    scenario: Scenario
    plan: Plan


def drawn(seed: int) -> Drawn:
    """The case of a seed: the first legal one that is drawn; often with experts that are spread out, and with more ranks a sequence and
    few kv heads and so on where that is legal."""
    rng = Random(seed)
    while faults_of_case(case := _attempt(rng)):
        pass
    experts, longer = Random(f"experts {seed}"), Random(f"context {seed}")
    if isinstance(case.scenario.model, TransformerSpec) and experts.random() < 0.6:
        tries = (_spread(experts, case, case.scenario.model) for _ in range(MOST_TRIES))
        case = next((each for each in tries if not faults_of_case(each)), case)
    last = _longer(longer, case)
    return case if faults_of_case(last) else last


def _spread(rng: Random, case: Drawn, model: TransformerSpec) -> Drawn:
    """The case with experts, most of them on several ranks, and often with a schedule that hides their exchanges."""
    name, count = rng.choice((*HIDING, None)), rng.choice((1, 2, 2))
    plan, s, stages = case.plan, case.scenario, case.plan.num_stages
    if name:
        ranks = rng.choice((1, 2)) if name.startswith("combined") else 2
        chunks = 2 if ranks == 2 and name != "dual_pipe" else 1
        others = {"recompute": rng.choice(("none", "none", "selective")), "zero_stage": rng.choice((0, 0, 1))}
        usual = ("recompute_modules", "recompute_ops", "recompute_every", "layers_per_stage", *_WITH_ZERO)
        alone = {field: getattr(Plan(), field) for field in usual}
        plan = replace(plan, schedule=name, pipeline_parallel=ranks, virtual_pipeline=chunks, **others, **alone)  # type: ignore[arg-type]
        stages, count = ranks * chunks, ranks * count
    dp = rng.choice((2, 2, 2, 3, 4))
    ranks, etp = rng.choice((dp, dp * plan.tensor_parallel)), rng.choice((1, 1, 2))
    view = {"expert_parallel": max(1, ranks // etp), "expert_tensor_parallel": etp, "rank_order": Plan().rank_order}
    plan = replace(plan, data_parallel=dp, gradient_sync="all_reduce", **view)  # type: ignore[arg-type]
    layers = stages + rng.choice((0, 1)) if name else model.num_layers
    model = replace(model, num_layers=layers, max_positions=64)
    model = _routed(rng, _with_experts(rng, replace(model, bias=model.bias and rng.random() < 0.3), plan.tensor_parallel))
    dtype = rng.choice((*NARROW, s.batch.dtype))
    if (narrows := RECIPES[dtype].narrows) and narrows.along:
        model = _in_whole_blocks(model)
    length = rng.choice((4, 8)) * max(plan.tensor_parallel, 1)
    batch = Batch(dp * plan.micro_batch * count * plan.num_copies, length, dtype)
    stack = replace(s.stack, dispatch=rng.choice(DISPATCHES), waits_for_loads=rng.random() < 0.3, loss_chunks=1)
    return Drawn(replace(s, model=model, batch=batch, stack=stack), plan)


def _in_whole_blocks(model: TransformerSpec) -> TransformerSpec:
    """Wide enough that the scales of what is narrow take whole bytes."""
    names = ("hidden_size", "ffn_hidden_size", "head_dim", "expert_ffn_hidden_size", "shared_ffn_hidden_size")
    return replace(model, **{name: 16 * getattr(model, name) for name in names})


def _routed(rng: Random, model: TransformerSpec) -> TransformerSpec:
    """Other gates, groups, loads, capacities and biases of routers."""
    groups, capacity = 0 if model.num_experts % 2 else rng.choice((0, 0, 2)), rng.choice((0.0, 0.0, 1.25))
    return replace(
        model,
        gates=rng.choice(gates.names()),
        gate_scale=rng.choice((1.0, 2.5)),
        gates_on_input=rng.random() < 0.2,
        expert_groups=groups,
        groups_per_token=min(groups, 1),
        load_skew=rng.choice((0.0, 0.0, 0.9)),
        capacity_factor=capacity,
        drop_policy=rng.choice(("position", "probs")) if capacity else "position",
        pad_to_capacity=bool(capacity) and rng.random() < 0.3,
        balance_coefficient=rng.choice((0.0, 0.0, 0.01)),
        steer_rate=rng.choice((0.0, 0.0, 0.001)),
    )


def _longer(rng: Random, case: Drawn) -> Drawn:
    ranks, few, kind = rng.choice((1, 1, 2, 2, 3, 4)), rng.random() < 0.4, rng.choice(kinds())
    group, model, batch = 2 if has_groups(kind) else None, case.scenario.model, case.scenario.batch
    ranks = 4 if group else ranks
    if isinstance(model, TransformerSpec):
        model = replace(model, max_positions=64, num_kv_heads=1 if few else model.num_kv_heads)
    batch = replace(batch, sequence_length=batch.sequence_length * (2 * ranks if ranks > 1 else 1))
    plan = replace(case.plan, context_parallel=ranks, context_kind=kind, context_group=group)
    stack = replace(case.scenario.stack, frees_gradients=rng.random() < 0.7)
    return Drawn(replace(case.scenario, model=model, batch=batch, stack=stack), plan)


def faults_of_case(case: Drawn) -> bool:
    s, plan = case.scenario, case.plan
    if plan.num_devices > min(MOST_RANKS, s.cluster.num_devices):
        return True
    if s.model.misfit({}) or any(fault(s.model, s.batch, s.stack) for fault in (loss_chunks_fault, empty_slots_fault)):
        return True
    return bool(faults(plan, s.model, s.batch, plan.num_devices, stack=s.stack))


def _attempt(rng: Random) -> Drawn:
    (tp, pp, dp), chunks = rng.choice(MESHES if rng.random() < 0.2 else SMALL_MESHES), rng.choice((1, 2))
    count = rng.choice((1, 2, 3)) if chunks == 1 else pp * rng.choice((1, 2, 2))
    micro_batch, sequence_parallel = rng.choice((1, 1, 2)), tp > 1 and rng.random() < 0.6
    model = _model(rng, tp, pp * chunks)
    length = tp * rng.choice((1, 2)) if sequence_parallel else rng.choice((1, 2, 3, 5))
    experts = model.extents.get("E", 0)
    length *= rng.choice((1, 2, 4)) if experts else 1
    batch = Batch(dp * micro_batch * count, length, rng.choice(DTYPES))
    cluster = _cluster(rng)
    stack = _stack(rng, cluster)
    schedule = _schedule(rng, pp, chunks, count)
    batch = replace(batch, global_batch=batch.global_batch * Plan(schedule=schedule).num_copies)
    zero = rng.choice((0, 0, 1, 2, 3, 3))
    keeps = zero == 3 and pp == 1 and rng.random() < 0.7
    again = () if rng.random() < 0.7 else _ops(rng, model, stack)
    plan = Plan(
        data_parallel=dp,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        virtual_pipeline=chunks,
        sequence_parallel=sequence_parallel,
        micro_batch=micro_batch,
        schedule="1f1b" if keeps else schedule,
        recompute=rng.choice(("none", "selective") if again else ("none", "selective", "full")),
        recompute_ops=again,
        recompute_every=rng.choice((1, 1, 2, 3)),
        layers_per_stage=_layers(rng, model.num_layers, pp * chunks) if rng.random() < 0.25 else None,
        gradient_sync="all_reduce" if zero else rng.choice(("all_reduce", "all_reduce", "master")),
        rank_order=rng.choice(ORDERS),
        optimizer=rng.choice(sorted(OPTIMIZERS)),
        zero_stage=zero,
        reshard_after_forward=not keeps,
        zero_group=rng.choice([g for g in range(1, dp + 1) if dp % g == 0]) if zero and rng.random() < 0.4 else None,
        offload_optimizer=rng.random() < 0.2,
        expert_parallel=rng.choice((1, gcd(experts, tp * dp), gcd(experts, dp))) if experts else 1,
        expert_tensor_parallel=rng.choice((1, 1, 2)) if experts else 1,
    )
    if plan.recompute != "full" and not again and rng.random() < 0.3:
        plan = replace(plan, recompute_modules=_modules(rng, model, stack))
    if plan.zero_stage == 3 and plan.pipeline_parallel > 1:
        plan = replace(plan, reshard_after_forward=rng.choice((None, True, False)))
    plan = replace(plan, offload_optimizer=plan.offload_optimizer and not OPTIMIZERS[plan.optimizer].paged)
    at_once = (pp, count, plan.gradient_sync, plan.offload_optimizer) == (1, 1, "all_reduce", False)
    plan = replace(plan, optimizer_in_backward=at_once and rng.random() < 0.7)
    if not loss_chunks_fault(model, batch, chunked := replace(stack, loss_chunks=length)) and rng.random() < 0.5:
        stack = chunked
    return Drawn(scenario(model=model, batch=batch, stack=stack, cluster=cluster), plan)


def _schedule(rng: Random, ranks: int, chunks: int, count: int) -> str | tuple[str, ...]:
    """A registered one, or its actions written out."""
    named = (name for name in schedules.names() if not schedules.find(name, ranks).needs_experts)
    legal = [name for name in named if schedules.fault(name, ranks, chunks, count) is None]
    name = rng.choice(legal)
    if rng.random() > 0.2 or schedules.find(name, ranks).num_copies > 1:  # which stages alone do not say
        return name
    return as_text(name, ranks, chunks, count)


def _layers(rng: Random, num_layers: int, stages: int) -> tuple[int, ...]:
    cuts = sorted(rng.randint(0, num_layers - stages) for _ in range(stages - 1))
    return tuple(1 + b - a for a, b in itertools.pairwise((0, *cuts, num_layers - stages)))


def _ops(rng: Random, model: ModelSpec, stack: Stack) -> tuple[str, ...]:
    names = sorted({op.name for op in ops_of(model, stack) if op.kind != "relabel"})
    return tuple(rng.sample(names, rng.randint(1, min(3, len(names)))))


def _modules(rng: Random, model: ModelSpec, stack: Stack) -> tuple[str, ...]:
    there = sorted({op.tag for op in ops_of(model, stack)} - {""})
    return tuple(rng.sample(there, rng.randint(1, len(there))))


def _model(rng: Random, tp: int, stages: int) -> ModelSpec:
    layers, dropout, bias = stages + rng.choice((0, 0, 1)), rng.choice((0.0, 0.1)), rng.random() < 0.5
    hidden, ffn = rng.choice((6, 8, 10)), tp * rng.choice((2, 3, 5))
    kind = rng.choice(("gpt", "gpt", "llama", "llama", "bert", "mlp"))
    if kind == "mlp":
        sizes = {"num_layers": layers, "num_features": 5, "hidden_size": hidden, "ffn_hidden_size": ffn, "num_labels": rng.choice((2, 3))}
        return MlpSpec(name="mlp", **sizes, activation=rng.choice(("relu", "gelu", "squared_relu", "tanh")), bias=bias, dropout=dropout)  # type: ignore[arg-type]
    heads = tp * rng.choice((1, 1, 2))
    sizes = {
        "num_layers": layers,
        "hidden_size": hidden,
        "ffn_hidden_size": ffn,
        "num_kv_heads": heads,
        "vocab_size": rng.choice((17, 24, 30)),
    }
    common = {**sizes, "num_heads": heads * rng.choice((1, 1, 2)), "head_dim": rng.choice((2, 4)), "dropout": dropout}
    if kind == "gpt":
        own = {"activation": rng.choice(("gelu", "relu", "squared_relu", "swiglu")), "positions": rng.choice(("learned", "rotary"))}
        tied = rng.random() < 0.5
        return replace(GPT, name=kind, **common, **own, tied_embedding=tied)  # type: ignore[arg-type]
    if kind == "llama":
        own = {"activation": rng.choice(("swiglu", "squared_relu")), "norm": "rms_norm", "positions": "rotary"}
        llama = replace(GPT, name=kind, **common, **own, bias=False, qkv_bias=bias, tied_embedding=rng.random() < 0.3)  # type: ignore[arg-type]
        return _with_experts(rng, llama, tp) if rng.random() < 0.5 else llama
    head = rng.choice(("masked_token", "text", "token"))
    own = {"causal": False, "norm_last": rng.random() < 0.5, "num_token_types": rng.choice((0, 2)), "head": head, "num_labels": 3}
    return replace(GPT, name=kind, **common, **own, tied_embedding=head == "masked_token" and rng.random() < 0.5)  # type: ignore[arg-type]


MEMORY_FLAGS = ("master_shards", "narrow_gradients", "multi_tensor_update")


def _with_experts(rng: Random, model: TransformerSpec, tp: int) -> TransformerSpec:
    """As it is, where no layer would have some."""
    count = rng.choice((2, 3, 4, 6))
    layers = {"num_dense_layers": rng.choice((0, 0, 1)), "expert_layer_every": rng.choice((1, 1, 2))}
    widths = {"expert_ffn_hidden_size": rng.choice((2, 4)), "shared_ffn_hidden_size": tp * rng.choice((0, 0, 2))}
    found = replace(model, num_experts=count, experts_per_token=rng.randint(1, count), qk_norm=rng.random() < 0.5, **widths, **layers)
    return model if found.misfit({}) else found


def _stack(rng: Random, cluster: Cluster) -> Stack:
    flags = ("gather_logits", "tensor_overlap", "gradient_overlap", "scatter_gather", "recompute_early_stop", *MEMORY_FLAGS)
    adds = cluster.node.switch_adds and cluster.num_nodes == 1  # in_network is refused elsewhere
    algorithms = {operation: [n for n in collectives.names(operation) if adds or n != "in_network"] for operation in OPERATIONS}
    named = {operation: rng.choice(names) for operation, names in algorithms.items() if rng.random() < 0.4}
    return Stack(
        "drawn",
        attention=rng.choice(("unfused", "fused_softmax", "flash")),
        fusions=tuple(name for name in FUSIONS if rng.random() < 0.5),
        gradient_dtype=rng.choice(("fp32", "compute")),
        gradient_copies=rng.choice(("none", "update", "sum")),
        layer_split=rng.choice(("even", "embedding_and_head", "remainder_first")),
        vocab_multiple=rng.choice((1, 4, 8)),
        host_launch_s=rng.choice((0.0, 1e-5)),
        collectives=named,
        blocks_launches="all_reduce" in named,
        host_float32_gradients=rng.random() < 0.5,
        keeps_gathered=len(named) % 2 == 1,  # no draw of its own, which would change all others
        message_launch_s=1e-5 * (len(named) % 3 == 1),  # nor this
        **{name: rng.random() < 0.5 for name in flags},
    )


def _cluster(rng: Random) -> Cluster:
    devices = rng.choice((1, 2, 4, 8, 16, 16))
    node = replace(NODE, devices_per_node=devices, num_nics=rng.choice((1, 2, 4)), switch_adds=rng.random() < 0.6)
    return Cluster(node, MOST_RANKS // devices, FABRIC)
