"""What a model is, in the numbers its paper prints.  The ops that compute it stand in blocks.py and ends.py."""

from __future__ import annotations

from dataclasses import dataclass

Layout = tuple[tuple[str, int], ...]  # (block, copies) in the order in which a model runs them; between the ends: its layers


@dataclass(frozen=True, slots=True)
class Architecture:
    """Which ops the blocks of a model have, whatever their sizes."""

    norm: str
    positions: str
    activation: str
    bias: bool
    qkv_bias: bool
    dropout: bool
    causal: bool = True
    norm_last: bool = False  # norms behind the residual adds
    token_types: bool = False
    head: str = "next_token"
    family: str = "transformer"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a transformer (a decoder-only language model, or an encoder), or of an MLP, which leaves what it lacks at 0.

    Source: the symbols of Korthikanti et al. 2022 (arXiv:2205.05198), table 1: L, h, a, v; the rest from the model's own paper.

    >>> tiny = ModelSpec("tiny", 2, 8, 32, 2, 2, 4, 64, 16)
    >>> tiny.queries_per_kv_head
    1
    """

    name: str
    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int  # as published; padding is the stack's rule
    max_positions: int  # rows of the position table, where positions are learned
    activation: str = "gelu"  # gelu | relu | squared_relu | swiglu (gated: its MLP has two up projections)
    tied_embedding: bool = True
    dropout: float = 0.1  # 0 leaves out masks and their memory
    source: str = ""
    norm: str = "layer_norm"  # layer_norm | rms_norm
    positions: str = "learned"  # learned | rotary
    bias: bool = True  # of the attention output and the MLP
    qkv_bias: bool = True  # of queries, keys and values
    causal: bool = True  # false: every token sees every other, as in an encoder
    norm_last: bool = False  # norms behind the residual adds and the embedding, none before the head: Vaswani et al. 2017
    num_token_types: int = 0  # rows of a table that is added to the embedding
    # next_token | masked_token (a dense layer before the logits, a bias on them) | text, token or row (a label each, untied)
    head: str = "next_token"
    num_labels: int = 2  # that a text, a token or a row may have
    family: str = "transformer"  # a name of parsim.model.families
    num_features: int = 0  # of a row, where features enter and not tokens

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads that share a key and value head: 1 without grouped queries, 0 without attention."""
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0

    @property
    def architecture(self) -> Architecture:
        """What decides which ops there are."""
        return Architecture(
            self.norm,
            self.positions,
            self.activation,
            self.bias,
            self.qkv_bias,
            self.dropout > 0,
            self.causal,
            self.norm_last,
            self.num_token_types > 0,
            self.head,
            self.family,
        )

    @property
    def layout(self) -> Layout:
        """The first block stands on the first stage and the last on the last; those between are dealt out to all stages."""
        return ("embedding", 1), ("layer", self.num_layers), ("head", 1)

    @property
    def extents(self) -> dict[str, int]:
        """Extent of every dim that the model alone decides; the vocabulary is not padded."""
        return {
            "D": self.hidden_size,
            "K": self.num_kv_heads,
            "R": self.queries_per_kv_head,
            "C": self.head_dim,
            "F": self.ffn_hidden_size,
            "V": self.vocab_size,
            "H": self.hidden_size,
            "U": self.num_token_types,
            "Y": self.num_labels,
            "I": self.num_features,
            "P": self.max_positions,
        }
