"""Decoders and encoders: attention and MLP in a layer, tokens in, a vocabulary or labels out.  Their ops: blocks.py and ends.py."""

from __future__ import annotations

from msgspec.structs import replace

from parsim.model.blocks import transformer_layer
from parsim.model.ends import embedding, head
from parsim.model.families import FAMILIES, Blocks, Family, by_name
from parsim.model.form import LayerForm
from parsim.model.op import Block
from parsim.model.transformer import TransformerArchitecture, TransformerSpec


def blocks(kind: TransformerArchitecture, attention: str, fusions: tuple[str, ...]) -> Blocks:
    """Embedding, layers and head."""
    layers, alike = dict[LayerForm, Block](), dict[LayerForm, Block]()
    for form in kind.layers:
        but_loads = form._replace(loads=0)
        if but_loads not in alike:
            alike[but_loads] = transformer_layer(form, kind, attention=attention, fusions=fusions)
        layers[form] = replace(alike[but_loads], name=form.name, loads=form.loads, like=alike[but_loads].name)
    later = layers[kind.later] if kind.later else None
    last = head(kind, fusions=fusions, later=later)
    return by_name(embedding(kind, fusions=fusions), *layers.values(), replace(last, loads=later.loads) if later else last)


FAMILIES.register("transformer", Family(TransformerSpec, blocks))
