"""A vision transformer by hand: Dosovitskiy et al. 2021 (arXiv:2010.11929), Eq. 1 to 4."""

from __future__ import annotations

import numpy as np

from parsim.model.families.vit import VitSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, chain
from parsim.verify.by_hand import Forwards, transformer_layer
from parsim.verify.hybrid_by_hand import FORWARDS as OTHERS
from parsim_kernels.signature import Array


def vit(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch of images."""
    model, count = run.job.spec, int(run.job.sizes.dims["B"][0])
    assert isinstance(model, VitSpec)
    patches = run.draw("embedding", "patches", count, model.num_patches, model.num_channels * model.patch_size**2)
    rows, embedded = run.dense("embedding/patch", patches)
    places, token = run.weights["embedding/position.weight"], "embedding/class_token"
    x = np.concatenate([np.broadcast_to(run.weights[token], (count, 1, model.hidden_size)), rows], axis=1) + places
    x, dropped = run.dropout("embedding", "embedding_mask", x)

    def back(dy: Array) -> Array:
        dy = dropped(dy)
        run.gradients["embedding/position.weight"] += dy.sum(0)
        run.gradients[token] += dy[:, 0].sum(0)
        return embedded(dy[:, 1:])

    pullbacks: list[Pullback] = [back]
    for i in range(model.num_layers):
        x, through = transformer_layer(run, model.encoder, f"layer{i}", x)
        pullbacks.append(through)
    x, normed = run.norm("head/norm", x, "layer_norm")
    logits, labelled = run.dense("head/label", x[:, 0], transposed=True)
    loss = run.cross_entropy(logits, run.draw("head", "image_labels", count), 1 / run.job.model.batch.global_batch)

    def of_class_token(dy: Array) -> Array:
        d_x = np.zeros_like(x)
        d_x[:, 0] = labelled(loss(dy))
        return normed(d_x)

    return chain(*pullbacks, of_class_token)


FORWARDS: Forwards = {**OTHERS, VitSpec: vit}
