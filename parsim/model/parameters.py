"""How many weights a model has, counted from the ops that use them; the vocabulary is not padded."""

from __future__ import annotations

import math

from parsim.model.blocks import transformer_layer
from parsim.model.ends import embedding, head
from parsim.model.op import Block
from parsim.model.spec import ModelSpec


def total(model: ModelSpec) -> int:
    """Weights of the whole model; a tied embedding counts once.

    >>> total(ModelSpec("gpt2", 12, 768, 3072, 12, 12, 64, 50257, 1024))  # as its released checkpoint has
    124439808
    """
    shared = model.vocab_size * model.hidden_size if model.tied_embedding else 0
    beside = of_block(head(model.architecture, tied=False), model) if model.head == "text" else 0
    return without_input(model) + beside + of_block(embedding(model.architecture, fusions=()), model) - shared


def without_input(model: ModelSpec) -> int:
    """Weights that multiply every token: layers, final norm and head, but not what labels a text by one token."""
    last = 0 if model.head == "text" else of_block(head(model.architecture, tied=False), model)
    layer = transformer_layer(model.architecture, attention="flash", fusions=())
    return model.num_layers * of_block(layer, model) + last


def of_block(block: Block, model: ModelSpec) -> int:
    """Weights that a block reads, those that it shares with another included."""
    extents = model.extents
    dims = {name: term for op in block.ops for name, term in zip(op.inputs, op.terms[0], strict=True)}
    return sum(math.prod(extents[dim] for dim in dims[name]) for name in block.weights)
