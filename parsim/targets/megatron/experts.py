"""How experts are said to Megatron Core, and read of what it is told: how many, which layers have some, what weighs and balances them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final

from parsim.targets.entries import Entry, Keys
from parsim.targets.megatron.model import ASSUMED, spec
from parsim.targets.target import KeyValue, Setup

_GATES: Final = {  # score function, and whether a softmax comes before the choice
    "softmax": ("softmax", False),
    "pre_softmax": ("softmax", True),
    "sigmoid": ("sigmoid", False),
    "own_sigmoid": ("sigmoid", False),  # of one expert, whose share would be 1
}
_LISTS: Final = re.compile(r"\[([\d,\s]*)\](?:\s*\*\s*(\d{1,5}))?")
_BALANCED: Final = ("aux_loss", "seq_aux_loss", "global_aux_loss")
_LATENT: Final = "moe_latent_size"
_DEFAULT_RATE: Final = 1e-3  # of biases that steer


def entries() -> tuple[Entry, ...]:
    """Those of experts."""

    def fields(*names: str) -> tuple[str, ...]:
        return tuple(f"model.{name}" for name in names)

    routed = ("num_experts", "experts_per_token", "expert_ffn_hidden_size", "shared_ffn_hidden_size", "shared_expert_gate")
    return (
        Entry(fields(*routed, "expert_latent_size"), _write_experts, _read_experts),
        Entry(fields("num_dense_layers", "expert_layer_every"), _write_layers, _read_layers),
        Entry(fields("gates", "gate_scale", "expert_groups", "groups_per_token"), _write_gates, _read_gates),
        Entry(fields("balance_coefficient", "steer_rate"), _write_balance, _read_balance),
        Entry(fields("capacity_factor", "drop_policy", "pad_to_capacity"), _write_capacity, _read_capacity),
        Entry(fields(*ASSUMED), lambda setup: {}, assumed=True),
    )


def _write_experts(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if not model.num_experts:
        return {}
    keys: dict[str, KeyValue] = {"num_experts": model.num_experts, "moe_router_topk": model.experts_per_token}
    keys["moe_ffn_hidden_size"] = model.expert_ffn_hidden_size
    if model.shared_ffn_hidden_size:
        keys["moe_shared_expert_intermediate_size"] = model.shared_ffn_hidden_size
    if model.shared_expert_gate:
        keys["moe_shared_expert_gate"] = True
    return {**keys, **({_LATENT: model.expert_latent_size} if model.expert_latent_size else {})}


def _read_experts(keys: Keys) -> dict[str, Any]:
    count = keys.like("num_experts", 0)
    if not count:
        return {}
    found: dict[str, Any] = {"model.num_experts": count, "model.experts_per_token": keys.like("moe_router_topk", 2)}
    if width := keys.like("moe_ffn_hidden_size", keys.like("ffn_hidden_size", 0)):
        found["model.expert_ffn_hidden_size"] = width
    found["model.shared_ffn_hidden_size"] = keys.like("moe_shared_expert_intermediate_size", 0)
    found["model.shared_expert_gate"] = keys.like("moe_shared_expert_gate", False)
    return {**found, "model.expert_latent_size": keys.like(_LATENT, 0)}


def _write_layers(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if not model.num_experts or (model.num_dense_layers, model.expert_layer_every) == (0, 1):
        return {}
    has = [int(model.has_experts(layer)) for layer in range(model.num_layers)]
    dense = model.num_dense_layers
    plain = model.expert_layer_every == 1
    return {"moe_layer_freq": f"[0]*{dense}+[1]*{model.num_layers - dense}" if plain else f"[{','.join(map(str, has))}]"}


def _read_layers(keys: Keys) -> dict[str, Any]:
    said, num_layers = keys.take("moe_layer_freq", 1), keys.like("num_layers", 0)
    if said in (None, 1) or not keys.take("num_experts"):
        return {}
    has = _pattern(said, num_layers)
    for dense, every in product(range(num_layers), range(1, num_layers + 1)) if len(has) == num_layers <= 512 else ():
        if has == [int(layer >= dense and (layer - dense + 1) % every == 0) for layer in range(num_layers)]:
            return {"model.num_dense_layers": dense, "model.expert_layer_every": every}
    keys.leave("moe_layer_freq", "layers with experts behind some without, each or each n-th, are built")
    return {}


def _pattern(said: KeyValue, num_layers: int) -> list[int]:
    """Which layers have experts; [] where it is said in a way that is not read.

    >>> _pattern("([0]*2+[1]*3)", 5), _pattern(2, 4), _pattern([0, 1], 2), _pattern("f()", 2)
    ([0, 0, 1, 1, 1], [1, 0, 1, 0], [0, 1], [])
    """
    if type(said) is int:
        return [int(layer % said == 0) for layer in range(num_layers)] if said > 0 else []
    if isinstance(said, Sequence) and not isinstance(said, str):
        return [each for each in said if each in (0, 1)]
    text = str(said).replace(" ", "").replace("(", "").replace(")", "")
    if "".join(each[0] for each in _LISTS.finditer(text)) != text.replace("+", ""):
        return []
    found = [int(each) for run in _runs(text) for each in run]
    return found if len(found) == num_layers else []


def _runs(text: str) -> Iterator[list[str]]:
    for each in _LISTS.finditer(text):
        yield [word for word in each[1].split(",") if word] * min(int(each[2] or 1), 10_000)


def _write_gates(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    alone = model.experts_per_token == 1
    if not model.num_experts or model.gates not in _GATES or (model.gates == "sigmoid" and alone) or (model.gates == "own_sigmoid") > alone:
        return {}
    score, before = _GATES[model.gates]
    keys: dict[str, KeyValue] = {"moe_router_score_function": score, **({"moe_router_pre_softmax": True} if before else {})}
    if model.gate_scale != 1.0:
        keys["moe_router_topk_scaling_factor"] = model.gate_scale
    if model.expert_groups > 1:
        keys["moe_router_num_groups"] = model.expert_groups
        keys |= {"moe_router_group_topk": model.groups_per_token} if model.groups_per_token else {}
    return keys


def _read_gates(keys: Keys) -> dict[str, Any]:
    score, before = keys.of_type(str, "moe_router_score_function", "softmax"), keys.like("moe_router_pre_softmax", False)
    scale, groups = keys.of_type(float, "moe_router_topk_scaling_factor"), keys.like("moe_router_num_groups", 0)
    of_groups, alone = keys.like("moe_router_group_topk", 0), keys.take("moe_router_topk", 2) == 1
    if not keys.take("num_experts"):
        return {}
    if score not in ("softmax", "sigmoid"):
        keys.leave("moe_router_score_function", "not built: softmax and sigmoid are")
    softmax = "pre_softmax" if before else "softmax"
    found: dict[str, Any] = {"model.gates": softmax if score != "sigmoid" else "own_sigmoid" if alone else "sigmoid"}
    found |= {"model.gate_scale": scale} if scale else {}
    return {**found, **({"model.expert_groups": groups, "model.groups_per_token": of_groups} if groups > 1 else {})}


def _write_balance(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if not model.num_experts:
        return {}
    weighs = model.balance_coefficient > 0
    keys: dict[str, KeyValue] = {"moe_router_load_balancing_type": ["aux_loss" if weighs else "none"]}
    keys |= {"moe_aux_loss_coeff": [model.balance_coefficient]} if weighs else {}
    if model.steer_rate:
        keys |= {"moe_router_enable_expert_bias": True, "moe_router_bias_update_rate": model.steer_rate}
    return keys


def _read_balance(keys: Keys) -> dict[str, Any]:
    said, weights = keys.take("moe_router_load_balancing_type"), keys.take("moe_aux_loss_coeff")
    steers, rate = keys.like("moe_router_enable_expert_bias", False), keys.of_type(float, "moe_router_bias_update_rate", _DEFAULT_RATE)
    kinds = [*said] if isinstance(said, list | tuple) else [said or "aux_loss"]
    numbers = [*weights] if isinstance(weights, list | tuple) else [weights or 0.0]
    if not keys.take("num_experts"):
        return {}
    found: dict[str, Any] = {"model.steer_rate": rate} if steers else {}
    if len(kinds) == len(numbers) == 1 and kinds[0] in _BALANCED:
        return {**found, "model.balance_coefficient": numbers[0]}
    if kinds != ["none"]:
        keys.leave("moe_router_load_balancing_type", "one auxiliary loss is built")
    return found


def _write_capacity(setup: Setup) -> dict[str, KeyValue]:
    model = spec(setup)
    if not model.capacity_factor:
        return {}
    keys: dict[str, KeyValue] = {"moe_expert_capacity_factor": model.capacity_factor, "moe_token_drop_policy": model.drop_policy}
    return {**keys, **({"moe_pad_expert_input_to_capacity": True} if model.pad_to_capacity else {})}


def _read_capacity(keys: Keys) -> dict[str, Any]:
    factor, policy = keys.of_type(float, "moe_expert_capacity_factor"), keys.of_type(str, "moe_token_drop_policy", "probs")
    pads = keys.like("moe_pad_expert_input_to_capacity", False)
    if factor is None or factor < 0 or not keys.take("num_experts"):
        return {}
    return {"model.capacity_factor": factor, "model.drop_policy": policy, "model.pad_to_capacity": pads}
