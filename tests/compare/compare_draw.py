"""Scenarios drawn from a seed, as mappings of scenario files: what two commits are to predict alike.  What comes out is the seed's alone.

Run in one tree, whose `parsim.from_mapping` says which plans are legal.  Nothing is drawn that a later issue refuses or mends (dtype fp8).
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from random import Random
from typing import Any, Final

import parsim

Mapping = dict[str, Any]

MODELS: Final = ("gpt3-175b", "llama3-70b", "gpt2-medium", "bert-large", "mistral-7b", "mnist-mlp-3x1024")
STACKS: Final = ("megatron-2021", "megatron-2022", "megatron-core", "plain-pytorch", "pytorch-2", "torchtitan", "jax-xla", "internevo")
CLUSTERS: Final = (
    ("dgx-a100-80gb", "ib-hdr-8rail"),
    ("hgx-h100-80gb", "roce-400"),
    ("dgx-1v-32gb", "omni-path-100"),
    ("mi300x-8", "roce-400"),
    ("pcie4-8x-a100-80gb", "ethernet-100g"),
    ("jean-zay-v100-32gb", "jean-zay"),
    ("gb200-tray", "roce-400"),
)
ORDERS: Final = tuple("-".join(order) for order in itertools.permutations(("dp", "pp", "tp")))
OPS: Final = (("norm1",), ("norm2",), ("up_gemm", "up_bias"), ("activation",), ("inner_activation",), ("scores", "softmax"), ("flash",))
ALGORITHMS: Final = {
    "all_reduce": ("bidirectional_ring", "direct", "halving_doubling", "hierarchical", "ring", "tree"),
    "all_gather": ("bidirectional_ring", "direct", "ring"),
    "reduce_scatter": ("bidirectional_ring", "direct", "ring"),
}
SWITCHES: Final = ("tensor_overlap", "gradient_overlap", "scatter_gather", "recompute_early_stop")
PLANS_A_FILE: Final = 5
MOST_TRIES: Final = 400  # of a plan for one file; then the file goes without


def drawn(seed: int, num_plans: int, part: Callable[[Random], Mapping]) -> list[Mapping]:
    """Scenarios of PLANS_A_FILE legal plans each; `part` draws a scenario without plans.  They hold exactly `num_plans` together."""
    rng, found, left = Random(seed), [], num_plans
    while left:
        mapping = part(rng)
        plans = _plans(rng, mapping, min(left, PLANS_A_FILE))
        if plans:
            found.append({**mapping, "name": f"drawn-{seed}-{len(found)}", "plans": plans})
            left -= len(plans)
    return found


def large(rng: Random) -> Mapping:
    """A shipped model, most often of fewer layers, on a cluster and a stack of the catalog."""
    node, fabric = rng.choice(CLUSTERS)
    num_nodes = rng.choice((1, 2, 2, 4, 8))
    base = rng.choice(MODELS)
    model = {"base": base, "name": f"drawn {base}", "num_layers": rng.choice((4, 6, 8, 8, 12, 16, 48)), "source": "drawn"}
    length = 1 if "mlp" in base else rng.choice((256, 512))
    batch = {"global_batch": rng.choice((32, 48, 64, 64, 96, 128)), "sequence_length": length, "dtype": "bf16"}
    if "v100" in node or "1v" in node:
        batch["dtype"] = "fp16"
    cluster = {"node": node, "num_nodes": num_nodes, **({"fabric": fabric} if num_nodes > 1 else {})}
    return {"model": model, "cluster": cluster, "batch": batch, "stack": _stack(rng, rng.choice(STACKS))}


def small(rng: Random) -> Mapping:
    """A model that numpy executes in a fraction of a second, on at most 8 ranks."""
    ranks = rng.choice((1, 2, 3, 4, 4, 6, 8, 8))
    nodes = {4: ("jean-zay-v100-32gb", "gb200-tray"), 8: ("dgx-a100-80gb", "hgx-h100-80gb", "dgx-1v-32gb")}.get(ranks, ())
    own = {"base": "one-cpu-generic", "name": "some ranks", "devices_per_node": ranks, "source": "drawn"}
    node: str | Mapping = rng.choice(nodes) if nodes and rng.random() < 0.7 else own
    cluster: Mapping = {"node": node}
    if ranks == 8 and rng.random() < 0.4:
        cluster = {"node": rng.choice(("jean-zay-v100-32gb", "gb200-tray")), "num_nodes": 2, "fabric": "roce-400"}
    half = "fp16" if "v100" in str(cluster["node"]) or "1v" in str(cluster["node"]) else rng.choice(("bf16", "fp32"))
    batch = {"global_batch": rng.choice((4, 8, 12, 24)), "sequence_length": rng.choice((4, 6, 8)), "dtype": half if node != own else "fp32"}
    model = rng.choice((_gpt, _gpt, _llama, _encoder, _mlp))(rng)
    if model.get("family") == "mlp":
        batch["sequence_length"] = 1
    stack = {**_stack(rng, rng.choice(STACKS)), "vocab_multiple": rng.choice((1, 4, 8))}
    return {
        "model": {"name": "tiny", "source": "drawn", **model},
        "cluster": cluster,
        "batch": batch,
        "stack": stack,
        "seed": rng.randrange(99),
    }


def _stack(rng: Random, base: str) -> Mapping:
    changes: Mapping = {name: rng.random() < 0.5 for name in SWITCHES if rng.random() < 0.5}
    if rng.random() < 0.3:
        changes["collectives"] = {operation: rng.choice(names) for operation, names in ALGORITHMS.items() if rng.random() < 0.5}
    if rng.random() < 0.3:
        changes["layer_split"] = rng.choice(("even", "embedding_and_head", "remainder_first"))
    return {"base": base, "name": f"drawn {base}", **changes, "source": "drawn"}


def _sizes(rng: Random, heads: int) -> Mapping:
    return {
        "num_layers": rng.choice((2, 3, 4, 4, 6)),
        "hidden_size": rng.choice((8, 12)),
        "ffn_hidden_size": 12 * rng.choice((1, 2)),
        "num_heads": heads,
        "head_dim": rng.choice((2, 4)),
        "vocab_size": rng.choice((17, 24, 30)),
        "max_positions": 8,
        "dropout": rng.choice((0.0, 0.1)),
    }


def _gpt(rng: Random) -> Mapping:
    own = {"activation": rng.choice(("gelu", "relu", "squared_relu")), "tied_embedding": rng.random() < 0.5}
    return {**_sizes(rng, rng.choice((4, 6))), **own}


def _llama(rng: Random) -> Mapping:
    own = {"activation": "swiglu", "norm": "rms_norm", "positions": "rotary", "bias": False, "tied_embedding": rng.random() < 0.3}
    return {**_sizes(rng, 8), "num_kv_heads": rng.choice((2, 4)), "qkv_bias": rng.random() < 0.5, **own}


def _encoder(rng: Random) -> Mapping:
    head = rng.choice(("masked_token", "text", "token"))
    own = {"causal": False, "norm_last": rng.random() < 0.5, "num_token_types": rng.choice((0, 2)), "head": head, "num_labels": 3}
    return {**_sizes(rng, 4), **own, "tied_embedding": head == "masked_token" and rng.random() < 0.5}


def _mlp(rng: Random) -> Mapping:
    sizes = {"num_layers": rng.choice((2, 4)), "num_features": 5, "hidden_size": 6, "ffn_hidden_size": 12, "num_labels": 3}
    return {"family": "mlp", **sizes, "activation": rng.choice(("relu", "gelu", "tanh")), "dropout": rng.choice((0.0, 0.1))}


def _plans(rng: Random, mapping: Mapping, num_plans: int) -> Mapping:
    found: Mapping = {}
    for _ in range(MOST_TRIES):
        plan = _plan(rng, mapping)
        if plan is not None and plan not in found.values() and _is_legal(mapping, plan):
            found[f"p{len(found)}"] = plan
        if len(found) == num_plans:
            break
    return found


def _is_legal(mapping: Mapping, plan: Mapping) -> bool:
    try:
        parsim.from_mapping({**mapping, "plans": {"drawn": plan}})
    except parsim.ParsimError:
        return False
    return True


def _plan(rng: Random, mapping: Mapping) -> Mapping | None:
    """A plan that may be legal; None where its degrees make no whole replicas."""
    ranks, batch = _num_ranks(mapping["cluster"]), mapping["batch"]
    tp, pp = rng.choice((1, 2, 2, 3, 4, 4, 8)), rng.choice((1, 2, 3, 4, 4, 8))
    chunks = rng.choice((1, 2, 2, 3)) if pp > 1 else 1
    if ranks % (tp * pp):
        return None
    dp, zero = ranks // (tp * pp), rng.choice((0, 0, 1, 2, 3, 3))
    keeps = zero == 3 and pp == 1 and rng.random() < 0.5
    recompute = rng.choice(("none", "selective", "full"))
    again = [name for ops in rng.sample(OPS, rng.choice((1, 2))) for name in ops] if recompute != "full" and rng.random() < 0.5 else []
    schedules = ("interleaved_1f1b", "breadth_first") if chunks > 1 else ("1f1b",) if keeps else ("gpipe", "1f1b", "1f1b", "breadth_first")
    plan: Mapping = {
        "data_parallel": dp,
        "tensor_parallel": tp,
        "pipeline_parallel": pp,
        "virtual_pipeline": chunks,
        "sequence_parallel": tp > 1 and batch["sequence_length"] > 1 and rng.random() < 0.6,
        "micro_batch": rng.choice((1, 1, 2, 4)),
        "schedule": rng.choice(schedules),
        "recompute": recompute,
        "recompute_ops": again,
        "recompute_every": rng.choice((1, 1, 2, 3)) if recompute != "none" or again else 1,
        "gradient_sync": "all_reduce" if zero else rng.choice(("all_reduce", "all_reduce", "master")),
        "rank_order": rng.choice((*ORDERS, *["tp-dp-pp"] * 4)),
        "optimizer": rng.choice(("adamw", "adamw", "adamw_8bit", "sgd_momentum")),
        "zero_stage": zero,
        "reshard_after_forward": not keeps,
        "offload_optimizer": rng.random() < 0.2,
    }
    if zero and dp > 1 and rng.random() < 0.4:
        plan["zero_group"] = rng.choice([group for group in range(1, dp + 1) if dp % group == 0])
    if batch["global_batch"] % (dp * plan["micro_batch"]):
        return None
    if rng.random() < 0.3 and 1 < pp * chunks <= mapping["model"]["num_layers"]:
        plan["layers_per_stage"] = _layers(rng, mapping["model"]["num_layers"], pp * chunks)
    return plan


def _num_ranks(cluster: Mapping) -> int:
    node = cluster["node"]
    devices = node["devices_per_node"] if isinstance(node, dict) else 4 if node in ("jean-zay-v100-32gb", "gb200-tray") else 8
    return devices * int(cluster.get("num_nodes", 1))


def _layers(rng: Random, num_layers: int, stages: int) -> list[int]:
    cuts = sorted(rng.randint(0, num_layers - stages) for _ in range(stages - 1))
    return [1 + after - before for before, after in itertools.pairwise((0, *cuts, num_layers - stages))]


if __name__ == "__main__":
    seed, num_large, num_small = map(int, sys.argv[1:])
    json.dump({"large": drawn(seed, num_large, large), "small": drawn(seed + 1, num_small, small)}, sys.stdout)
