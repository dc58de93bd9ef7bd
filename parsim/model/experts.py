"""A mixture of experts in place of an MLP: a router gives each token its slots, which go to their experts, and back as a sum.

Experts are chosen as a table of loads says, whatever the logits: what software does to measure speed (Megatron-LM,
moe_router_force_load_balancing).  A gate multiplies what its expert's nonlinearity gives, so that no output of an expert is kept:
Megatron-LM, core/transformer/moe/experts.py (`weighted_bias_swiglu_impl`).
Source: Jiang et al. 2024 (arXiv:2401.04088), section 2.1, with the gates a softmax over the chosen; or their sigmoids' shares: DeepSeek-AI
2024 (arXiv:2412.19437), section 2.1.2, with neither the bias that steers choices nor the factor that scales all gates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parsim.model.dims import FLOAT32
from parsim.model.op import Gradient, Op
from parsim.model.transformer import TransformerArchitecture

MATRICES = {"gate": "D J", "up": "D J", "down": "J D"}  # of each expert
ACTIVATION = "moe_act"  # Megatron Core's name of what may run again
_SLOTS = (("run", "run"), ("tokens", "tokens"), ("inner", "local:T"))
_CHOSEN = (("loads", "loads:N"), ("chosen", "chosen"), *_SLOTS)
_OWN = (("loads", "loads:E"),)
_ROUTES = {"softmax": "route", "sigmoid": "route_sigmoid"}  # by what gates are shares of
_DROPPING = "_dropping"  # gates of slots that are not sent have no gradient, but shares of the others


def experts(x: str, out: str, ups: Sequence[str], kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """The ops from tokens on the residual stream to the weighted sum of their experts."""
    yield Op("router_gemm", "B T D, N D -> B T N", (x, "router.weight"), ("router_logits",), dtypes=(FLOAT32,))
    yield Op("route", "B T N -> O M", ("router_logits",), ("gates",), _ROUTES[kind.gates] + _DROPPING * kind.capacity, (FLOAT32,), _CHOSEN)
    if kind.balance_loss:
        own = (Gradient("router_logits", "balance_loss_grad", ("router_logits",)),)
        told = (("chosen", "chosen"), ("scale", "balance_coefficient"))
        yield Op("balance_loss", "B T N ->", ("router_logits",), ("balance_loss",), "balance_loss", (FLOAT32,), told, gradients=own)
    yield Op("permute", "B T D -> O M D", (x,), ("permuted",), "permute", attributes=_SLOTS)
    yield Op("dispatch", "O M D -> X G D", ("permuted",), ("expert_in",), "relabel")
    yield Op("dispatch_gates", "O M -> X G", ("gates",), ("expert_gates",), "relabel", (FLOAT32,))
    for name in ups:
        yield _gemm(name, "expert_in", f"expert_{name}")
    yield from _weighted_activation(ups, kind, fusions)
    yield _gemm("down", "expert_active", "expert_out")
    yield Op("collect", "X G D -> O M D", ("expert_out",), ("collected",), "relabel")
    yield Op("unpermute", "O M D -> B T D", ("collected",), (out,), "unpermute", attributes=_SLOTS)


def expert_weights(ups: Sequence[str]) -> dict[str, str]:
    """The weights of router and experts with their initial values."""
    return dict.fromkeys(("router.weight", *(f"experts_{name}.weight" for name in (*ups, "down"))), "normal")


def _gemm(name: str, x: str, y: str) -> Op:
    before, after = MATRICES[name].split()
    expr = f"X G {before}, E {before} {after} -> X G {after}"
    return Op(f"experts_{name}_gemm", expr, (x, f"experts_{name}.weight"), (y,), "grouped_gemm", attributes=_OWN)


def _weighted_activation(ups: Sequence[str], kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    hidden, same = tuple(f"expert_{name}" for name in ups), "X G J -> X G J"
    if kind.activation == "swiglu" and "swiglu" in fusions:
        expr, inputs = "X G J, X G J, X G -> X G J", (*hidden, "expert_gates")
        yield Op(ACTIVATION, expr, inputs, ("expert_active",), "weighted_swiglu")
        return
    if kind.activation == "swiglu":
        yield Op("experts_swish", same, hidden[:1], ("expert_swish",), "silu")
        yield Op("experts_multiply", f"X G J, {same}", ("expert_swish", *hidden[1:]), ("expert_plain",), "multiply")
    else:
        yield Op("experts_activation", same, hidden, ("expert_plain",), kind.activation)
    yield Op("weigh", "X G J, X G -> X G J", ("expert_plain", "expert_gates"), ("expert_active",), "weigh")
