"""A mixture of experts in place of an MLP: a router gives each token its slots, which go to their experts, and back as a sum.

Experts are chosen as a table of loads says, whatever the logits: what software does to measure speed (Megatron-LM,
moe_router_force_load_balancing).  A gate multiplies what its expert's nonlinearity gives, so that no output of an expert is kept:
Megatron-LM, core/transformer/moe/experts.py (`weighted_bias_swiglu_impl`).
Source: Jiang et al. 2024 (arXiv:2401.04088), section 2.1; gates stand in gates/.  Biases, behind the last matrix gate x bias:
NVIDIA/Megatron-LM, core/transformer/moe/experts.py (`_apply_bias`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parsim.model.adapters import LATENTS
from parsim.model.dims import FLOAT32
from parsim.model.gates import gate
from parsim.model.op import COUNT, Gradient, Op
from parsim.model.transformer import GATE_STEPS, TransformerArchitecture

ACTIVATION = "moe_act"  # Megatron Core's name of what may run again
SCALE = "router.scale"  # a factor of each expert's gates
STEER = "router.steer"  # the bias that steers choices
_SLOTS = (("run", "run"), ("tokens", "tokens"), ("inner", "local:T"))
_CHOSEN = (("loads", "loads:N"), ("chosen", "chosen"), *_SLOTS)
_OWN = (("loads", "loads:E"),)
_FUSED = frozenset({"swiglu", "squared_relu"})  # fusions of a stack: gated nonlinearities, and the one that is not, with their gates
_DOWN, _UP = LATENTS
_ROLES = {"logits": "x0", "gates": "y0"}


def experts(
    x: str, out: str, ups: Sequence[str], kind: TransformerArchitecture, fusions: tuple[str, ...], *, routed: str = ""
) -> Iterator[Op]:
    """The ops from tokens on the residual stream to the weighted sum of their experts; `routed`: what the router reads, if not them."""
    logits = "router_gemm" if kind.biases_mlp else "router_logits"
    yield Op("router_gemm", "B T D, N D -> B T N", (routed or x, "router.weight"), (logits,), dtypes=(FLOAT32,))
    if kind.biases_mlp:
        yield Op("router_bias", "B T N, N -> B T N", (logits, "router.bias"), ("router_logits",), "bias", (FLOAT32,), in_place=True)
    yield _route(kind)
    if kind.steers:
        counted = (("chosen", "chosen"), ("run", "run"))
        yield Op("count_choices", "B T N -> N", ("router_logits",), (COUNT + STEER,), "count_choices", (FLOAT32,), counted)
    if kind.balance_loss:
        own = (Gradient("router_logits", "balance_loss_grad", ("router_logits",)),)
        told = (("chosen", "chosen"), ("scale", "balance_coefficient"))
        yield Op("balance_loss", "B T N ->", ("router_logits",), ("balance_loss",), "balance_loss", (FLOAT32,), told, gradients=own)
    d, summed = _width(kind), "expert_latent_sum" if kind.expert_latent else out
    if kind.expert_latent:
        yield Op(f"{_DOWN}_gemm", "B T D, D y -> B T y", (x, f"{_DOWN}.weight"), ("expert_latent",))
        x = "expert_latent"
    yield Op("permute", f"B T {d} -> O M {d}", (x,), ("permuted",), "permute", attributes=_SLOTS)
    yield Op("dispatch", f"O M {d} -> X G {d}", ("permuted",), ("expert_in",), "relabel")
    arrived = "expert_shares" if kind.scales_experts else "expert_gates"
    yield Op("dispatch_gates", "O M -> X G", ("gates",), (arrived,), "relabel", (FLOAT32,))
    if kind.scales_experts:
        yield Op("expert_scale", "X G, E -> X G", (arrived, SCALE), ("expert_gates",), "expert_scale", (FLOAT32,), _OWN)
    x = "expert_in"
    if kind.gates_on_input:
        x = "expert_weighed_in"
        yield Op("weigh_input", f"X G {d}, X G -> X G {d}", ("expert_in", "expert_gates"), (x,), "weigh")
    for name in ups:
        yield from _linear(name, x, f"expert_{name}", kind, fusions)
    yield from (_plain_activation if kind.gates_on_input else _weighted_activation)(ups, kind, fusions)
    yield from _linear("down", "expert_active", "expert_out", kind, fusions)
    yield Op("collect", f"X G {d} -> O M {d}", ("expert_out",), ("collected",), "relabel")
    yield Op("unpermute", f"O M {d} -> B T {d}", ("collected",), (summed,), "unpermute", attributes=_SLOTS)
    if kind.expert_latent:
        yield Op(f"{_UP}_gemm", "B T y, y D -> B T D", (summed, f"{_UP}.weight"), (out,))


def _width(kind: TransformerArchitecture) -> str:
    """The dim of what goes to experts: tokens, or narrower vectors that are made of them.

    Source: NVIDIA 2025 (Nemotron 3, LatentMoE); huggingface/transformers, modeling_nemotron_h.py (fc1_latent_proj, fc2_latent_proj).
    """
    return "y" if kind.expert_latent else "D"


def _route(kind: TransformerArchitecture) -> Op:
    """Gates of slots, as the file of the gate says; of those that are not sent there is no gradient, but they may have their share."""
    own = gate(kind.gates)
    told = (*_CHOSEN, ("gate", f"gate:{kind.gates}"), ("scale", "gate_scale"))
    reads, kernel, flops = own.slope_reads, "route_grad", own.slope_flops
    if reads == ("logits",) or (kind.capacity and own.are_shares):
        reads, kernel, flops = ("logits",), "route_again_grad", own.flops + own.slope_flops
    slope = Gradient("x0", kernel, (*(_ROLES[each] for each in reads), "dy"), (*told, ("flops", flops)))
    attributes = (*told, ("flops", own.flops))
    return Op("route", "B T N -> O M", ("router_logits",), ("gates",), "route", (FLOAT32,), attributes, gradients=(slope,))


def expert_weights(ups: Sequence[str], kind: TransformerArchitecture) -> dict[str, str]:
    """The weights of router and experts with their initial values."""
    layers = ("router", *(f"experts_{name}" for name in (*ups, "down")))
    own = {SCALE: "ones"} if kind.scales_experts else {}
    own |= dict.fromkeys((f"{each}.weight" for each in LATENTS), "normal") if kind.expert_latent else {}
    return {f"{layer}.{each}": "normal" for each in ("weight", *(("bias",) if kind.biases_mlp else ())) for layer in layers} | own


def _linear(name: str, x: str, y: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """A matrix of each expert, and its bias where there are some: behind the last matrix as much of it as the gate says."""
    before, after = ("J", _width(kind)) if name == "down" else (_width(kind), "J")
    expr, out = f"X G {before}, E {before} {after} -> X G {after}", f"{y}_gemm" if kind.biases_mlp else y
    yield Op(f"experts_{name}_gemm", expr, (x, f"experts_{name}.weight"), (out,), "grouped_gemm", attributes=_OWN)
    if kind.biases_mlp:
        gates, kernel = (("expert_gates",), "weighted_expert_bias") if name == "down" else ((), "expert_bias")
        expr, inputs = f"X G {after}, E {after}{', X G' * len(gates)} -> X G {after}", (out, f"experts_{name}.bias", *gates)
        yield Op(f"experts_{name}_bias", expr, inputs, (y,), kernel, attributes=_OWN, fused="bias" in fusions and not gates, in_place=True)


def _plain_activation(ups: Sequence[str], kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    hidden, expr = tuple(f"expert_{name}" for name in ups), f"{'X G J, ' * (len(ups) - 1)}X G J -> X G J"
    yield Op(ACTIVATION, expr, hidden, ("expert_active",), kind.activation)


def _weighted_activation(ups: Sequence[str], kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    hidden, same = tuple(f"expert_{name}" for name in ups), "X G J -> X G J"
    if ("swiglu" if len(ups) > 1 else kind.activation) in _FUSED.intersection(fusions):
        expr, inputs = f"{'X G J, ' * len(ups)}X G -> X G J", (*hidden, "expert_gates")
        yield Op(ACTIVATION, expr, inputs, ("expert_active",), f"weighted_{kind.activation}")
        return
    if kind.activation in GATE_STEPS:
        yield Op("experts_swish", same, hidden[:1], ("expert_swish",), GATE_STEPS[kind.activation])
        yield Op("experts_multiply", f"X G J, {same}", ("expert_swish", *hidden[1:]), ("expert_plain",), "multiply")
    else:
        yield Op("experts_activation", f"{'X G J, ' * (len(ups) - 1)}{same}", hidden, ("expert_plain",), kind.activation)
    yield Op("weigh", "X G J, X G -> X G J", ("expert_plain", "expert_gates"), ("expert_active",), "weigh")
