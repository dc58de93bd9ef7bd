"""Decoders and encoders: attention and MLP in a layer, tokens in, a vocabulary or labels out.  Their ops: blocks.py and ends.py."""

from __future__ import annotations

from parsim.model.blocks import transformer_layer
from parsim.model.ends import embedding, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.transformer import TransformerArchitecture, TransformerSpec


def blocks(kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """Embedding, layers and head."""
    layers = {form: transformer_layer(form, kind, attention=attention, fusions=fusions) for form in kind.layers}
    later = layers[kind.later] if kind.later else None
    return by_name(embedding(kind, fusions=fusions), *layers.values(), head(kind, fusions=fusions, later=later))


FAMILIES.register("transformer", Family(TransformerSpec, blocks))
