"""Queries, keys and values of a layer on one rank, in plain numpy, of heads as wide as the layer has them."""

from __future__ import annotations

import numpy as np

from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued, chain, rotary
from parsim.verify.experts_by_hand import number_of
from parsim.verify.latent_by_hand import Projected
from parsim_kernels.signature import Array


def head_projections(run: Arithmetic, model: TransformerSpec, at: str, x: Array) -> Projected:
    """q[B S K R C], k[B S K C], v[B S K C]: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.2; norms and positions of later models."""
    form, kind = model.form(number_of(model, at)), "layer_norm" if model.qk_norm_by_head else "rms_norm"
    (q, q_back), (k, k_back) = (run.dense(f"{at}/{name}", x) for name in "qk")
    makes_both = model.keys_as_values and form.full
    v, v_back = (k, lambda dy: dy) if makes_both else run.dense(f"{at}/v", x)
    if model.values_normed:
        v, v_normed = run.norm(f"{at}/v_norm", v, "rms_norm")
        v_back = chain(v_back, v_normed)
    turns, is_turned = [], model.positions == "rotary" and not form.unturned
    width = model.heads_of(full=form.full)[1]
    part = model.full_rotary_dim if form.full and model.has_full_heads else model.rotary_dim
    for name, each in (("q", q), ("k", k)):
        normed, before = _norm(run, model, f"{at}/{name}_norm", each, kind) if model.qk_norm else (each, lambda dy: dy)
        if model.qk_norm and not model.qk_norm_weights and not is_turned:
            normed, before = each, lambda dy: dy
        turned, behind = rotary(normed, part or width) if is_turned else (normed, lambda dy: dy)
        turns.append((turned, chain(before, behind)))
    (q, q_turn), (k, k_turn) = turns

    def back(d_q: Array, d_k: Array, d_v: Array) -> Array:
        d_q, d_k, d_v = q_back(q_turn(d_q)), k_turn(d_k), v_back(d_v)
        return np.asarray(d_q + (k_back(d_k + d_v) if makes_both else k_back(d_k) + d_v))

    return q, k, v, back


def _norm(run: Arithmetic, model: TransformerSpec, name: str, x: Array, kind: str) -> Valued:
    return run.norm(name, x, kind, whole=model.qk_norm_whole)
