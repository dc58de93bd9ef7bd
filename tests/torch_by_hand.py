"""A GPT, a Llama and an MLP a second time: their forward in a few lines of torch, whose autograd gives the gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from parsim.model.families.mlp import MlpSpec
from parsim.model.transformer import TransformerSpec

torch = pytest.importorskip("torch", reason="torch is not installed: the extra [torch] brings it")
F = torch.nn.functional
Tensor = Any
Drawn = Callable[[str, str, tuple[int, ...]], Tensor]  # a mask, by instance, name and shape


def gradients(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Of each weight, as numpy has it."""
    found = torch.autograd.grad(loss, list(weights.values()))
    return {name: gradient.numpy() for name, gradient in zip(weights, found, strict=True)}


def transformer(
    model: TransformerSpec, w: Mapping[str, Tensor], tokens: Tensor, labels: Tensor, drawn: Drawn, attention_masks: bool
) -> Tensor:
    """The mean cross-entropy of a decoder with its norms first.

    Source: Radford et al. 2019 (GPT-2), section 2.3, for learned positions;
    Touvron et al. 2023 (arXiv:2302.13971), section 2.2, for the rest.
    """

    def dropped(instance: str, name: str, x: Tensor) -> Tensor:
        return x * drawn(instance, name, tuple(x.shape)) / (1 - model.dropout) if model.dropout else x

    def norm(name: str, x: Tensor) -> Tensor:
        if model.norm == "rms_norm":
            return F.rms_norm(x, x.shape[-1:], w[f"{name}.gamma"], eps=1e-5)
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.gamma"], w[f"{name}.beta"], eps=1e-5)

    x = w["embedding/word.weight"][tokens]
    if model.positions == "learned":
        x = x + w["embedding/position.weight"][: tokens.shape[1]]
    x = dropped("embedding", "embedding_mask", x)
    for i in range(model.num_layers):
        at = f"layer{i}"
        mixed = _attention(model, w, at, norm(f"{at}/norm1", x), lambda p, at=at: dropped(at, "scores_mask", p) if attention_masks else p)
        x = x + dropped(at, "attention_mask", mixed)
        x = x + dropped(at, "mlp_mask", _mlp(model, w, at, norm(f"{at}/norm2", x)))
    table = w["embedding/word.weight" if model.tied_embedding else "head/word.weight"]
    logits = norm("head/norm", x) @ table.T
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def _attention(model: TransformerSpec, w: Mapping[str, Tensor], at: str, x: Tensor, dropped: Callable[[Tensor], Tensor]) -> Tensor:
    queries, keys, values = (
        torch.tensordot(x, w[f"{at}/{name}.weight"], 1) for name in "qkv"
    )  # q: batch, token, kv head, its queries, dim
    if model.qkv_bias:
        queries, keys, values = queries + w[f"{at}/q.bias"], keys + w[f"{at}/k.bias"], values + w[f"{at}/v.bias"]
    if model.positions == "rotary":
        queries, keys = _turned(queries), _turned(keys)
    keys, values = (each.transpose(1, 2)[:, :, None] for each in (keys, values))  # batch, kv head, 1, token, dim
    scores = queries.permute(0, 2, 3, 1, 4) @ keys.transpose(-1, -2) / model.head_dim**0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    shares = dropped(scores.masked_fill(hidden, float("-inf")).softmax(-1))
    mixed = (shares @ values).permute(0, 3, 1, 2, 4)
    out = torch.tensordot(mixed, w[f"{at}/out.weight"], 3)
    return out + w[f"{at}/out.bias"] if model.bias else out


def _turned(x: Tensor) -> Tensor:
    """Rotary positions by complex numbers: the pair (i, i + C / 2) is one.  Su et al. 2021 (arXiv:2104.09864), section 3.2.2."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
    pairs = torch.complex(x[..., :half], x[..., half:])
    turned = pairs * torch.polar(torch.ones_like(angles), angles).reshape(1, x.shape[1], *[1] * (x.ndim - 3), half)
    return torch.cat((turned.real, turned.imag), -1)


def _mlp(model: TransformerSpec, w: Mapping[str, Tensor], at: str, x: Tensor) -> Tensor:
    def dense(name: str, x: Tensor) -> Tensor:
        y = x @ w[f"{at}/{name}.weight"]
        return y + w[f"{at}/{name}.bias"] if model.bias else y

    if model.activation == "swiglu":
        return dense("down", F.silu(dense("gate", x)) * dense("up", x))
    return dense("down", F.gelu(dense("up", x), approximate="tanh"))


def mlp(model: MlpSpec, w: Mapping[str, Tensor], features: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy of dense layers with ReLU between them."""
    x = features @ w["embedding/input.weight"] + w["embedding/input.bias"]
    for name in (f"layer{i}/{part}" for i in range(model.num_layers) for part in ("up", "down")):
        x = x.relu() @ w[f"{name}.weight"] + w[f"{name}.bias"]
    return F.cross_entropy(x.relu() @ w["head/label.weight"].T + w["head/label.bias"], labels)
