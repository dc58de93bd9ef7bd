"""Decoders and encoders: attention and MLP in a layer, tokens in, a vocabulary or labels out.  Their ops: blocks.py and ends.py."""

from __future__ import annotations

from msgspec.structs import replace

from parsim.model.blocks import transformer_layer
from parsim.model.dims import FULL
from parsim.model.ends import embedding, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.form import LayerForm
from parsim.model.op import Block, with_dims
from parsim.model.transformer import TransformerArchitecture, TransformerSpec


def blocks(kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """Embedding, layers and head."""
    layers, alike = dict[LayerForm, Block](), dict[LayerForm, Block]()
    for form in kind.layers:
        but_loads = form._replace(loads=0)
        if but_loads not in alike:
            alike[but_loads] = _layer(form, kind, attention, fusions)
        layers[form] = replace(alike[but_loads], name=form.name, loads=form.loads, like=alike[but_loads].name)
    later = layers[kind.later] if kind.later else None
    last = head(kind, fusions=fusions, later=later)
    return by_name(embedding(kind, fusions=fusions), *layers.values(), replace(last, loads=later.loads) if later else last)


def _layer(form: LayerForm, kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Block:
    """One with full attention may have heads of its own, and make values of what keys are made of."""
    if not (form.full and kind.full_heads):
        return transformer_layer(
            form, replace(kind, keys_as_values=form.full and kind.keys_as_values), attention=attention, fusions=fusions
        )
    found = transformer_layer(form, replace(kind, partly_turned=kind.full_partly_turned), attention=attention, fusions=fusions)
    return replace(found, ops=tuple(with_dims(found.ops, FULL)))


FAMILIES.register("transformer", Family(TransformerSpec, blocks))
