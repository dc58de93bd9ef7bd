"""How many weights a model has, counted from the ops that use them; the vocabulary is not padded."""

from __future__ import annotations

import math

from parsim.model.families import blocks_of
from parsim.model.op import Block
from parsim.model.spec import ModelSpec


def total(model: ModelSpec) -> int:
    """Weights of the whole model; a tied embedding counts once.

    >>> total(ModelSpec("gpt2", 12, 768, 3072, 12, 12, 64, 50257, 1024))  # as its released checkpoint has
    124439808
    """
    embedding, layer, head = (of_block(block, model) for block in blocks_of(model.architecture))
    shared = model.vocab_size * model.hidden_size if model.tied_embedding else 0
    return embedding + model.num_layers * layer + head - shared


def without_input(model: ModelSpec) -> int:
    """Weights that multiply every token: layers, final norm and head, but not what labels a text by one token."""
    _, layer, head = blocks_of(model.architecture)
    return model.num_layers * of_block(layer, model) + (0 if model.head == "text" else of_block(head, model))


def of_features(model: ModelSpec) -> int:
    """Weights that multiply the features of every row; 0 where tokens are looked up."""
    embedding, _, _ = blocks_of(model.architecture)
    return of_block(embedding, model) if model.num_features else 0


def of_block(block: Block, model: ModelSpec) -> int:
    """Weights that a block reads, those that it shares with another included."""
    extents = model.extents
    dims = {name: term for op in block.ops for name, term in zip(op.inputs, op.terms[0], strict=True)}
    return sum(math.prod(extents[dim] for dim in dims[name]) for name in block.weights)
