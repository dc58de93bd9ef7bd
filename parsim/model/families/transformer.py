"""Decoders and encoders: attention and MLP in a layer, tokens in, a vocabulary or labels out.  Their ops: blocks.py and ends.py."""

from __future__ import annotations

from parsim.model.blocks import transformer_layer
from parsim.model.ends import embedding, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.transformer import TransformerArchitecture, TransformerSpec


def blocks(kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """Embedding, layers, those without experts first, and head."""
    there = {"layer": kind.dense_layers, "expert_layer": kind.experts}
    layers = (transformer_layer(name, kind, attention=attention, fusions=fusions) for name, is_there in there.items() if is_there)
    return by_name(embedding(kind, fusions=fusions), *layers, head(kind, fusions=fusions))


FAMILIES.register("transformer", Family(TransformerSpec, blocks))
