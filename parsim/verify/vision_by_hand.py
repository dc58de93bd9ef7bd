"""A vision tower before a decoder by hand: Radford et al. 2021 (arXiv:2103.00020) for the tower; Liu et al. 2023 (arXiv:2310.03744)."""

from __future__ import annotations

import numpy as np

from parsim.model.families.vision_language import VisionLanguageSpec
from parsim.verify.arithmetic import Arithmetic, Pullback, Valued, chain
from parsim.verify.by_hand import Forwards, activation, head, transformer_layer
from parsim.verify.vit_by_hand import FORWARDS as OTHERS
from parsim_kernels.signature import Array

_JOINT = "decoder_embedding"


def vision_language(run: Arithmetic) -> Pullback:
    """The loss of one micro_batch of images with their texts."""
    model = run.job.spec
    assert isinstance(model, VisionLanguageSpec)
    x, back = _patches(run, model)
    pullbacks = [back]
    for i in range(model.vision_layers):
        x, back = transformer_layer(run, model.tower, f"layer{i}", x)
        pullbacks.append(back)
    x, back = _project(run, model, x)
    pullbacks.append(back)
    x, back = _before_words(run, model, x)
    pullbacks.append(back)
    for i in range(model.vision_layers, model.num_layers):
        x, back = transformer_layer(run, model.decoder, f"layer{i}", x)
        pullbacks.append(back)
    return chain(*pullbacks, head(run, model.decoder, x))


def _patches(run: Arithmetic, model: VisionLanguageSpec) -> Valued:
    """The tower's stream before its first layer."""
    count, table, token = int(run.job.sizes.dims["B"][0]), "embedding/position.weight", "embedding/class_token"
    x, embedded = run.dense(
        "embedding/patch", run.draw("embedding", "patches", count, model.num_patches, model.num_channels * model.patch_size**2)
    )
    if model.class_token:
        x = np.concatenate([np.tile(run.weights[token], (count, 1, 1)), x], axis=1)
    x = x + run.weights[table]

    def places(dy: Array) -> Array:
        run.gradients[table] += dy.sum(0)
        if model.class_token:
            run.gradients[token] += dy[:, 0].sum(0)
        return embedded(dy[:, -model.num_patches :])

    if not model.vision_first_norm:
        return x, places
    x, normed = run.norm("embedding/norm", x, "layer_norm")
    return x, chain(places, normed)


def _project(run: Arithmetic, model: VisionLanguageSpec, x: Array) -> Valued:
    """The decoder's tokens of an image."""
    pullbacks: list[Pullback] = []
    if model.vision_last_norm:
        x, back = run.norm(f"{_JOINT}/vision_norm", x, "layer_norm")
        pullbacks.append(back)
    whole = x.shape

    def without_class_token(dy: Array) -> Array:
        d_x = np.zeros(whole)
        d_x[:, whole[1] - model.num_patches :] = dy
        return d_x

    x = x[:, whole[1] - model.num_patches :]
    if model.projector == "mlp":
        x, up = run.dense(f"{_JOINT}/projector_up", x)
        x, through = activation("gelu", x)
        x, down = run.dense(f"{_JOINT}/projector_down", x)
        return x, chain(*pullbacks, without_class_token, up, through, down)
    x, back = run.dense(f"{_JOINT}/projector_out", x)
    return x, chain(*pullbacks, without_class_token, back)


def _before_words(run: Arithmetic, model: VisionLanguageSpec, image: Array) -> Valued:
    """The decoder's stream: an image, and the words of its text."""
    length = run.job.model.batch.sequence_length - model.num_patches
    words, looked_up = run.lookup(f"{_JOINT}/word.weight", run.draw(_JOINT, "tokens", len(image), length))

    def back(dy: Array) -> Array:
        looked_up(dy[:, model.num_patches :] * model.embedding_scale)
        return dy[:, : model.num_patches]

    return np.concatenate([image, words * model.embedding_scale], axis=1), back


FORWARDS: Forwards = {**OTHERS, VisionLanguageSpec: vision_language}
