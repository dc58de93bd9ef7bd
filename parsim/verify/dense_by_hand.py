"""A chain of dense layers by hand: Rumelhart et al. 1986, Nature 323."""

from __future__ import annotations

import numpy as np

from parsim.model.families.dense import DenseSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, chain
from parsim.verify.by_hand import Forwards, activation
from parsim.verify.vision_by_hand import FORWARDS as OTHERS
from parsim_kernels.signature import Array


def dense(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch of rows."""
    model = run.job.spec
    assert isinstance(model, DenseSpec)
    batch, length = int(run.job.sizes.dims["B"][0]), run.job.model.batch.sequence_length
    x, pullbacks = run.draw("embedding", "features", batch, length, model.num_features), list[Pullback]()
    names = ["embedding/input", *(f"layer{number}/dense" for number in range(len(model.units) - 1))]
    takers = [name.partition("/")[0] for name in names[1:]] + ["head"]
    for place in range(len(model.units)):
        x, back = run.dense(names[place], x)
        x, through = _nonlinear(model.activations[place] if model.activations else model.activation, x)
        x, dropped = run.dropout(takers[place], "enter_mask", x)
        pullbacks += [back, through, dropped]
    logits, back = run.dense("head/label", x, transposed=True)
    scale = 1 / (run.job.model.batch.global_batch * length)
    return chain(*pullbacks, back, run.cross_entropy(logits, run.draw("head", "row_labels", batch, length), scale))


def _nonlinear(kind: str, x: Array) -> Valued:
    """One of those of other models, or 1 / (1 + e^-x), x times it, or x itself."""
    share = 1 / (1 + np.exp(-x))
    match kind:
        case "linear":
            return x, lambda dy: dy
        case "sigmoid":
            return share, lambda dy: dy * share * (1 - share)
        case "silu":
            return x * share, lambda dy: dy * (share + x * share * (1 - share))
    return activation(kind, x)


FORWARDS: Forwards = {**OTHERS, DenseSpec: dense}
