"""The model as blocks, one behind another: an embedding, layers and a head.  A pipeline stage holds some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPSILON = 1e-5  # of norms
ROTARY_BASE = 10_000.0
ACTIVATIONS = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "squared_relu": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "swiglu": F.silu,  # of the gate
    "geglu": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "linear": lambda x: x,
}


class Chain(nn.ModuleDict):
    """Blocks by name in the order in which they run; `names` are those of a stage."""

    def __init__(self, model: Mapping[str, Any], names: list[str], recompute: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__({name: block_of(name, model, recompute.get(name, ())) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.values():
            x = block(x)
        return x


def block_of(name: str, model: Mapping[str, Any], recompute: tuple[str, ...]) -> Block:
    """The block of that name in a model of its family."""
    if model["family"] == "dense":
        return Units(name, model, recompute)
    embedding, layer, head = (Features, HiddenLayer, Labels) if model["family"] == "mlp" else (Embedding, Layer, Head)
    return {"embedding": embedding, "head": head}.get(name, layer)(model, recompute)


class Block(nn.Module):
    """A block that may compute all or parts of itself again in the backward, and keep less until then."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.recompute = model, recompute

    def forward(self, x: Tensor) -> Tensor:
        return self.run("full", self.compute, x)

    def run(self, part: str, compute: Any, *inputs: Tensor) -> Tensor:
        return checkpoint(compute, *inputs, use_reentrant=False) if part in self.recompute else compute(*inputs)

    def new_norm(self, width: int) -> nn.Module:
        if self.model["norm"] == "rms_norm":
            return nn.RMSNorm(width, eps=EPSILON)
        return nn.LayerNorm(width, eps=EPSILON, bias=self.model["norm_bias"])


class Embedding(Block):
    """Tokens [batch, sequence] to the residual stream [batch, sequence, hidden_size]."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.word = nn.Embedding(model["vocab_size"], model["hidden_size"])
        if model["positions"] == "learned":
            self.position = Positions(model["max_positions"], model["hidden_size"])

    def compute(self, tokens: Tensor) -> Tensor:
        x = self.word(tokens)
        return self.position(x) if "position" in self._modules else x


class Positions(nn.Module):
    """A table with a row for each position, added to the stream."""

    def __init__(self, max_positions: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(max_positions, hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.shape[1]]


class Layer(Block):
    """Attention and an MLP, each with its norm before it and a residual add behind it."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.norm1, self.norm2 = self.new_norm(model["hidden_size"]), self.new_norm(model["hidden_size"])
        self.attention, self.mlp = Attention(model, recompute), Mlp(model, recompute)

    def compute(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.run("mlp", self.mlp, self.norm2(x))


class Attention(Block):
    """Causal attention; neighbouring query heads share a key and value head where there are fewer of these."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        hidden, dim, bias = model["hidden_size"], model["head_dim"], model["qkv_bias"]
        self.q = nn.Linear(hidden, model["num_heads"] * dim, bias=bias)
        self.k = nn.Linear(hidden, model["num_kv_heads"] * dim, bias=bias)
        self.v = nn.Linear(hidden, model["num_kv_heads"] * dim, bias=bias)
        self.out = nn.Linear(model["num_heads"] * dim, hidden, bias=model["bias"] and model["out_bias"])
        if model["qk_norm"]:
            self.q_norm, self.k_norm = nn.RMSNorm(dim, eps=EPSILON), nn.RMSNorm(dim, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (dense(x).unflatten(-1, (-1, self.model["head_dim"])) for dense in (self.q, self.k, self.v))
        if self.model["qk_norm"]:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.model["positions"] == "rotary":
            q, k = turn(q), turn(k)
        mixed = self.run("core_attn", attend, *(each.transpose(1, 2) for each in (q, k, v)))
        return self.out(mixed.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each query's mix of the values at and before it; all [batch, heads, sequence, head_dim]."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def turn(x: Tensor) -> Tensor:
    """x [batch, sequence, heads, head_dim] with its pairs (i, i + head_dim / 2) turned by an angle that grows with the position."""
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[1], device=x.device)[:, None, None] * rates
    a, b, cos, sin = x[..., :half], x[..., half:], angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Mlp(Block):
    """A dense layer up, a nonlinearity, perhaps with a gate, and a dense layer down."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        hidden, wide, bias = model["hidden_size"], model["ffn_hidden_size"], model["bias"] and model["mlp_bias"]
        self.up, self.down = nn.Linear(hidden, wide, bias=bias), nn.Linear(wide, hidden, bias=bias)
        if model["activation"] in ("swiglu", "geglu"):
            self.gate = nn.Linear(hidden, wide, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.model["activation"]]
        return self.down(activate(self.gate(x)) * self.up(x) if "gate" in self._modules else activate(self.up(x)))


class Head(Block):
    """The stream to logits [batch, sequence, vocab_size]."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.norm = self.new_norm(model["hidden_size"])
        self.word = nn.Linear(model["hidden_size"], model["vocab_size"], bias=False)

    def compute(self, x: Tensor) -> Tensor:
        return self.word(self.norm(x))


class Features(Block):
    """Rows of features to hidden units."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.input = nn.Linear(model["num_features"], model["hidden_size"], bias=model["bias"])

    def compute(self, features: Tensor) -> Tensor:
        return self.input(features)


class HiddenLayer(Block):
    """Two dense layers of a plain MLP, each with its nonlinearity before it."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.up = nn.Linear(model["hidden_size"], model["ffn_hidden_size"], bias=model["bias"])
        self.down = nn.Linear(model["ffn_hidden_size"], model["hidden_size"], bias=model["bias"])

    def compute(self, x: Tensor) -> Tensor:
        activate = ACTIVATIONS[self.model["activation"]]
        return self.down(activate(self.up(activate(x))))


class Labels(Block):
    """Hidden units to the logits of labels."""

    def __init__(self, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        self.label = nn.Linear(model["hidden_size"], model["num_labels"], bias=model["bias"])

    def compute(self, x: Tensor) -> Tensor:
        return self.label(ACTIVATIONS[self.model["activation"]](x))


class Units(Block):
    """A dense layer of a chain of any widths, behind the nonlinearity of what it takes;
    where there are no hidden units, nothing lies before the labels'."""

    def __init__(self, name: str, model: Mapping[str, Any], recompute: tuple[str, ...]) -> None:
        super().__init__(model, recompute)
        units = model["units"]
        widths, ends = [model["num_features"], *units, model["num_labels"]], {"embedding": (0, "input"), "head": (len(units), "label")}
        self.place, self.path = ends[name] if name in ends else (int(name.removeprefix("layer")) + 1, "dense")
        behind = ["linear", *(model["activations"] or [model["activation"]] * len(units))]
        self.activate = ACTIVATIONS[behind[self.place]]
        self.is_head, is_empty = name == "head", name == "embedding" and not units
        dense = nn.Identity() if is_empty else nn.Linear(widths[self.place], widths[self.place + 1], bias=model["bias"])
        self.add_module(self.path, dense)

    def compute(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.path)(self.activate(x))
