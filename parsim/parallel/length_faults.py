"""Which models train on sequences of several lengths."""

from __future__ import annotations

from collections.abc import Iterator

from parsim.model.spec import ModelSpec
from parsim.model.transformer import TransformerSpec
from parsim.parallel.plan import Batch


def length_faults(model: ModelSpec, batch: Batch) -> Iterator[tuple[str, str]]:
    """Why a batch of several lengths cannot be, each with the key that is wrong."""
    if not batch.packing and not batch.lengths:
        return
    if not batch.packing or not batch.lengths:
        said = "goes with packing: packed or padded" if batch.lengths else "goes with lengths: a list, file:NAME, or a distribution"
        yield "lengths" if batch.lengths else "packing", said
        return
    if model.image_tokens:
        yield "packing", f'is not built beside images, which model "{model.name}" reads; leave packing and lengths out'
    elif not isinstance(model, TransformerSpec) or model.has_encoder or not model.causal or model.head != "next_token":
        yield "packing", f'is built for models that predict the next token, and model "{model.name}" is none; leave packing and lengths out'
    elif model.mtp_layers:
        yield "packing", "is not built beside mtp_layers, whose labels go over the ends of documents; set mtp_layers = 0"
