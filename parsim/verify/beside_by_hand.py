"""An MLP and experts beside it on one rank, in plain numpy: Gemma 4, whose router reads a norm of its own."""

from __future__ import annotations

import numpy as np

from parsim.model.transformer import TransformerSpec
from parsim.verify.arithmetic import Arithmetic, Valued, chain
from parsim.verify.experts_by_hand import Mlp, experts
from parsim_kernels.signature import Array


def mlp_and_experts(run: Arithmetic, model: TransformerSpec, at: str, x: Array, mlp: Mlp) -> Valued:
    """What both give of the stream, behind norms of their own: huggingface/transformers, modeling_gemma4.py (`Gemma4TextDecoderLayer`)."""
    root = np.sqrt(model.hidden_size)
    before, normed = run.norm(f"{at}/norm2", x, model.norm)
    dense, through = mlp(model, lambda name, h: run.dense(f"{at}/{name}", h), before)
    dense, behind = run.norm(f"{at}/mlp_behind", dense, model.norm)
    entering, enter = run.norm(f"{at}/experts_before", x, model.norm)
    routed, route = run.norm(f"{at}/router_norm", x, "rms_norm")
    mixed, mix = experts(run, model, at, entering, mlp, routed / root)
    mixed, leave = run.norm(f"{at}/experts_behind", mixed, model.norm)
    of_mlp = chain(normed, through, behind)

    def back(dy: Array) -> Array:
        d_entering, d_routed = mix(leave(dy))
        return np.asarray(of_mlp(dy) + enter(d_entering) + route(d_routed / root))

    return dense + mixed, back
