"""A layer whose MLP stands beside attention, a second time, from its paper."""

from __future__ import annotations

from collections.abc import Callable

from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued
from parsim_kernels.signature import Array

Branch = Callable[[Arithmetic, TransformerSpec, str, Array], Valued]


def side_by_side(run: Arithmetic, model: TransformerSpec, at: str, x: Array, attention: Branch, mlp: Branch) -> Valued:
    """x + attention(norm(x)) + mlp(norm(x)), with one norm or two: Wang and Komatsuzaki 2021 (GPT-J)."""
    of_attention, first = run.norm(f"{at}/norm1", x, model.norm)
    of_mlp, second = (of_attention, first) if model.tied_norm else run.norm(f"{at}/norm2", x, model.norm)
    mixed, attended = attention(run, model, at, of_attention)
    mixed, kept = run.dropout(at, "attention_mask", mixed)
    active, through = mlp(run, model, at, of_mlp)
    active, kept_of_mlp = run.dropout(at, "mlp_mask", active)

    def back(dy: Array) -> Array:
        d_first, d_second = (each(drop(dy) * model.residual_scale) for each, drop in ((attended, kept), (through, kept_of_mlp)))
        return dy + (first(d_first + d_second) if model.tied_norm else first(d_first) + second(d_second))

    return x + (mixed + active) * model.residual_scale, back
