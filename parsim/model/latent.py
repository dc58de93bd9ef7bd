"""Latent attention (MLA): keys and values of all heads grow from one narrow vector of a token, queries perhaps from another.

Trained as it is written, without matrices absorbed: heads and their matrices are split over ranks, the narrow vectors lie on the
residual stream, whole on every tensor-parallel rank, and enter the block as its norm would.
Source: DeepSeek-AI 2024 (arXiv:2405.04434), section 2.1 and appendix C; NVIDIA/Megatron-LM, megatron/core/transformer/
multi_latent_attention.py, for what is split and what runs again as mla_up_proj.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from parsim.model.norms import rms_norm
from parsim.model.op import Op, OpAttributes
from parsim.model.transformer import TransformerArchitecture

UP_PROJECTION = "mla_up_proj"  # Megatron Core's name of the region from the narrow vectors to queries, keys and values
_TURNED_PART: OpAttributes = (("part", "extent:r"),)


def latent_projections(x: str, kind: TransformerArchitecture, fusions: tuple[str, ...]) -> Iterator[Op]:
    """The ops from the residual stream to q, k and v; a query without a latent of its own is a linear layer of `attention_in`."""
    yield from _down("kv", "l", x, fusions)
    yield Op("k_shared_gemm", "B T D, D r -> B T r", (x, "k_shared.weight"), ("k_shared_gemm",))
    places: OpAttributes = (("offset", "offset:T"),)
    yield Op("k_shared_rotary", "B T r -> B T r", ("k_shared_gemm",), ("k_turned",), "rotary", attributes=places, in_place=True)
    if kind.query_latent:
        yield from _down("q", "q", x, fusions)
    for op in _up(kind):
        yield replace(op, tag=UP_PROJECTION)


def latent_weights(kind: TransformerArchitecture) -> dict[str, str]:
    """The weights of these ops with their initial values."""
    queries = {"q_down.weight": "normal", "q_latent.gamma": "ones"} if kind.query_latent else {}
    own = dict.fromkeys(("k_shared.weight", "q.weight", "k.weight", "v.weight"), "normal")
    return {"kv_down.weight": "normal", "kv_latent.gamma": "ones", **queries, **own}


def _down(name: str, dim: str, x: str, fusions: tuple[str, ...]) -> Iterator[Op]:
    """A narrow vector and its norm."""
    yield Op(f"{name}_down_gemm", f"B T D, D {dim} -> B T {dim}", (x, f"{name}_down.weight"), (f"{name}_narrow",))
    yield from rms_norm(f"{name}_latent", f"{name}_narrow", fusions, out=f"{name}_latent", dims=f"B T {dim}")


def _up(kind: TransformerArchitecture) -> Iterator[Op]:
    """Queries with their last part turned, keys with a turned part that all heads share, and values."""
    queries, dim = ("q_latent_in", "q") if kind.query_latent else ("attention_in", "D")
    yield Op("enter_kv", "B T l -> B S l", ("kv_latent",), ("kv_latent_in",), "relabel")
    yield Op("k_gemm", "B S l, l K n -> B S K n", ("kv_latent_in", "k.weight"), ("k_own",))
    yield Op("v_gemm", "B S l, l K v -> B S K v", ("kv_latent_in", "v.weight"), ("v",))
    yield Op("enter_k_shared", "B T r -> B S r", ("k_turned",), ("k_shared",), "relabel")
    yield Op("k_append", "B S K n, B S r -> B S K C", ("k_own", "k_shared"), ("k",), "append", attributes=_TURNED_PART)
    if kind.query_latent:
        yield Op("enter_q", "B T q -> B S q", ("q_latent",), ("q_latent_in",), "relabel")
    yield Op("q_gemm", f"B S {dim}, {dim} K R C -> B S K R C", (queries, "q.weight"), ("q_gemm",))
    places: OpAttributes = (("offset", "offset:S"), *_TURNED_PART)
    yield Op("q_rotary", "B S K R C -> B S K R C", ("q_gemm",), ("q",), "rotary", attributes=places, in_place=True)
