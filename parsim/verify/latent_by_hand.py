"""Queries, keys and values of latent attention on one rank, in plain numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued, chain, rotary
from parsim_kernels.signature import Array

Projected = tuple[Array, Array, Array, Callable[[Array, Array, Array], Array]]  # q, k, v, and the pullback of all three


def latent_projections(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Projected:
    """q[B S K R C], k[B S K C], v[B S K v]: DeepSeek-AI 2024 (arXiv:2405.04434), Eq. 37 to 45."""
    own, heads = model.qk_nope_head_dim, model.num_heads
    q_narrow, q_down = _narrow(run, at, "q", x) if model.q_lora_rank else (x, lambda dy: dy)
    kv_narrow, kv_down = _narrow(run, at, "kv", x)
    (q, q_up), (k_own, k_up), (v, v_up) = (run.dense(f"{at}/{n}", h) for n, h in (("q", q_narrow), ("k", kv_narrow), ("v", kv_narrow)))
    k_shared, k_back = run.dense(f"{at}/k_shared", x)
    (q_turned, q_turn), (k_turned, k_turn) = rotary(q[..., own:]), rotary(k_shared)
    q = np.concatenate((q[..., :own], q_turned), axis=-1)
    k = np.concatenate((k_own, np.repeat(k_turned[:, :, None], heads, axis=2)), axis=-1)

    def back(d_q: Array, d_k: Array, d_v: Array) -> Array:
        d_q = np.concatenate((d_q[..., :own], q_turn(d_q[..., own:])), axis=-1)
        d_shared = k_back(k_turn(d_k[..., own:].sum(axis=2)))
        return np.asarray(q_down(q_up(d_q)) + kv_down(k_up(d_k[..., :own]) + v_up(d_v)) + d_shared)

    return q, k, v, back


def _narrow(run: Arithmetic, at: str, name: str, x: Array) -> Valued:
    narrow, down = run.dense(f"{at}/{name}_down", x)
    y, normed = run.norm(f"{at}/{name}_latent", narrow, "rms_norm")
    return y, chain(down, normed)
