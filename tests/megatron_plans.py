"""Legal plans drawn from a seed of which Megatron Core has a key for every field: all that parsim.targets.megatron states is drawn."""

from __future__ import annotations

from functools import cache
from math import gcd, prod
from random import Random
from typing import Any

from msgspec.structs import replace

from parsim.cluster.cluster import Cluster
from parsim.errors import PlanError
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch, Plan, Stack
from parsim.parallel.recomputation import ops_of
from parsim.scenario import Scenario
from parsim.targets import Setup
from support import FABRIC, GPT, NODE, scenario

DTYPES = ("bf16", "bf16", "fp16", "fp32", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8", "nvfp4")
KINDS = ("all_gather", "ring", "ulysses", "ulysses_ring")
DEVICES = 4  # of a node


@cache
def drawn(seed: int) -> Setup:
    """The first legal one of a seed that Megatron would run."""
    rng = Random(f"megatron {seed}")
    while (found := _attempt(rng)) is None:
        pass
    return found


def _attempt(rng: Random) -> Setup | None:
    tp, pp, cp = rng.choice((1, 2, 4)), rng.choice((1, 1, 2, 3, 4)), rng.choice((1, 1, 2, 4))
    chunks = rng.choice((1, 1, 2, 3)) if pp > 1 else 1
    dp, micro, rounds = rng.choice((1, 2, 3, 4)), rng.choice((1, 2)), rng.choice((1, 2, 3))
    model = _model(rng, tp, pp * chunks)
    dtype, zero = rng.choice(DTYPES), rng.choice((0, 1, 1, 2, 3))
    batch = Batch(dp * micro * rounds * pp, 16 * cp * tp, dtype, **_ends(rng, dtype, model))
    stack = _stack(rng)
    experts = model.num_experts
    ep = rng.choice((1, gcd(experts, dp * tp * cp), gcd(experts, dp))) if experts else 1
    hides = (
        ep > 1 and zero < 2 and dtype != "fp32" and (chunks > 1 or pp == 1) and not (model.mtp_layers and pp == 1) and rng.random() < 0.4
    )
    kind = rng.choice(KINDS)
    plan = Plan(
        data_parallel=dp,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        context_parallel=cp,
        context_kind=kind,
        context_group=2 if kind == "ulysses_ring" and cp == 4 else None,
        virtual_pipeline=chunks,
        sequence_parallel=tp > 1 and (experts > 0 or rng.random() < 0.6),
        micro_batch=micro,
        schedule=rng.choice(("combined_1f1b", "combined_1f1b_delayed")) if hides else "interleaved_1f1b" if chunks > 1 else "1f1b",
        **_again(rng, model, stack, dtype),
        layers_per_stage=_layers(rng, model.num_layers, pp * chunks) if rng.random() < 0.3 else None,
        expert_parallel=ep,
        expert_tensor_parallel=rng.choice((1, tp)) if experts else 1,
        rank_order=rng.choice(("tp-dp-pp", "tp-dp-pp", "tp-pp-dp" if zero < 2 else "tp-dp-pp")),  # of Megatron-FSDP
        optimizer=(name := rng.choice(("adamw", "adamw", "precision_aware_adamw" if zero else "adamw", "sgd_momentum"))),
        zero_stage=zero,
        zero_group=rng.choice([g for g in range(1, dp + 1) if dp % g == 0]) if zero and rng.random() < 0.4 else None,
        reshard_after_forward=rng.choice((None, True)) if zero == 3 else None,
        offload_optimizer=zero > 0 and name == "adamw" and rng.random() < 0.2,
        precision=rng.choice((None, None, "bf16")) if dtype in ("fp16", "bf16") else None,
    )
    world = prod((tp, pp, cp, dp))
    if (world > DEVICES and world % DEVICES) or (zero > 1 and dtype == "fp32"):
        return None
    node = replace(NODE, devices_per_node=min(world, DEVICES))
    made = scenario(model=model, batch=batch, stack=stack, cluster=Cluster(node, max(1, world // DEVICES), FABRIC))
    try:
        Scenario.legal_plan(made, plan)
    except PlanError:
        return None
    return Setup("drawn", made, plan)


def _model(rng: Random, tp: int, stages: int) -> TransformerSpec:
    layers, heads = stages * rng.choice((1, 2)), 4 * tp
    sizes: dict[str, Any] = {"num_layers": layers, "num_heads": heads, "num_kv_heads": rng.choice((heads, 4)), "ffn_hidden_size": 8 * tp}
    sizes |= {"hidden_size": rng.choice((8, 12)), "head_dim": rng.choice((4, 8)), "vocab_size": rng.choice((60, 61))}
    sizes |= {"max_positions": 1024, "dropout": rng.choice((0.0, 0.1)), "tied_embedding": rng.random() < 0.5}
    kind = rng.choice(("gpt", "llama", "moe", "latent"))
    if kind == "gpt":
        own = {"activation": rng.choice(("gelu", "squared_relu")), "scores_dropped": sizes["dropout"] == 0 or rng.random() < 0.5}
        return replace(GPT, **sizes, **own, positions=rng.choice(("learned", "rotary")))
    own = {"activation": rng.choice(("swiglu", "squared_relu")), "norm": "rms_norm", "positions": "rotary", "bias": False}
    own |= {"qkv_bias": rng.random() < 0.3, "qk_norm": kind != "latent" and rng.random() < 0.4}
    own |= {"rotary_dim": rng.choice((0, sizes["head_dim"] // 2)) if kind != "latent" else 0}
    if kind == "llama":
        windowed = rng.random() < 0.3
        own |= {"sliding_window": 3 * windowed, "full_attention_every": rng.choice((0, 2)) * windowed, "attention_sinks": windowed}
        return replace(GPT, **sizes, **own)
    later = rng.random() < 0.3
    own |= {"mtp_layers": int(later), "mtp_loss_weight": rng.choice((0.1, 0.3)) if later else 0.1}
    if kind == "latent":
        sizes |= {"num_kv_heads": heads, "head_dim": 6}
        own |= {"kv_lora_rank": 6, "q_lora_rank": rng.choice((0, 8)), "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4}
    return replace(GPT, **sizes, **own, **_experts(rng, layers, later=later))


def _experts(rng: Random, layers: int, *, later: bool) -> dict[str, Any]:
    count = rng.choice((4, 8))
    dense = rng.choice((0, 1)) if layers > 1 else 0
    chosen = rng.choice((1, 2, 2))
    gates = ("own_sigmoid", "pre_softmax") if chosen == 1 else ("softmax", "pre_softmax", "sigmoid")
    gate = rng.choice(gates)
    found: dict[str, Any] = {"num_experts": count, "experts_per_token": chosen, "expert_ffn_hidden_size": 8, "num_dense_layers": dense}
    found |= {"expert_layer_every": rng.choice((1, 2)) if layers - dense > 1 else 1, "shared_ffn_hidden_size": rng.choice((0, 16))}
    found |= {"gates": gate, "gate_scale": rng.choice((1.0, 2.5))}
    found |= {
        "balance_coefficient": rng.choice((0.0, 0.01)),
        "steer_rate": 0.0 if later or "softmax" in gate else rng.choice((0.0, 0.001, 0.002)),
    }
    capacity = rng.choice((0.0, 0.0, 1.5))
    found |= {"capacity_factor": capacity, "pad_to_capacity": capacity > 0 and rng.random() < 0.5}
    return found | ({"drop_policy": rng.choice(("position", "probs"))} if capacity else {})


def _ends(rng: Random, dtype: str, model: TransformerSpec) -> dict[str, int]:
    if dtype not in ("fp8_current", "fp8_blockwise", "mxfp8", "nvfp4") or rng.random() < 0.6 or model.num_layers < 2:
        return {}
    return {"num_layers_at_start_in_bf16": rng.choice((0, 1)), "num_layers_at_end_in_bf16": 1}


def _stack(rng: Random) -> Stack:
    return Stack(
        "drawn",
        attention=rng.choice(("fused_softmax", "flash")),
        gradient_dtype=rng.choice(("fp32", "compute")),
        gradient_overlap=rng.random() < 0.5,
        layer_split=rng.choice(("even", "embedding_and_head", "remainder_first")),
        vocab_multiple=rng.choice((1, 4, 8)),
    )


def _again(rng: Random, model: TransformerSpec, stack: Stack, dtype: str) -> dict[str, Any]:
    kind = rng.choice(("none", "selective", "full", "modules"))
    if kind != "modules":
        return {"recompute": kind}
    there = sorted({op.tag for op in ops_of(model, stack)} - {""} - ({"layernorm", "moe_act"} if dtype == "fp8_delayed" else set()))
    return {"recompute": rng.choice(("none", "selective")), "recompute_modules": tuple(rng.sample(there, rng.randint(1, len(there))))}


def _layers(rng: Random, num_layers: int, stages: int) -> tuple[int, ...]:
    cuts = sorted(rng.randint(0, num_layers - stages) for _ in range(stages - 1))
    return tuple(1 + end - start for start, end in zip((0, *cuts), (*cuts, num_layers - stages), strict=True))
