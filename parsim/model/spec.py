"""What a model is, in the numbers its paper prints.  The ops that compute it stand in blocks.py and ends.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a decoder-only language model.

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
    max_positions: int  # rows of the learned position table
    activation: str = "gelu"  # gelu | relu
    tied_embedding: bool = True
    dropout: float = 0.1  # 0 leaves out masks and their memory
    source: str = ""

    @property
    def queries_per_kv_head(self) -> int:
        """Query heads that share a key and value head: 1 without grouped queries."""
        return self.num_heads // self.num_kv_heads
